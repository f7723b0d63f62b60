"""Models, tokenizers and processors that are loaded by Python code of their own, which must be trusted."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from cocktail_hub.checkpoint.model_files import read_json
from cocktail_hub.errors import IncompatibleError, SourceError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cocktail_hub.hub import Hub, HubFiles
    from cocktail_hub.recipe import Recipe
    from cocktail_hub.resolve.resolve import ResolvedModel

_CLASS_KEYS = {
    "AutoFeatureExtractor": "feature_extractor_type",
    "AutoImageProcessor": "image_processor_type",
    "AutoProcessor": "processor_class",
    "AutoTokenizer": "tokenizer_class",
    "AutoVideoProcessor": "video_processor_type",
}
"""Key of `auto_map` -> key of the class beside it."""


def pin_code(configs: Iterable[Any], recipe: Recipe, hub: Hub) -> dict[str, HubFiles | None]:
    """Find the code in other repos that configs name as 'org/repo--file.Class' (`auto_map`).

    Returns:
        Repo -> its files at the commit that the recipe's evidence has, or else at the newest; `None` if it cannot be
        found.
    """
    maps = [named for c in configs if isinstance(c, Mapping) and isinstance(named := c.get("auto_map"), dict)]
    entries = [entry for named in maps for entry in named.values()]
    classes = [str(c) for entry in entries for c in (entry if isinstance(entry, list) else [entry])]  # slow and fast
    pinned = recipe.code
    found: dict[str, HubFiles | None] = {}
    for repo in dict.fromkeys(code.split("--")[0] for code in classes if "--" in code):
        found[repo] = None
        with suppress(SourceError):
            found[repo] = hub.files(repo, hub.resolve(repo, pinned.get(repo)))
    return found


def refuse_own_code(giver: ResolvedModel, path: str) -> None:
    """Raise IncompatibleError if only the code that a config names (see `code_configs`) has the class in it."""
    settings = read_json(giver.files, path)
    named = settings.get("auto_map") if isinstance(settings, dict) else None
    for auto, code in (named if isinstance(named, dict) else {}).items():
        own = settings.get(_CLASS_KEYS.get(auto, ""))
        if auto in _CLASS_KEYS and not _in_transformers(own):
            classes = [str(entry) for entry in (code if isinstance(code, list) else [code])]  # a slow and a fast one
            place = next((f"'{c.split('--')[0]}'" for c in classes if "--" in c), "its own repo")
            raise IncompatibleError(
                f"'{giver.files.name}' gives the mix {own or 'a class'}, which transformers lacks: it is Python code "
                f"from {place} (`auto_map` in {path}).\n"
                "Loading it would run that code on this machine.\n"
                "Read the code, then pass `trust_remote_code=True` (`--trust-remote-code`) if you trust it, or name "
                "another model under `tokenizer`.",
                model=giver.files.name,
            )


def _in_transformers(name: Any) -> bool:
    import transformers

    return isinstance(name, str) and not {name, name.removesuffix("Fast")}.isdisjoint(dir(transformers))

"""Everything in the folder of a mix but its weights: config, tokenizer, processor, modules, recipe."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from cocktail_hub.checkpoint.model_files import NOTICES
from cocktail_hub.recipe.redact import public_recipe
from cocktail_hub.resolve.source import RECIPE_FILE
from cocktail_hub.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cocktail_hub.compat import CompatibilityReport
    from cocktail_hub.compat.check import Model
    from cocktail_hub.recipe import ResolvedRecipe
    from cocktail_hub.resolve.resolve import ResolvedModel

CONFIG_FILES = ("config.json", "generation_config.json")
"""Files that go with the config, in the transformer's folder; modules have a config.json of their own."""
TOKENIZER_FILES = (
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "*.codes",
    "*.tokenizer",
    "*_vocab.json",
    "dict.txt",
    "emoji.json",
    "byte_maps.json",
    "word_*.json",
    "tekken.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "*.model",
    "*.spm",
    "*.tiktoken",
    "*.bpe",
    "chat_template*",
    "normalizer.json",
    "*processor_config.json",
)
"""Names of files that go with the tokenizer or processor."""


def copy_small_files(report: CompatibilityReport, folder: Path, *, code: bool) -> None:
    """Copy the small files of the ingredients that give them into the folder of the mix.

    Args:
        report: the models and which of them gives config and tokenizer.
        folder: where to write.
        code: whether to take the models' own Python files along.
    """
    first = report.models[report.first]
    for owner, path in _rest(first, code=code):
        _write(folder / path, owner.files.read(path))
    for group in ("config", "tokenizer"):
        owner = _giver(report, group)
        for path in _paths(owner, group):
            _write(folder / moved(path, owner.model_files.main, first.main), owner.files.read(path))


def write_recipe(
    resolved: ResolvedRecipe, report: CompatibilityReport, folder: Path, max_shard_size: int | str
) -> None:
    """Write `recipe.json`, and say in config.json what the model was made of and into which files it was cut.

    A config.json is copied by whoever saves the model, so the recipe in it is without the paths of this machine.
    """
    write_json(folder / RECIPE_FILE, resolved.to_dict())
    path = folder / report.models[report.first].main / "config.json"
    if not path.is_file():
        return
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    donor = report.models[report.donor("config")]
    if donor.adapted:
        config |= donor.config
    config.pop("_name_or_path", None)
    if not any(path.parent.glob("*.py")):
        config.pop("auto_map", None)  # it names code that is not there; transformers has the class itself
    made_of = {
        "version": VERSION,
        "digest": resolved.digest,
        "max_shard_size": max_shard_size,
        "recipe": public_recipe(resolved).to_dict(),
    }
    write_json(path, config | _dtype(resolved, report, config) | {"cocktail": made_of})


def write_json(path: Path, value: Any) -> None:
    """Write JSON as the Hub's own libraries do."""
    _write(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def _dtype(resolved: ResolvedRecipe, report: CompatibilityReport, config: dict[str, Any]) -> dict[str, Any]:
    """`dtype` of the config: what the recipe says, or the first ingredient's, whoever gives the rest of the config."""
    if resolved.dtype != "auto":
        dtype: Any = resolved.dtype
    elif report.donor("config") != report.first:
        first: Mapping[str, Any] = report.models[report.first].config
        dtype = first.get("dtype", first.get("torch_dtype"))
    else:
        return {}
    config.pop("torch_dtype", None)
    return {"dtype": dtype} if dtype else {}


def _rest(first: Model, *, code: bool) -> Iterator[tuple[ResolvedModel, str]]:
    """Files of the first ingredient that go with neither config nor tokenizer, and whose they are.

    An adapter with modules of its own gives its own, but the licence and the code are those of the model it adapts.
    """
    if first.home is not first.body:
        notices = (path for path in _paths(first.body, "rest") if _is_notice(path))
        yield from ((first.body, path) for path in notices)
    yield from ((first.home, path) for path in _paths(first.home, "rest"))
    yield from ((first.body, path) for path in (first.body.model_files.code if code else ()))


def _is_notice(path: str) -> bool:
    return "/" not in path and any(fnmatchcase(path, pattern) for pattern in NOTICES)


def _giver(report: CompatibilityReport, group: str) -> ResolvedModel:
    """Who gives the files: the ingredient itself before the model that it adapts."""
    model = report.models[report.donor(group)]
    own = group == "tokenizer" and any(_paths(model.located, group))
    return model.located if own else model.body


def _paths(owner: ResolvedModel, group: str) -> Iterator[str]:
    return (path for path in owner.model_files.carried if _group(path, owner.model_files.main) == group)


def _group(path: str, main: str) -> str:
    """Whose file it is, by name: `config`, `tokenizer`, or `rest`, which always comes from the first ingredient."""
    name, parent = PurePosixPath(path).name, PurePosixPath(path).parent
    if parent.name.endswith("chat_templates") or any(fnmatchcase(name, pattern) for pattern in TOKENIZER_FILES):
        return "tokenizer"
    return "config" if name in CONFIG_FILES and parent == PurePosixPath(main) else "rest"


def moved(path: str, source: str, target: str) -> PurePosixPath:
    """Where a file of the transformer's folder goes: old layouts have it in `0_Transformer`, new ones in the root."""
    inside = PurePosixPath(path).is_relative_to(source)
    return PurePosixPath(target, PurePosixPath(path).relative_to(source)) if inside else PurePosixPath(path)


def _write(target: Path, content: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)

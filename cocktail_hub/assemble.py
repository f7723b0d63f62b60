"""Everything in the folder of a mix but its weights: config, tokenizer, processor, modules, recipe."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from cocktail_hub.origin import RECIPE_FILE
from cocktail_hub.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cocktail_hub.checking import Checked
    from cocktail_hub.recipe import ResolvedRecipe
    from cocktail_hub.resolve import Located

CONFIG_FILES = ("config.json", "generation_config.json")
TOKENIZER_FILES = (
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "*.model",
    "*.spm",
    "*.tiktoken",
    "chat_template*",
    "normalizer.json",
    "*processor_config.json",
)
"""Names of files that go with the tokenizer or processor."""


def carry_over(checked: Checked, folder: Path, *, code: bool) -> None:
    """Copy the small files of the ingredients that give them into the folder of the mix.

    Args:
        checked: the models and which of them gives config and tokenizer.
        folder: where to write.
        code: whether to take the models' own Python files along.
    """
    config, tokenizer = checked.donor("config"), checked.donor("tokenizer")
    first = checked.models[checked.first].body
    for path in (*first.contents.carried, *(first.contents.code if code else ())):
        if _group(path) == "rest":
            _copy(first, path, folder)
    for index, group in ((config, "config"), (tokenizer, "tokenizer")):
        for path, owner in _files_of(checked, index, group).items():
            _copy(owner, path, folder)


def write_recipe(resolved: ResolvedRecipe, checked: Checked, folder: Path, max_shard_size: int | str) -> None:
    """Write `recipe.json`, and say in config.json what the model was made of and into which files it was cut."""
    recipe = resolved.to_dict()
    (folder / RECIPE_FILE).write_text(json.dumps(recipe, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    path = folder / checked.models[checked.first].body.contents.main / "config.json"
    if path.is_file():
        config = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(_marked(config, resolved, max_shard_size), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _marked(config: Mapping[str, Any], resolved: ResolvedRecipe, max_shard_size: int | str) -> dict[str, Any]:
    """The config with the recipe in it; `dtype` as the recipe says."""
    marked = {key: value for key, value in config.items() if key != "_name_or_path"}
    if resolved.dtype != "auto":
        marked.pop("torch_dtype", None)
        marked["dtype"] = resolved.dtype
    marked["cocktail"] = {
        "version": VERSION,
        "digest": resolved.digest,
        "max_shard_size": max_shard_size,
        "recipe": resolved.to_dict(),
    }
    return marked


def _files_of(checked: Checked, index: int, group: str) -> dict[str, Located]:
    """Path -> who gives it: the model itself before the base of an adapter."""
    model = checked.models[index]
    found = {path: model.body for path in model.body.contents.carried if _group(path) == group}
    if model.adapted and group == "tokenizer":
        own = {path: model.located for path in model.located.contents.carried if _group(path) == group}
        return own or found
    return found


def _group(path: str) -> str:
    name = PurePosixPath(path).name
    folder = str(PurePosixPath(path).parent)
    if folder.endswith("chat_templates") or any(fnmatchcase(name, pattern) for pattern in TOKENIZER_FILES):
        return "tokenizer"
    return "config" if path in CONFIG_FILES else "rest"


def _copy(owner: Located, path: str, folder: Path) -> None:
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(owner.files.read(path))

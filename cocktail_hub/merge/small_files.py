"""All files of a mix but its weights: config, tokenizer, processor, modules, recipe."""

from __future__ import annotations

import json
import re
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from cocktail_hub.checkpoint.model_files import NOTICES, read_chain, read_json
from cocktail_hub.checkpoint.reader import NestedFiles
from cocktail_hub.compat.vocabulary import FILE_GROUPS, code_configs, group_of, inner_template, template_files
from cocktail_hub.errors import IncompatibleError
from cocktail_hub.methods.dtypes import TORCH_NAMES
from cocktail_hub.resolve.source import RECIPE_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cocktail_hub.compat import CompatibilityReport, Model
    from cocktail_hub.hub import HubFiles
    from cocktail_hub.recipe import Recipe
    from cocktail_hub.resolve.resolve import ResolvedModel

TOKENIZER_FILES = tuple(
    pattern for group, patterns in FILE_GROUPS.items() if group != "generation" for pattern in patterns
)
"""Name patterns of the files that go with the tokenizer or processor."""

_POOLING_FLAGS = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
"""`pooling_mode` of sentence-transformers -> its flag before version 6."""


def copy_small_files(report: CompatibilityReport, folder: Path, *, code: bool) -> None:
    """Copy the small files of the ingredients into the folder of the mix.

    Config, tokenizer, chat template and processor come from the ingredients that the recipe names, each whole from one
    giver (`CompatibilityReport.giver`), everything else from the first. An adapter has its own modules, if it has any;
    licence and code are those of the model that it adapts. With `code`, Python files are copied, too: of the first
    model, of who gives tokenizer and processor, and of the repos that their configs name. Without, the configs name
    such files in the giver's repo, if at all.

    Raises:
        IncompatibleError: code of two repos has the same file name.
    """
    first = report.models[report.first]
    givers = {group: report.giver(group) for group in FILE_GROUPS}
    with_code = [giver for giver in (givers["tokenizer"], givers["processor"], first.body) if giver and code]
    copied = [(model, path) for model in with_code for path in model.model_files.code]
    if first.home is not first.body:
        top = (path for path in _carried(first.body, "") if "/" not in path)
        copied += [(first.body, path) for path in top if any(fnmatchcase(path, pattern) for pattern in NOTICES)]
    copied += [(first.home, path) for path in _carried(first.home, "")]
    for model, path in copied:
        write_file(folder / path, model.files.read(path))
    for group, giver in {"config": report.models[report.donor("config")].body, **givers}.items():
        if giver:
            naming_code = () if code else code_configs(giver)
            for path in _carried(giver, group):
                target = folder / relocated(path, giver.model_files.main, first.main)
                write_file(target, giver.files.read(path))
                if path in naming_code:
                    _name_code_elsewhere(target, giver, path)
    for files in report.code.values() if code else ():
        bring_code(files, folder / first.main)
    _add_pooling_flags(first, folder)
    _write_own_tokens(report, folder / first.main)
    template = givers["template"]
    if template and template is not givers["tokenizer"] and not template_files(template):
        for name, text in inner_template(template).items():  # to files, which transformers prefers
            inside = "chat_template.jinja" if name == "default" else f"additional_chat_templates/{name}.jinja"
            write_file(folder / first.main / inside, text.encode())


def bring_code(code: HubFiles, folder: Path) -> None:
    """Copy the Python files of a repo at its commit, and let the configs that name its classes name the copies.

    Loaded from a folder, such a name stands for the newest version, whatever that is. Without such a name, nothing is
    copied.

    Raises:
        IncompatibleError: code of two repos has the same file name.
    """
    configs = {path: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*config.json")}
    naming = {path: config for path, config in configs.items() if isinstance(config.get("auto_map"), dict)}
    if not any(f'"{code.name}--' in json.dumps(config["auto_map"]) for config in naming.values()):
        return
    beside = set(re.findall(r'"(\w+)\.\w+"', json.dumps([config["auto_map"] for config in naming.values()])))
    for name in (name for name in code.sizes if name.endswith(".py") and "/" not in name):
        target, content = folder / name, code.read(name)
        if target.stem in beside and target.is_file() and target.read_bytes() != content:
            raise IncompatibleError(
                f"The mix needs Python code from '{code.name}', and other code in a file of the same name, '{name}'.\n"
                "Only one of them can be beside its config.json.\n"
                f"Copy the code of '{code.name}' into the ingredient, and let its `auto_map` name the copy.",
                model=code.name,
            )
        write_file(target, content)
    for path, config in naming.items():
        named = json.dumps(config["auto_map"]).replace(f'"{code.name}--', '"')
        write_json(path, config | {"auto_map": json.loads(named)})


def _write_own_tokens(report: CompatibilityReport, folder: Path) -> None:
    """Write what no model gives: a chat template, a joined tokenizer, ids in generation_config.json."""
    if report.recipe.own_template:
        from cocktail_hub.merge.chat_templates import BUILT_IN

        text = BUILT_IN.get(report.recipe.chat_template, report.recipe.chat_template)
        write_file(folder / "chat_template.jinja", text.encode())
    tokens, generation = report.tokens, folder / "generation_config.json"
    if tokens and generation.is_file():
        told = tokens.rows[report.donor("config")].told(json.loads(generation.read_text(encoding="utf-8")))
        write_json(generation, told)
    if not tokens or not tokens.written:
        return
    write_file(folder / "tokenizer.json", tokens.written)
    for pattern in ("vocab.*", "merges.txt", "added_tokens.json", "*.model"):  # of slow tokenizers, without the others'
        for path in folder.glob(pattern):
            path.unlink()
    settings = folder / "tokenizer_config.json"
    config = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else {}
    if "added_tokens_decoder" in config:
        added = json.loads(tokens.written)["added_tokens"]
        config["added_tokens_decoder"] = {
            str(token["id"]): {key: value for key, value in token.items() if key != "id"} for token in added
        }
        write_json(settings, config)


def _add_pooling_flags(first: Model, folder: Path) -> None:
    """Say how embeddings are pooled as sentence-transformers did before version 6, too: other programs read that."""
    for module in read_chain(first.home.files):
        path = folder / str(module["path"]) / "config.json"
        if not str(module["type"]).endswith(".Pooling") or not path.is_file():
            continue
        config = json.loads(path.read_text(encoding="utf-8"))
        modes = config.get("pooling_mode")
        if modes and not config.keys() & set(_POOLING_FLAGS.values()):
            chosen = [modes] if isinstance(modes, str) else modes
            flags = {flag: mode in chosen for mode, flag in _POOLING_FLAGS.items()}
            write_json(path, flags | config)  # the flags first: vLLM takes the first key that is true


def write_recipe(resolved: Recipe, report: CompatibilityReport, folder: Path) -> None:
    """Write `recipe.json`, and make config.json that of the mix.

    The recipe is not in config.json: whoever trains the loaded model and saves it would copy it. The config of a module
    that is not a transformer stays as it is.
    """
    write_json(folder / RECIPE_FILE, resolved.to_dict())
    first, donor = report.models[report.first], report.models[report.donor("config")]
    path = folder / first.main / "config.json"
    if not path.is_file():
        return
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if donor.adapted or donor.located.reference.layer_range:
        config |= donor.config
    if not config.keys() & {"model_type", "architectures"}:
        return  # of another module, whose class takes only the keys that it knows
    if rows := report.components[0].rows:
        config = rows[report.donor("config")].told(config)
    for key in (
        "_name_or_path",
        "transformers_weights",
        "cocktail",
    ):  # the mix has weight files and a recipe of its own
        config.pop(key, None)
    if not any(path.parent.glob("*.py")):
        _drop_own_code(config)
    nested = isinstance(first.body.files, NestedFiles)
    if resolved.dtype != "auto" or donor is not first or nested:
        config.pop("torch_dtype", None)
        dtype = first.config.get("dtype", first.config.get("torch_dtype"))
        if resolved.dtype != "auto":
            dtype = resolved.dtype
        elif nested:
            stored = (spec.stored for spec in report.components[0].specs[report.first].values())
            dtype = TORCH_NAMES[Counter(stored).most_common(1)[0][0]]
        config |= {"dtype": dtype} if dtype else {}
    write_json(path, config)


def _name_code_elsewhere(target: Path, giver: ResolvedModel, path: str) -> None:
    """Let `auto_map` of a copied config name code in the giver's repo; code of a local model is left behind."""
    settings = read_json(giver.files, path)
    named = settings.get("auto_map") if isinstance(settings, dict) else None
    if not isinstance(named, dict):
        return
    if giver.reference.local:
        _drop_own_code(settings)
    else:
        settings["auto_map"] = {auto: _in_repo(giver.reference.model, code) for auto, code in named.items()}
    write_json(target, settings)


def _in_repo(repo: str, code: Any) -> Any:
    """The same class, or classes of a slow and a fast tokenizer, as others name it that is in a repo."""
    if isinstance(code, list):
        return [_in_repo(repo, entry) for entry in code]
    return f"{repo}--{code}" if isinstance(code, str) and "--" not in code else code


def _drop_own_code(config: dict[str, Any]) -> None:
    """Remove what `auto_map` says of code in the model's own repo; code of another one is 'org/repo--file.Class'."""
    named = config.pop("auto_map", None)
    kept = {auto: code for auto, code in named.items() if "--" in str(code)} if isinstance(named, dict) else {}
    if kept:
        config["auto_map"] = kept


def write_json(path: Path, value: Any) -> None:
    """Write JSON in the style of the Hub's own libraries."""
    write_file(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def write_file(path: Path, content: bytes) -> None:
    """Write a file, and create its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def relocated(path: str, source: str, target: str) -> PurePosixPath:
    """Path in the mix of a file in a transformer's folder: `0_Transformer` in old layouts, the root in new ones."""
    inside = PurePosixPath(path).is_relative_to(source)
    return PurePosixPath(target, PurePosixPath(path).relative_to(source)) if inside else PurePosixPath(path)


def _carried(model: ResolvedModel, group: str) -> Iterator[str]:
    """Small files of a model that belong to a group: the transformer's `config`, one of FILE_GROUPS, or none."""
    config = PurePosixPath(model.model_files.main, "config.json")  # modules have a config.json of their own
    for path in model.model_files.carried:
        if ("config" if PurePosixPath(path) == config else group_of(path)) == group:
            yield path

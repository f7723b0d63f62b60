"""The files of a recipe repo: config, tokenizer, modules of sentence-transformers, examples. No big weights."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cocktail_hub.compat.check import check_models
from cocktail_hub.errors import PublishError
from cocktail_hub.merge.run import merge_modules
from cocktail_hub.merge.small_files import copy_small_files, write_json
from cocktail_hub.recipe.redact import public_recipe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cocktail_hub.compat import CompatibilityReport, ModelKind
    from cocktail_hub.evaluation.example_files import ExamplesFound
    from cocktail_hub.merge.options import MixOptions
    from cocktail_hub.recipe import Recipe

EXAMPLES_FILE = "examples"
"""Name, without suffix, that the examples get in a recipe repo."""
TOKENIZER_CONFIG = "tokenizer_config.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeRepo:
    """What was written."""

    recipe: Recipe
    """The recipe as it stands in the repo: its examples lie beside it."""
    kind: ModelKind
    """What the mix will be."""


def write_recipe_repo(
    recipe: Recipe,
    examples: ExamplesFound | None,
    folder: Path,
    options: MixOptions,
    *,
    labels: Mapping[str, Any],
    with_examples: bool,
) -> RecipeRepo:
    """Write everything that lets a recipe be loaded like a model.

    Args:
        recipe: every model pinned; its shares may be open.
        examples: where its examples are, if it has open weights.
        folder: where to write.
        options: how to talk to the Hub, and how to merge small modules.
        labels: `id2label` and `label2id` of the mix; empty for the ingredients' own.
        with_examples: whether to publish the file of examples.

    Raises:
        PublishError: others could not make the mix.
        CocktailError: the ingredients do not fit together.
    """
    refuse_local_models(recipe)
    report = check_models(recipe, options.hub, trust_remote_code=options.trust_remote_code)
    copy_small_files(report, folder, code=False)
    _write_modules(recipe, report, folder, options)
    main = folder / report.models[report.first].main
    _name_tokenizer_class(main)
    recipe = _bring_examples(recipe, folder, examples, wanted=with_examples)
    for component, native in _configs(report).items():
        shown = {key: native[key] for key in ("architectures", "id2label", "label2id") if native.get(key)}
        config = {"model_type": "cocktail", **shown, **labels, "recipe": public_recipe(recipe).to_dict()}
        write_json(folder / component / "config.json", config)
    return RecipeRepo(recipe=recipe, kind=_kind(report))


def refuse_local_models(recipe: Recipe) -> None:
    """Refuse a recipe that only works on this machine.

    Raises:
        PublishError: names the folder.
    """
    for reference in recipe.all_references:
        if reference.local:
            raise PublishError(
                f"The recipe names the local folder '{reference.model}'.\n"
                "Nobody else has that folder, so nobody could make the mix.\n"
                "Push that model to the Hub and name the repo, or publish the weights with `as_='merged'`."
            )


def _configs(report: CompatibilityReport) -> dict[str, Mapping[str, Any]]:
    """Folder -> what the recipe's config.json there takes over from the ingredients': the root, and every model.

    What libraries look at before they load a model has to be in the root, wherever the model lies.
    """
    natives = _native_parts(report)
    if len(natives) == 1:
        return {"": report.config, natives[0]: report.config}
    return {"": {}} | {component: report.models[report.first].config_in(component) for component in natives}


def _kind(report: CompatibilityReport) -> ModelKind:
    """What the mix will be; several transformers (a Router) are no one model of that library."""
    if len(_native_parts(report)) == 1:
        return report.kind
    return replace(report.kind, architecture="", model_type="")


def _native_parts(report: CompatibilityReport) -> list[str]:
    """Folders whose weights transformers loads: those with a `model_type`. Modules of other libraries have none."""
    first = report.models[report.first]
    return [component.folder for component in report.components if first.config_in(component.folder).get("model_type")]


def _write_modules(recipe: Recipe, report: CompatibilityReport, folder: Path, options: MixOptions) -> None:
    """Merged weights of what transformers does not load (Dense, static embeddings): those libraries want them there."""
    native = _native_parts(report)
    small = [component for component in report.components if component.folder not in native]
    if not small:
        return
    if recipe.weights is None:
        raise PublishError(
            f"The model has modules with weights of their own ('{small[0].folder or 'model.safetensors'}').\n"
            "A recipe repo holds them merged, and that takes shares, which this recipe leaves open.\n"
            "Compute them first (`cocktail score RECIPE -o OUT.yaml`), or publish the weights with `as_='merged'`."
        )
    merge_modules(report, small, folder, options)


def _bring_examples(recipe: Recipe, folder: Path, examples: ExamplesFound | None, *, wanted: bool) -> Recipe:
    """Put a file of examples beside the recipe, so that others can compute the shares.

    It is found by the rules of scoring: what a recipe from the Hub may not read, it cannot have published either.
    """
    weighting = recipe.weighting
    if weighting is None or examples is None or examples.on_hub or not isinstance(examples.content, Path):
        return recipe
    source = examples.content
    if not wanted:
        raise PublishError(
            f"The shares are computed from '{examples.source}', which is not to be published.\n"
            "Nobody else has that file, so nobody could compute them.\n"
            "Compute them first (`cocktail score RECIPE -o OUT.yaml`) and publish that, or let the examples go along."
        )
    target = folder / f"{EXAMPLES_FILE}{source.suffix}"
    target.write_bytes(source.read_bytes())
    return replace(recipe, weighting=replace(weighting, examples=target.name))


def _name_tokenizer_class(folder: Path) -> None:
    """Write down which class reads the tokenizer: transformers finds it by the model type, which a recipe has not.

    Called while the folder still has the ingredient's config.json. A tokenizer that cannot be loaded here (it needs
    code of its own, or a package that is missing) stays as it is.
    """
    from transformers import AutoTokenizer

    path = folder / TOKENIZER_CONFIG
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if "auto_map" in config or not (folder / "config.json").is_file():
        return
    try:
        name = type(AutoTokenizer.from_pretrained(str(folder), local_files_only=True)).__name__
    except (OSError, ValueError, ImportError):
        return
    if str(config.get("tokenizer_class", "")).removesuffix("Fast") != name.removesuffix("Fast"):
        write_json(path, config | {"tokenizer_class": name})

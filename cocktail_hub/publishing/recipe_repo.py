"""A recipe repo: config, tokenizer, sentence-transformers modules, examples and card; no large weights."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cocktail_hub.checkpoint.model_files import read_modules
from cocktail_hub.compat.check import check_models
from cocktail_hub.errors import PublishError
from cocktail_hub.merge.run import merge_modules
from cocktail_hub.merge.small_files import copy_small_files, write_json
from cocktail_hub.publishing.card.chart import chart_of
from cocktail_hub.publishing.card.facts import gather_facts
from cocktail_hub.publishing.card.header import merge_readme
from cocktail_hub.publishing.card.render import render_card
from cocktail_hub.publishing.class_names import name_classes
from cocktail_hub.recipe import as_resolved
from cocktail_hub.recipe.redact import public_notes, public_recipe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from huggingface_hub import CommitInfo

    from cocktail_hub.compat import CompatibilityReport
    from cocktail_hub.evaluation.example_files import ExamplesFound
    from cocktail_hub.hub import Publication
    from cocktail_hub.merge.options import MixOptions
    from cocktail_hub.recipe import Recipe

_NOT_OF_THE_MIX = frozenset({"_name_or_path", "auto_map", "cocktail", "transformers_weights", "transformers_version"})
"""Keys of an ingredient's config that are about its own files."""


def publish_recipe(
    recipe: Recipe,
    examples: ExamplesFound | None,
    publication: Publication,
    options: MixOptions,
    *,
    labels: Mapping[str, Any],
    with_examples: bool = True,
) -> CommitInfo:
    """Publish a pinned recipe with everything that its repo needs to be loaded like a model. Open weights stay open.

    `labels` are `id2label` and `label2id` of the mix, empty to use those of the ingredients; `with_examples` says if a
    file of examples may be published.

    Raises:
        PublishError: nobody else could make the mix, or the Hub did not accept it.
        CocktailError: the ingredients do not fit together.
    """
    refuse_local_models(recipe)
    report = check_models(recipe, options.hub, trust_remote_code=options.trust_remote_code)
    with tempfile.TemporaryDirectory(prefix="cocktail-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        native = _write_models(recipe, report, folder, options)
        if commits := report.recipe.code:
            recipe = replace(recipe, evidence={**(recipe.evidence or {}), "code": commits})
        recipe = _add_examples(recipe, folder, examples, wanted=with_examples)
        for component, config in native.items():
            shown = {key: config[key] for key in ("architectures", "id2label", "label2id") if config.get(key)}
            values = {"model_type": "cocktail", **shown, **labels, "recipe": public_recipe(recipe).to_dict()}
            if "model_type" in config:
                given = {} if recipe.dtype == "auto" else {"dtype": recipe.dtype}
                own = {key: value for key, value in config.items() if key not in {*shown, *given, *_NOT_OF_THE_MIX}}
                values["native"] = own | given
            write_json(folder / component / "config.json", values)
        charts = chart_of(recipe)
        for chart, content in charts.items():
            (folder / chart).write_bytes(content)
        files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        # Several transformers (a Router) are not one model of that library.
        kind = report.kind if "model_type" in native[""] else replace(report.kind, architecture="", model_type="")
        facts = gather_facts(
            recipe,
            kind,
            options.hub,
            form="recipe",
            results=publication.results,
            repo_id=publication.repo_id,
            tags=publication.tags,
            notes=public_notes(recipe, report.notes),
        )
        facts = replace(facts, chart=next(iter(charts), None))
        card = render_card(recipe if recipe.weights is None else as_resolved(recipe), facts)
        return options.hub.commit(replace(publication, files=files, readme=partial(merge_readme, card=card)))


def _write_models(
    recipe: Recipe, report: CompatibilityReport, folder: Path, options: MixOptions
) -> dict[str, Mapping[str, Any]]:
    """Write the small files of the ingredients, and merge the modules that transformers does not load.

    Returns folder -> the ingredients' config, for each model of transformers and for the root: libraries look into the
    root's config.json before they load a model, whichever folder the model is in.
    """
    first = report.models[report.first]
    copy_small_files(report, folder, code=False)
    # Components without a `model_type` are loaded by other libraries, which need their weights in the repo.
    native = [part.folder for part in report.components if first.config_in(part.folder).get("model_type")]
    modules = [part for part in report.components if part.folder not in native]
    if modules and recipe.weights is None:
        raise PublishError(
            f"The model has modules with weights of their own ('{modules[0].folder or 'model.safetensors'}').\n"
            "A recipe repo contains them merged, which is not possible while the recipe's weights are open.\n"
            "Compute them first (`cocktail score RECIPE -o OUT.yaml`), or publish the weights with `as_='merged'`."
        )
    if modules:
        merge_modules(report, modules, folder, options)
    name_classes(folder / first.main)
    top = next((str(module["path"]).strip("/") for module in read_modules(first.home.files)), "")
    if native == [top]:  # and not behind a Router
        return {"": report.config, top: report.config}
    return {"": {}} | {component: first.config_in(component) for component in native}


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


def require_inside(examples: ExamplesFound, root: Path | None) -> None:
    """Raise PublishError if the recipe was read from a folder, and its examples are a file outside of it."""
    if root is None or not isinstance(examples.content, Path) or examples.on_hub:
        return
    if not examples.content.resolve().is_relative_to(root.resolve()):
        raise PublishError(
            f"The recipe in '{root}' names the examples '{examples.content}', which are outside of that folder.\n"
            "A recipe that came from somebody else could publish any file of this machine so.\n"
            "Copy the file beside the recipe and name the copy, or publish a `Recipe` from Python, which may name any "
            "file."
        )


def _add_examples(recipe: Recipe, folder: Path, examples: ExamplesFound | None, *, wanted: bool) -> Recipe:
    """Copy a file of examples into the repo, so that others can compute the weights.

    Scoring located the file, so a recipe from the Hub cannot publish a file that it may not read.
    """
    weighting = recipe.weighting
    if weighting is None or examples is None or examples.on_hub or not isinstance(examples.content, Path):
        return recipe
    if not wanted:
        raise PublishError(
            f"The weights are computed from '{examples.source}', which is not to be published.\n"
            "Nobody else has that file, so nobody could compute them.\n"
            "Compute them first (`cocktail score RECIPE -o OUT.yaml`) and publish that, or publish the examples, too."
        )
    examples.rows()  # what are no examples is not sent
    target = folder / f"examples{examples.content.suffix}"
    target.write_bytes(examples.content.read_bytes())
    return replace(recipe, weighting=replace(weighting, examples=target.name))

"""Compute the weights of a recipe that gives none: score its ingredients, and apply the rule."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from cocktail_hub.errors import ScoringError
from cocktail_hub.evaluation.examples import FIELDS, check_examples
from cocktail_hub.evaluation.losses_cache import LossesCache
from cocktail_hub.evaluation.model import pick_device
from cocktail_hub.evaluation.on_ray import score_on_ray
from cocktail_hub.evaluation.scorer import STEPS, ScoringJob, score_all, score_here
from cocktail_hub.evaluation.settings import ScoringSettings
from cocktail_hub.hub.progress import bar
from cocktail_hub.recipe import Ingredient, canonical_json
from cocktail_hub.search.by_metric import check_metric, tries_mixes, weigh_by_metric
from cocktail_hub.search.ensemble_rule import fall_back, too_few, weigh_outputs
from cocktail_hub.search.mixed_outputs import mixed_outputs
from cocktail_hub.search.model_folders import copy_tokenizer, model_folder, staging_folder
from cocktail_hub.search.report import evidence_of
from cocktail_hub.search.softmax import Weights, require_same_reading, uniform_weights, weigh
from cocktail_hub.storage.cache import Cache

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cocktail_hub.compat import CompatibilityReport
    from cocktail_hub.evaluation.example_files import ExamplesFound
    from cocktail_hub.evaluation.examples import Examples
    from cocktail_hub.merge.options import MixOptions
    from cocktail_hub.recipe import Recipe, Weighting


def weigh_ingredients(
    recipe: Recipe,
    weighting: Weighting,
    report: CompatibilityReport,
    found: ExamplesFound | None,
    options: MixOptions,
    *,
    lm_cocktail: bool = False,
    fresh: bool = False,
) -> tuple[Weights, dict[str, Any]]:
    """Compute a weight per ingredient; the anchor is not scored, but for the outputs of `rule: ensemble`.

    Losses are cached: an ingredient that was scored on the same examples before is not loaded again.

    Args:
        recipe: every model pinned.
        weighting: how to compute the weights.
        report: the models of the recipe.
        found: the examples; `None` for `rule: uniform`, which needs none.
        options: the Hub, the device and the engine.
        lm_cocktail: compute the losses of the original: see `ScoringSettings`.
        fresh: compute everything again, whatever is cached.

    Returns:
        The weights, and their evidence as JSON values for the recipe.

    Raises:
        ScoringError: the examples cannot rank the ingredients; names the example and the model.
        SourceError: a model cannot be downloaded or loaded.
    """
    if found is None:
        weights = Weights(rule="uniform", values=uniform_weights(len(recipe.ingredients)))
        return weights, {"rule": "uniform"}
    if tries_mixes(weighting, len(found.rows())):
        return weigh_by_metric(recipe, weighting, report, found, options, fresh=fresh)
    settings, examples = check_scoring(recipe, weighting, report, found, options, lm_cocktail=lm_cocktail)
    on_ray = options.engine == "ray"
    if not on_ray:
        pick_device(settings.device)  # refuse a missing device before anything is downloaded
    scored = list(recipe.ingredients)
    share = recipe.anchor.share if recipe.anchor and settings.outputs else None
    if recipe.anchor and share is not None:  # its outputs are a part of every mix
        scored.insert(0, Ingredient.from_value(recipe.anchor, "anchor"))
    with staging_folder() as folder, bar("score", STEPS * len(scored), unit="%") as advance:
        losses = score_all(
            scoring_jobs(scored, report, options, folder, examples=examples, settings=settings),
            LossesCache((folder if fresh else Cache().root) / "losses"),
            advance=advance,
            runner=score_on_ray if on_ray else score_here,
        )
    require_same_reading(losses)
    own = losses[len(scored) - len(recipe.ingredients) :]
    if settings.outputs:
        units = [str(row[FIELDS[settings.kind][0]]) for row in examples.rows]
        weights = weigh_outputs(mixed_outputs(losses, examples, settings, share=share), own, units, weighting)
    else:
        weights = weigh(own, weighting.temperature) if weighting.rule == "softmax" else fall_back(own, weighting)
    evidence = evidence_of(weights, found, examples.digest, settings)
    if examples.shape:
        evidence["examples"]["shape"] = examples.shape
    return weights, evidence


def check_scoring(
    recipe: Recipe,
    weighting: Weighting,
    report: CompatibilityReport,
    found: ExamplesFound,
    options: MixOptions,
    *,
    lm_cocktail: bool = False,
) -> tuple[ScoringSettings, Examples]:
    """Check everything about scoring that shows without the models, and return what it needs. As `weigh_ingredients`.

    For rules that try mixes, the metric is checked, too.

    Raises:
        ScoringError: the models cannot be scored, or not on these examples.
    """
    if tries_mixes(weighting, len(found.rows())):
        _, _, settings, examples = check_metric(recipe, weighting, report, found, options)
        return settings, examples
    settings = ScoringSettings(
        task=recipe.task or report.kind.task,
        weighting=weighting,
        device=options.scoring_device,
        trust_remote_code=options.trust_remote_code,
        lm_cocktail=lm_cocktail,
    )
    examples = check_examples(found.rows(), settings.kind, columns=weighting.columns)
    settings = replace(settings, outputs=weighting.rule == "ensemble" and not too_few(weighting, len(examples)))
    if weighting.prior is not None and len(weighting.prior) != len(recipe.ingredients):
        raise ScoringError(
            f"`weighting.prior` has {len(weighting.prior)} weights for {len(recipe.ingredients)} ingredients.\n"
            "The weights are drawn to it, ingredient by ingredient.\n"
            "Give one weight per ingredient, in recipe order."
        )
    if weighting.temperature == "auto" and len(examples) == 1:
        raise ScoringError(
            "`temperature: auto` needs at least 2 examples, got 1.\n"
            "It is the noise of the losses over the examples, and a single example has none.\n"
            "Give more examples, or a number such as 5.0 for `temperature`."
        )
    return settings, examples


def scoring_jobs(
    ingredients: Sequence[Ingredient],
    report: CompatibilityReport,
    options: MixOptions,
    folder: Path,
    *,
    examples: Examples,
    settings: ScoringSettings,
) -> list[ScoringJob]:
    """One job per ingredient; all read with the tokenizer of the mix, which is copied into `folder`.

    Where rows of tokens are elsewhere in some, each reads with its own.
    """
    places = [model.located.reference.identity() for model in report.models]
    read_by = {
        index: copy_tokenizer(report, folder, code=options.trust_remote_code, index=index)
        for index in (range(len(places)) if report.tokens else (report.first,))
    }
    return [
        ScoringJob(
            name=ingredient.label,
            identity=canonical_json(ingredient.identity()),
            folder=partial(model_folder, place, report, options),
            tokenizer_folder=read_by.get(place, read_by[report.first])[0],
            tokenizer_identity=read_by.get(place, read_by[report.first])[1],
            examples=examples,
            settings=settings,
        )
        for ingredient, place in ((each, places.index(each.identity())) for each in ingredients)
    ]

"""Rules that search for weights by a metric: mixes are merged in memory, and measured or handed to a function."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from cocktail_hub.errors import ScoringError, did_you_mean
from cocktail_hub.evaluation.examples import FIELDS
from cocktail_hub.evaluation.intervals import figures
from cocktail_hub.evaluation.loading import folder_kind, load_cross_encoder, load_model, load_sentence_transformer
from cocktail_hub.evaluation.measure import check_measured, measure
from cocktail_hub.evaluation.metrics import GENERATED, TEXT, metrics_of
from cocktail_hub.evaluation.model import pick_device
from cocktail_hub.evaluation.scorer import ScoringJob
from cocktail_hub.evaluation.settings import ScoringSettings
from cocktail_hub.hub.progress import bar
from cocktail_hub.recipe import as_resolved, canonical_json
from cocktail_hub.recipe.weighting import SEARCHING
from cocktail_hub.resolve.resolve import with_weights
from cocktail_hub.search.ensemble import FOLDS, Gain
from cocktail_hub.search.ensemble_rule import ENOUGH, too_few
from cocktail_hub.search.evaluate import CLASSIFIED, kind_of
from cocktail_hub.search.model_folders import copy_tokenizer, mix_folder, staging_folder
from cocktail_hub.search.report import how_weighed
from cocktail_hub.search.softmax import Trial, Weights, uniform_weights
from cocktail_hub.search.soups import search, soup
from cocktail_hub.storage.cache import Cache

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cocktail_hub.compat import CompatibilityReport
    from cocktail_hub.evaluation.example_files import ExamplesFound
    from cocktail_hub.evaluation.examples import Examples
    from cocktail_hub.evaluation.metrics import Columns, MeasuredKind, Metric
    from cocktail_hub.merge.options import MixOptions
    from cocktail_hub.recipe import Recipe, ResolvedRecipe, Weighting
    from cocktail_hub.search.soups import WeightVector


def tries_mixes(weighting: Weighting, examples: int) -> bool:
    """Whether weights are found by trying mixes, or stay equal instead; else by losses."""
    return weighting.rule in SEARCHING and not (too_few(weighting, examples) and weighting.fallback == "softmax")


def check_metric(
    recipe: Recipe, weighting: Weighting, report: CompatibilityReport, found: ExamplesFound, options: MixOptions
) -> tuple[MeasuredKind, Metric, ScoringSettings, Examples]:
    """The kind of model, the metric that decides, how to measure, and the checked examples.

    Raises:
        ScoringError: the models or the examples cannot be measured, or not by this metric.
    """
    kind = kind_of(recipe.task or report.kind.task)
    examples = check_measured(found.rows(), kind, columns=weighting.columns)
    written = "right" if "options" in examples.rows[0] else "exact"
    metrics = metrics_of({{"encoder": "ndcg", "reranker": "ndcg", "classifier": "predicted"}.get(kind, written): ()})
    usual = TEXT[0] if metrics is GENERATED else metrics[0]
    names = {metric.name: metric for metric in metrics}
    if weighting.metric is not None and weighting.metric not in names:
        raise ScoringError(
            f"`weighting.metric` is '{weighting.metric}'. {did_you_mean(weighting.metric, names)}\n"
            "The weights are chosen by it, on the examples.\n"
            "Write one of these, or leave it out; a metric of your own goes to `search_weights` in Python."
        )
    task = recipe.task or report.kind.task
    settings = ScoringSettings(
        task=task if task != CLASSIFIED else "text-ranking",  # of the same class
        weighting=weighting,
        device=options.scoring_device,
        trust_remote_code=options.trust_remote_code,
    )
    return kind, usual if weighting.metric is None else names[weighting.metric], settings, examples


def weigh_by_metric(
    recipe: Recipe,
    weighting: Weighting,
    report: CompatibilityReport,
    found: ExamplesFound,
    options: MixOptions,
    *,
    fresh: bool = False,
) -> tuple[Weights, dict[str, Any]]:
    """Search for the weights with which the mix is best on the examples. As `weigh.weigh_ingredients`.

    Every mix that is tried is cached, as `cocktail eval` caches it; `fresh` ignores that cache. What soups gain is
    cross-validated; CMA-ES tries too many mixes for that. With too few examples the weights stay equal.
    """
    kind, metric, settings, examples = check_metric(recipe, weighting, report, found, options)
    count = len(recipe.ingredients)
    origin: dict[str, Any] = {"examples": {"count": len(examples), "digest": examples.digest} | found.to_dict()}
    origin["weighting"] = how_weighed(weighting)
    if too_few(weighting, len(examples)):
        said = f"{len(examples)} examples are too few to search for weights (`rule: {weighting.rule}` takes {ENOUGH})"
        weights = Weights(
            rule=weighting.rule, values=uniform_weights(count), sentence=f"{said}: the weights stay equal"
        )
        return weights, {"rule": weights.rule, "sentence": weights.sentence} | origin
    with staging_folder() as scratch, bar("search", None, unit="mix") as advance:
        folder, tokenizer = copy_tokenizer(report, scratch / "small", code=options.trust_remote_code)

        @cache
        def columns(weights: WeightVector) -> Columns:
            mixed = as_resolved(with_weights(recipe, weights, {}))
            job = ScoringJob(
                name="the mix",
                identity=canonical_json({"mix": mixed.digest}),
                folder=partial(mix_folder, mixed, report, options),
                tokenizer_folder=folder,
                tokenizer_identity=tokenizer,
                examples=examples,
                settings=settings,
            )
            advance(1)
            known = (scratch if fresh else Cache().root) / "measured"
            return measure(job, kind, known, generated=metric in GENERATED[:2])

        def figure(weights: WeightVector, kept: np.ndarray | slice = slice(None)) -> float:
            return float(metric.figure(metric.rows(columns(weights))[kept].mean(axis=0)))

        sign, equal, tried = 1.0 if metric.higher else -1.0, uniform_weights(count), dict[Any, float]()

        def value(weights: WeightVector) -> float:
            tried[weights] = figure(weights)
            return sign * tried[weights]

        value(equal)
        chosen = search(weighting, count, value)
        after, before, seen = columns(chosen), columns(equal), "on the examples that chose the weights and so too high"
        if weighting.rule != "cma":
            fields = FIELDS["decoder" if kind == "classifier" else kind]
            units = [str(row.get(fields[0], row.get("text"))) for row in examples.rows]
            parts = np.unique(units, return_inverse=True)[1] % FOLDS

            def without(part: int) -> Columns:
                return columns(search(weighting, count, lambda weights: sign * figure(weights, parts != part)))

            if len(found_parts := set(parts.tolist())) > 1:
                best = {part: without(part) for part in found_parts}
                after = {name: [best[part][name][row] for row, part in enumerate(parts)] for name in after}
                seen = f"cross-validated on {len(examples)} examples"
    found_gain = figures([metric], [after, before], [(0, 1)])[0][2]
    low, high = sorted((sign * found_gain.low, sign * found_gain.high))
    gain = Gain(mean=sign * found_gain.value, low=low, high=high, unit=metric.name)
    said = f"gain over equal weights, {seen}: {gain}"
    weights = searched(weighting, chosen, tried, metric.name, said)
    origin |= {"gain": asdict(gain), "settings": {k: v for k, v in settings.identity().items() if v is not None}}
    return replace(weights, gain=gain), trials_evidence(weights, weighting, recipe) | origin


def searched(
    weighting: Weighting, chosen: WeightVector, tried: dict[WeightVector, float], metric: str, said: str
) -> Weights:
    """The weights that were chosen, with every mix that was tried for them.

    Args:
        weighting: the rule.
        chosen: the weights.
        tried: weights -> value of the metric.
        metric: its name.
        said: of the gain.
    """
    left = chosen.count(0.0)
    many = f"{len(tried)} mixes tried" + (f", {left} ingredient{'s' * (left > 1)} left out" if left else "")
    return Weights(
        rule=weighting.rule,
        values=chosen,
        metric=metric,
        trials=tuple(Trial(weights=weights, value=value) for weights, value in tried.items()),
        sentence=f"{said}; {many}",
    )


def weigh_by_function(
    recipe: Recipe,
    metric: Callable[[Any], Any],
    weighting: Weighting,
    report: CompatibilityReport,
    options: MixOptions,
) -> tuple[Weights, dict[str, Any]]:
    """Search for the weights with which a function, or an evaluator of sentence-transformers, gives the mix the most.

    Raises:
        ScoringError: the function gives something else than a finite number.
    """
    name = str(getattr(metric, "primary_metric", None) or getattr(metric, "__name__", type(metric).__name__))
    higher = bool(getattr(metric, "greater_is_better", True))
    tried = dict[Any, float]()
    with bar("search", None, unit="mix") as advance:

        def value(weights: WeightVector) -> float:
            if weights not in tried:
                mixed = as_resolved(with_weights(recipe, weights, {}))
                with mix_folder(mixed, report, options) as folder:
                    tried[weights] = judge(metric, name, folder, mixed, options)
                advance(1)
            return tried[weights] if higher else -tried[weights]

        equal = value(uniform_weights(len(recipe.ingredients)))
        chosen = search(weighting, len(recipe.ingredients), value)
    gain = f"{value(chosen) - equal:+.4g} {name}, without an interval"
    said = f"gain over equal weights, on what chose the weights and so too high: {gain}"
    weights = searched(weighting, chosen, tried, name, said)
    return weights, trials_evidence(weights, weighting, recipe)


def trials_evidence(weights: Weights, weighting: Weighting, recipe: Recipe) -> dict[str, Any]:
    """What the mixes that were tried gave, as JSON values: a part of a recipe's evidence."""
    values = {trial.weights: trial.value for trial in weights.trials}
    count = len(recipe.ingredients)
    alone = [values.get(soup(count, [index])) for index in range(count)]
    return {
        "rule": weights.rule,
        "metric": weights.metric,
        **({"k": weighting.k} if weights.rule == "top_k" else {}),
        **({"evaluations": weighting.evaluations, "seed": weighting.seed} if weights.rule == "cma" else {}),
        "effective_number": weights.effective_number,
        "sentence": weights.sentence,
        "value": values[weights.values],
        "equal": values[uniform_weights(count)],
        "ingredients": [
            {"model": ingredient.label, "weight": weight} | ({} if own is None else {"value": own})
            for ingredient, weight, own in zip(recipe.ingredients, weights.values, alone, strict=True)
        ],
        "trials": [{"weights": list(trial.weights), "value": trial.value} for trial in weights.trials],
    }


def judge(metric: Callable[[Any], Any], name: str, folder: Path, mixed: ResolvedRecipe, options: MixOptions) -> float:
    """Load a mix with the library that it is for, and return its metric."""
    kind = folder_kind(folder, mixed.task)
    given = {"trust_remote_code": options.trust_remote_code}
    device = None if options.scoring_device == "auto" else options.scoring_device
    if kind.sentence_transformers or kind.task == "text-ranking":
        load = load_sentence_transformer if kind.sentence_transformers else load_cross_encoder
        model = load(folder, device=device, **given)
    else:
        model = load_model(folder, mixed.task, **given).eval().to(pick_device(options.scoring_device))
    found = metric(model)
    if isinstance(found, dict):  # an evaluator's
        found = found.get(name)
    try:
        number = float(found)
    except (TypeError, ValueError):
        number = np.nan
    if not np.isfinite(number):
        raise ScoringError(
            f"The metric '{name}' gave {found!r} for a mix, which is not a finite number.\n"
            "Weights are chosen by comparing such numbers.\n"
            "Return a float, higher for better mixes."
        )
    return number

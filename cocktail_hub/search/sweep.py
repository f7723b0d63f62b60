"""The curve of a mix over one of its numbers: predicted from the ingredients' outputs, measured where it matters."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from cocktail_hub.errors import ScoringError
from cocktail_hub.evaluation.intervals import figures
from cocktail_hub.evaluation.losses_cache import LossesCache
from cocktail_hub.evaluation.metrics import metrics_of, ranking
from cocktail_hub.evaluation.scorer import STEPS, score_all
from cocktail_hub.hub.progress import bar
from cocktail_hub.methods.dtypes import MIXABLE
from cocktail_hub.recipe import Ingredient
from cocktail_hub.search.mixed_outputs import mixed_outputs
from cocktail_hub.search.model_folders import mix_folder, staging_folder
from cocktail_hub.search.sweep_report import Curve, Sweep
from cocktail_hub.search.weigh import check_scoring, scoring_jobs
from cocktail_hub.storage.cache import Cache

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from cocktail_hub.compat import CompatibilityReport
    from cocktail_hub.evaluation.example_files import ExamplesFound
    from cocktail_hub.evaluation.metrics import Columns
    from cocktail_hub.evaluation.scorer import Advance, ScoringJob
    from cocktail_hub.merge.options import MixOptions
    from cocktail_hub.recipe import ResolvedRecipe, Weighting
    from cocktail_hub.search.sweep_axis import Axis, Goal

Merge: TypeAlias = "Callable[[ResolvedRecipe], AbstractContextManager[Path]]"
"""Merges a recipe, and provides the mix as a folder."""


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """What to show, and what to choose."""

    axis: Axis
    """What changes along the curve."""
    positions: tuple[float, ...]
    """The points, from 0 to 1."""
    goal: Goal
    """Which of them to choose."""
    reading: Weighting
    """How models read the examples."""


def sweep_mix(
    plan: SweepPlan, report: CompatibilityReport, found: Mapping[str, ExamplesFound], options: MixOptions
) -> Sweep:
    """Predict the curve, choose a point, and measure it, the ends and the knee.

    If the chosen point does not meet the conditions as measured, the next best one that is predicted to is tried.

    Args:
        plan: what to do.
        report: the models of the recipe.
        found: name -> examples.
        options: the Hub and the device.

    Raises:
        ScoringError: the examples do not fit the models, or no point meets the conditions as measured.
        CocktailError: a model cannot be read or merged.
    """
    axis, positions, recipe = plan.axis, plan.positions, plan.axis.recipe
    checked = {name: check_scoring(recipe, plan.reading, report, given, options) for name, given in found.items()}
    models = [*([Ingredient.from_value(recipe.base, "base")] if recipe.base else []), *recipe.ingredients]
    steps, usual = STEPS * len(checked), 4  # a model or mix on all examples, and the points that are measured
    with staging_folder() as folder, bar("sweep", steps * (len(models) + usual), unit="%") as advance:
        jobs = {
            name: scoring_jobs(
                models, report, options, folder, examples=examples, settings=replace(settings, outputs=True)
            )
            for name, (settings, examples) in checked.items()
        }
        predicted = {
            name: _predict(own, [axis.shares_at(at) for at in positions], advance) for name, own in jobs.items()
        }
        templates = {name: own[0] for name, own in jobs.items()}
        measured: dict[int, dict[str, Columns]] = {}

        def figures_at(place: int) -> dict[str, float]:
            if place not in measured and _is_one_model(axis, positions[place], report):
                measured[place] = {name: columns[place] for name, columns in predicted.items()}
                advance(steps)
            elif place not in measured:
                measured[place] = _measure(
                    axis.recipe_at(positions[place]),
                    f"the mix at {positions[place]:g}",
                    templates,
                    lambda mix: mix_folder(mix, report, options),
                    advance,
                )
            return {name: _figure(columns) for name, columns in measured[place].items()}

        knee, best = _choose(predicted, plan.goal)
        ends = figures_at(0), figures_at(len(positions) - 1)
        figures_at(knee)
        chosen = next((place for place in best if plan.goal.meets(figures_at(place), ends)), None)
        if chosen is None:
            raise _unmet(plan.goal, [figures_at(place) for place in best], "measured")
        advance(steps * max(0, usual - len(measured)))
    return Sweep(
        over=axis.over,
        positions=tuple(positions),
        knee=knee,
        chosen=chosen,
        curves=tuple(
            curve
            for name in predicted
            for curve in _curves(name, predicted[name], {place: row[name] for place, row in measured.items()}, chosen)
        ),
        digests={name: examples.digest for name, (_, examples) in checked.items()},
        mix=axis.recipe_at(positions[chosen]),
    )


def _is_one_model(axis: Axis, at: float, report: CompatibilityReport) -> bool:
    """Whether a point is one of the models, tensor by tensor, so that its outputs are known already."""
    specs = chain.from_iterable(models.values() for part in report.components for models in part.specs)
    one_type = len({spec.dtype for spec in specs} & MIXABLE) == 1
    plain = one_type and axis.recipe.dtype == "auto" and not (axis.recipe.keep or axis.recipe.missing)
    return plain and sorted(axis.shares_at(at))[-2:] == [0, 1]


def _predict(jobs: Sequence[ScoringJob], shares: Sequence[np.ndarray], advance: Advance) -> list[Columns]:
    """Run models, and predict mixes of them: per mix what is known of each example."""
    losses = score_all(jobs, LossesCache(Cache().root / "losses"), advance=advance)
    mixed = mixed_outputs(losses, jobs[0].examples, jobs[0].settings)
    columns: list[Columns] = []
    for share in shares:
        ranked = [ranking(scores, list(right)) for scores, right in mixed.rankings(share)]
        found: dict[str, list[float]] = {"loss": list(mixed.losses(share))}
        columns.append(found | {key: [one[key] for one in ranked] for key in (ranked or [{}])[0]})
    return columns


def _measure(
    recipe: ResolvedRecipe, name: str, jobs: Mapping[str, ScoringJob], merge: Merge, advance: Advance
) -> dict[str, Columns]:
    """Merge a mix, in memory and only if it was not measured before, and run it on all examples."""
    with ExitStack() as stack:

        @cache
        def merged() -> Path:
            return stack.enter_context(merge(recipe))

        @contextmanager
        def folder() -> Iterator[Path]:
            yield merged()

        own = {key: replace(job, name=name, identity=recipe.digest, folder=folder) for key, job in jobs.items()}
        return {key: _predict([job], [np.ones(1)], advance)[0] for key, job in own.items()}


def _figure(columns: Columns) -> float:
    """The figure that decides, over all examples."""
    metric = metrics_of(columns)[0]
    return float(metric.figure(metric.rows(columns).mean(axis=0)))


def _choose(predicted: Mapping[str, Sequence[Columns]], goal: Goal) -> tuple[int, list[int]]:
    """The knee of the curve, and the points that meet the goal as predicted, the best one first.

    The knee is where the sum of all figures is largest, each scaled to go from 0 to 1 along the curve: for two curves
    of which one rises and the other falls, the point farthest above the line between the ends.
    """
    values = {name: np.array([_figure(one) for one in columns]) for name, columns in predicted.items()}
    gains = {name: value if metrics_of(predicted[name][0])[0].higher else -value for name, value in values.items()}
    spread = {name: max(float(np.ptp(gain)), 1e-12) for name, gain in gains.items()}
    knee = int(np.argmax(sum((gain - gain.min()) / spread[name] for name, gain in gains.items())))
    if not goal.conditions and not goal.asked:
        return knee, [knee]
    rows = [
        {name: float(column[place]) for name, column in values.items()} for place in range(len(values[goal.maximize]))
    ]
    allowed = [place for place, row in enumerate(rows) if goal.meets(row, (rows[0], rows[-1]))]
    if not allowed:
        raise _unmet(goal, rows, "predicted")
    return knee, sorted(allowed, key=lambda place: -gains[goal.maximize][place])


def _unmet(goal: Goal, rows: Sequence[Mapping[str, float]], how: str) -> ScoringError:
    def span(name: str) -> str:
        ends = f"{min(row[name] for row in rows):.4g}", f"{max(row[name] for row in rows):.4g}"
        return f"{name} {' to '.join(dict.fromkeys(ends))}"

    shown = ", ".join(map(span, rows[0]))
    return ScoringError(
        f"No point of the curve meets {' and '.join(goal.texts)}.\nThe figures are {how} as {shown}.\n"
        "Ask for less, or add other ingredients."
    )


def _curves(name: str, predicted: Sequence[Columns], measured: Mapping[int, Columns], chosen: int) -> list[Curve]:
    """The curves of every metric on some examples, with intervals."""
    if len(predicted[0]["loss"]) < 2:  # noqa: PLR2004 - one has no spread
        raise ScoringError(
            f"There is one example in '{name}'.\nNo figure is shown without its interval, and one example has none.\n"
            "Give at least two, better some hundred."
        )
    metrics, places = metrics_of(predicted[0]), sorted(measured)
    row = places.index(chosen)
    seen = figures(metrics, [measured[place] for place in places], [(row, 0), (row, len(places) - 1)])
    return [
        Curve(
            name=name,
            metric=metric.name,
            higher=metric.higher,
            predicted=tuple(before),
            measured=dict(zip(places, after[: len(places)], strict=True)),
            over_start=after[-2],
            over_end=after[-1],
        )
        for metric, before, after in zip(metrics, figures(metrics, predicted), seen, strict=True)
    ]

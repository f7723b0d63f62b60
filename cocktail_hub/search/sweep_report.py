"""What a sweep found: a table for people, evidence for the recipe, and a picture."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cocktail_hub.search.plot import draw_evidence
from cocktail_hub.search.report import aligned

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cocktail_hub.evaluation.intervals import Figure
    from cocktail_hub.recipe import ResolvedRecipe


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A metric on some examples along the curve."""

    name: str
    """Of the examples."""
    metric: str
    """As tables show it."""
    higher: bool
    """Whether more is better."""
    predicted: tuple[Figure, ...]
    """At every point, from the ingredients' outputs."""
    measured: Mapping[int, Figure]
    """Point -> what the merged model gave."""
    over_start: Figure
    """The chosen point minus the first, both measured on the same examples."""
    over_end: Figure
    """The chosen point minus the last."""

    @property
    def error(self) -> float:
        """The largest difference between what was predicted and what was measured."""
        return max(abs(self.predicted[place].value - figure.value) for place, figure in self.measured.items())


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The curve of a mix over one of its numbers."""

    over: str
    """`lambda`, or the model whose weight changes."""
    positions: tuple[float, ...]
    """Its values, from 0 to 1."""
    curves: tuple[Curve, ...]
    """Per name of examples every metric; the first is the one that decides."""
    knee: int
    """The point where the figures together are best."""
    chosen: int
    """The point of `recipe`."""
    digests: Mapping[str, str]
    """Name -> digest of the examples."""
    mix: ResolvedRecipe
    """The recipe of the chosen point, without evidence."""

    @property
    def main(self) -> dict[str, Curve]:
        """Name of examples -> the metric that decides."""
        first: dict[str, Curve] = {}
        for curve in self.curves:
            first.setdefault(curve.name, curve)
        return first

    @cached_property
    def recipe(self) -> ResolvedRecipe:
        """The recipe of the chosen point, with the curves that decided as its evidence."""
        decisive = replace(self, curves=tuple(self.main.values()))
        return replace(self.mix, evidence={"rule": "sweep"} | decisive.to_dict())

    @property
    def sentences(self) -> list[str]:
        """What can be concluded, and what cannot."""
        at = self.positions[self.chosen]
        said = []
        for name, curve in self.main.items():
            for end, gain in ((0.0, curve.over_start), (1.0, curve.over_end)):
                if at != end:
                    better = {1: "better", -1: "worse", 0: "not told apart"}[gain.sign if curve.higher else -gain.sign]
                    said.append(f"{name}: {at:g} against {end:g}: {gain} {curve.metric}, {better}")
        return said

    def __str__(self) -> str:
        """A table for people: predictions at every point, measurements where there are any, and what follows."""
        curves = list(self.main.values())
        head = ["", *(f"{curve.name}, {curve.metric}" for curve in curves for _ in "ab")]
        rows = [head, [self.over, *(["predicted", "measured"] * len(curves))]]
        for place, at in enumerate(self.positions):
            marks = [word for word, index in (("knee", self.knee), ("chosen", self.chosen)) if index == place]
            cells = [cell for one in curves for cell in (str(one.predicted[place]), str(one.measured.get(place, "")))]
            rows.append([f"{at:.3g}{' (' + ', '.join(marks) + ')' if marks else ''}", *cells])
        return "\n".join([aligned(rows), *self.sentences])

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "over": self.over,
            "positions": list(self.positions),
            "knee": self.positions[self.knee],
            "chosen": self.positions[self.chosen],
            "curves": [
                {
                    "examples": curve.name,
                    "digest": self.digests[curve.name],
                    "metric": curve.metric,
                    "predicted": [figure.to_dict() for figure in curve.predicted],
                    "measured": {f"{self.positions[place]:g}": one.to_dict() for place, one in curve.measured.items()},
                    "largest_error": curve.error,
                    "against_start": curve.over_start.to_dict(),
                    "against_end": curve.over_end.to_dict(),
                }
                for curve in self.curves
            ],
            "sentence": "; ".join(self.sentences),
        }

    def plot(self, path: str | Path) -> None:
        """Draw the curves with their 95 % bands, the measured points and the knee.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        draw_evidence(self.recipe.evidence or {}, path)

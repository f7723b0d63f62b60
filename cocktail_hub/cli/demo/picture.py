"""The trade-off curve as a picture and as numbers."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from cocktail_hub.cli.demo.questions import SETS, Score

if TYPE_CHECKING:
    from pathlib import Path

Curve = Mapping[float, Mapping[str, Score]]
"""Share of the fine-tuned model -> name of the set -> scores."""
_COLORS = {"general": "#1f6fb4", "sre": "#d1602a"}
_HALF = 0.5


def draw(curve: Curve, path: Path) -> None:
    """Draw how many questions of each set are answered right over the share of the fine-tuned model."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.add_subplot()
    shares = sorted(curve)
    for name, about in SETS.items():
        right = [100 * curve[share][name].top1 for share in shares]
        axes.plot(shares, right, marker="o", color=_COLORS[name], label=f"{name}: {about}")
    axes.axvline(_HALF, color="0.6", linestyle=":", linewidth=1.2)
    axes.annotate("the recipe", (_HALF, 3), xytext=(6, 0), textcoords="offset points", color="0.4")
    axes.set(
        title="all-MiniLM-L6-v2 mixed with its SRE fine-tune",
        xlabel="share of the fine-tuned model  (0: base, 1: fine-tuned)",
        ylabel="questions answered right, % of 40",
        xlim=(-0.03, 1.03),
        ylim=(0, 100),
        xticks=shares,
    )
    axes.grid(axis="y", color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper right")
    figure.savefig(path, dpi=110, metadata={"Software": None})


def write_numbers(curve: Curve, path: Path) -> None:
    """Write the curve as CSV: a line per share."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["share", *(f"{name}_{kind}" for name in SETS for kind in ("top1", "mrr"))])
        for share in sorted(curve):
            writer.writerow([f"{share:.1f}", *_numbers(curve[share])])


def _numbers(scores: Mapping[str, Score]) -> Sequence[str]:
    return [f"{value:.3f}" for name in SETS for value in (scores[name].top1, scores[name].mrr)]

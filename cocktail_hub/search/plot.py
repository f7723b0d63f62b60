"""Draw what was found: evaluations, evidence of weights, and how models relate."""

from __future__ import annotations

from importlib.util import find_spec
from typing import IO, TYPE_CHECKING, Any

from cocktail_hub.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from cocktail_hub.search.evaluate import Evaluation


def require_plotting() -> None:
    """Make sure that plots can be drawn, before anything is measured for them.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise MissingExtraError.of("matplotlib", extra="plot", purpose="draw plots")


def draw_evaluation(evaluation: Evaluation, path: Path) -> None:
    """Write a plot of the metric that conclusions are drawn from; the suffix of `path` decides the format.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    require_plotting()
    from matplotlib.figure import Figure

    results = evaluation.results
    height = 1.2 + 0.4 * len(results[0].models)
    figure = Figure(figsize=(4.4 * len(results) + 1.6, height), layout="constrained")
    for axes, result in zip(figure.subplots(1, len(results), sharey=True, squeeze=False)[0], results, strict=True):
        names = list(result.models)
        for place, found in enumerate(result.models.values()):
            main = found[result.metric]
            color = "#d1602a" if place == 0 else "#1f6fb4"
            axes.plot([main.low, main.high], [place, place], color=color, linewidth=2)
            axes.plot(main.value, place, marker="o", color=color)
        axes.set(title=f"{result.name}, {result.count} examples", xlabel=f"{result.metric}, 95 % intervals")
        axes.set_yticks(range(len(names)), names)
        axes.grid(axis="x", color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].invert_yaxis()
    figure.savefig(path, dpi=110, metadata={"Software": None} if path.suffix.lower() == ".png" else None)


def draw_heat_maps(
    maps: Sequence[tuple[str, Sequence[Sequence[float]], Sequence[str], Sequence[str]]], path: str | Path
) -> None:
    """Write matrices side by side, each with a title, the names of its rows and those of its columns.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    require_plotting()
    from matplotlib.figure import Figure

    height = 1.6 + 0.25 * max(len(rows) for _, _, rows, _ in maps)
    widths = [2.4 + 0.5 * len(columns) for _, _, _, columns in maps]
    figure = Figure(figsize=(sum(widths), max(height, 3.2)), layout="constrained")
    every = figure.subplots(1, len(maps), squeeze=False, width_ratios=widths)[0]
    for axes, (title, values, rows, columns) in zip(every, maps, strict=True):
        scale = {"cmap": "RdBu", "vmin": -1, "vmax": 1} if title == "cosines" else {"cmap": "Blues", "vmin": 0}
        figure.colorbar(axes.imshow(values, aspect="auto", **scale), ax=axes)
        axes.set_title(title)
        axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right")
        axes.set_yticks(range(len(rows)), rows)
    figure.savefig(path, dpi=110)


def draw_evidence(evidence: Mapping[str, Any], target: str | Path | IO[bytes]) -> None:
    """Write a PNG of a recipe's evidence: its computed weights as bars, and each curve of a sweep.

    Raises:
        MissingExtraError: matplotlib is not installed.
        KeyError, TypeError, ValueError: the evidence has another shape.
        OSError: the file cannot be written.
    """
    require_plotting()
    from matplotlib.figure import Figure

    rows, curves = evidence.get("ingredients", ()), evidence.get("curves", ())
    heights = [1.0 + 0.35 * len(rows)] * bool(rows) + [3.2] * len(curves)
    picture = Figure(figsize=(6.4, sum(heights)), layout="constrained")
    panels = iter(picture.subplots(len(heights), squeeze=False, height_ratios=heights)[:, 0])
    for axes in [next(panels)] if rows else []:
        places, weights = range(len(rows)), [float(row["weight"]) for row in rows]
        axes.barh(places, weights, color="#1f6fb4")
        for place, row in zip(places, rows, strict=True):
            known = [f"{name} {row[name]:.4g}" for name in ("loss", "value") if name in row]
            axes.annotate(f" {weights[place]:.3f}  {''.join(known)}", (weights[place], place), va="center")
        axes.axvline(1 / len(rows), linestyle=":", color="grey", label="equal weights")
        axes.set(xlabel="weight", xlim=(0, 1.5 * max(weights)))
        axes.set_yticks(places, [_short(row["model"]) for row in rows])
        axes.invert_yaxis()
        axes.legend(frameon=False)
    for axes, curve in zip(panels, curves, strict=True):
        at, over, predicted = evidence["positions"], evidence["over"], curve["predicted"]
        axes.fill_between(at, *zip(*(one["interval"] for one in predicted), strict=True), alpha=0.2)
        axes.plot(at, [one["value"] for one in predicted], label="predicted, 95 % interval")
        where, seen = [float(place) for place in curve["measured"]], curve["measured"].values()
        axes.vlines(where, *zip(*(one["interval"] for one in seen), strict=True), color="tab:orange")
        axes.plot(where, [one["value"] for one in seen], "o", color="tab:orange", label="measured")
        axes.axvline(evidence["knee"], linestyle=":", color="grey", label="knee")
        xlabel = over if over == "lambda" else f"weight of {_short(over)}"
        axes.set(xlabel=xlabel, ylabel=f"{curve['metric']}, {curve['examples']}")
        axes.legend(frameon=False)
    picture.savefig(target, format="png", dpi=110, metadata={"Software": None})


def _short(model: str) -> str:
    """The last part of a name, in which matplotlib finds no formula."""
    return model.rpartition("/")[2].replace("$", r"\$")

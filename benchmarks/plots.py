"""Time and memory against parameters and against the number of ingredients, as small PNGs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

if TYPE_CHECKING:
    from pathlib import Path

    from results import Results, Row

PANELS = (
    ("wall", "wall time (s)", 1.0),
    ("cpu", "CPU time (s)", 1.0),
    ("peak_anonymous", "anonymous memory (MB)", 1e6),
)
NAMES = {
    "floor": ("plain copy", "#888888", ":"),
    "cocktail-linear": ("cocktail linear", "#c0392b", "-"),
    "cocktail-ties": ("cocktail ties", "#e67e22", "-"),
    "mergekit-linear": ("mergekit linear", "#2c6fbb", "--"),
    "mergekit-ties": ("mergekit ties", "#5dade2", "--"),
    "lm-cocktail": ("LM_Cocktail mix_models", "#27ae60", "--"),
    "lm-cocktail-layers": ("LM_Cocktail by layers", "#16a085", "--"),
}
"""Contender -> label, colour, line. Others are in the tables only."""


def draw(results: Results, folder: Path) -> None:
    """Write `bench-parameters.png` (at the number of ingredients with most sizes) and `bench-ingredients.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [row for row in results.rows if row.contender in NAMES and row.runs and "embedder" not in row.case]
    by_size = _widest(rows, key=lambda row: (row.count, row.case.split(":")[2]), value=lambda row: row.parameters)
    by_count = _widest(rows, key=lambda row: (row.parameters, row.case.split(":")[2]), value=lambda row: row.count)
    if by_size:
        title = f"{by_size[0].count} ingredients, {by_size[0].case.split(':')[2]}"
        _figure(by_size, "parameters", title, folder / "bench-parameters.png")
    if by_count:
        title = f"{by_count[0].parameters / 1e9:.2g} billion parameters, {by_count[0].case.split(':')[2]}"
        _figure(by_count, "count", title, folder / "bench-ingredients.png")


def _widest(rows: list[Row], *, key, value) -> list[Row]:
    """Of the groups of rows that share a key, return the one with most different values; the larger key wins."""
    groups: dict[object, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return max(groups.items(), key=lambda item: (len({value(row) for row in item[1]}), item[0]), default=(0, []))[1]


def _figure(rows: list[Row], axis: str, title: str, path: Path) -> None:
    figure, panels = plt.subplots(1, len(PANELS), figsize=(11, 3.4), layout="constrained")
    for panel, (measure, label, unit) in zip(panels, PANELS, strict=True):
        for name, (shown, colour, line) in NAMES.items():
            points = sorted(
                (getattr(r, axis), r.median(measure)) for r in rows if r.contender == name and r.median(measure)
            )
            if points:
                x, y = zip(*points, strict=True)
                panel.plot(x, [v / unit for v in y], line, color=colour, marker="o", markersize=4, label=shown)
        panel.set(xlabel={"count": "ingredients"}.get(axis, axis), ylabel=label, yscale="log")
        if axis == "parameters":
            panel.set_xscale("log")
            sizes = sorted({row.parameters for row in rows})
            panel.set_xticks(sizes, [f"{size / 1e9:.1g}B" for size in sizes])
            panel.minorticks_off()
        panel.grid(alpha=0.3, which="both")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=90)
    plt.close(figure)

"""What was measured: rows of runs, their medians and ratios, as JSON and as tables."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

FIGURES = ("wall", "cpu", "peak_anonymous", "peak_resident", "read", "written", "disk_read")
"""What a median is given of: seconds and bytes."""
MEGA = 10**6
COLUMNS = (
    "",
    "wall s (least-most)",
    "x floor",
    "x mergekit",
    "CPU s",
    "x mergekit",
    "anonymous MB",
    "resident MB",
    "read MB",
    "written MB",
)


@dataclass(kw_only=True)
class Row:
    """The runs of one contender on one case."""

    case: str
    """`SIZE:COUNT:DTYPE`."""
    parameters: int
    """Of one checkpoint."""
    count: int
    """Ingredients."""
    contender: str
    """Its name."""
    runs: list[dict[str, Any]] = field(default_factory=list)
    """Every counted run."""
    failure: str = ""
    """The last line that it printed, if it failed."""
    machine: dict[str, Any]
    """Where it was measured, and with which versions. Only rows of one machine are compared."""

    def median(self, figure: str) -> float | None:
        """The median of a figure over all runs; `None` where it could not be measured."""
        values = [run[figure] for run in self.runs if run[figure] is not None]
        return statistics.median(values) if values else None

    def spread(self, figure: str) -> tuple[float, float]:
        """The least and the greatest of a figure."""
        values = [run[figure] for run in self.runs]
        return min(values), max(values)


class Results:
    """All rows."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read earlier results; none if there is no file."""
        if not path.exists():
            return cls([])
        found = json.loads(path.read_text(encoding="utf-8"))
        fields = Row.__dataclass_fields__
        return cls([Row(**{name: row[name] for name in fields}) for row in found["rows"]])

    def write(self, path: Path) -> None:
        """Write all rows with their medians and ratios."""
        rows = [
            asdict(row)
            | {"median": {figure: row.median(figure) for figure in FIGURES}}
            | {"to_floor": self.ratios(row, "floor"), "to_mergekit": self.ratios(row, "mergekit-linear")}
            for row in self.rows
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")

    def put(self, row: Row) -> None:
        """Add a row in place of an earlier one of the same contender and case."""
        keys = [(r.case, r.contender) for r in self.rows]
        if (row.case, row.contender) in keys:
            self.rows[keys.index((row.case, row.contender))] = row
        else:
            self.rows.append(row)

    def find(self, case: str, contender: str) -> Row | None:
        """The row of a contender, if it was measured."""
        return next((r for r in self.rows if (r.case, r.contender) == (case, contender)), None)

    def ratios(self, row: Row, other: str) -> dict[str, float | None]:
        """Median by median, how a row compares with another contender on the same case."""
        against = self.find(row.case, other)
        if against and against.machine != row.machine:
            against = None
        return {figure: _ratio(row.median(figure), against and against.median(figure)) for figure in FIGURES}

    def table(self) -> str:
        """All rows as Markdown tables, one for each case."""
        cases = dict.fromkeys(row.case for row in self.rows)
        return "\n\n".join(f"**{case}**\n\n{self._table(case)}" for case in cases)

    def _table(self, case: str) -> str:
        head = f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|"
        return "\n".join([head, *(self._line(row) for row in self.rows if row.case == case)])

    def _line(self, row: Row) -> str:
        if not row.runs:
            return f"| {row.contender} | failed: `{row.failure}` | | | | | | | | |"
        floor, mergekit = self.ratios(row, "floor"), self.ratios(row, "mergekit-linear")
        least, most = row.spread("wall")
        cells = [
            row.contender,
            f"{row.median('wall'):.1f} ({least:.1f}-{most:.1f})",
            _show(floor["wall"], ".2f"),
            _show(mergekit["wall"], ".2f"),
            f"{row.median('cpu'):.1f}",
            _show(mergekit["cpu"], ".2f"),
            *(_show(row.median(figure), ",.0f", MEGA) for figure in FIGURES[2:6]),
        ]
        return "| " + " | ".join(cells) + " |"


def machine() -> dict[str, Any]:
    """Describe this machine and the versions, without names."""
    facts: dict[str, Any] = {
        "processor": _cpu_model() or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": sys.version.split()[0],
    }
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        facts["memory_gb"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1)
    return facts | {name: version(name) for name in ("cocktail-hub", "torch", "transformers", "safetensors")}


def _cpu_model() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _ratio(value: float | None, other: float | None) -> float | None:
    return value / other if value is not None and other else None


def _show(value: float | None, form: str, unit: float = 1) -> str:
    return "" if value is None else format(value / unit, form)

"""How the command shows things: tables for people, JSON for programs, sizes with units."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def size(nbytes: float) -> str:
    """Bytes with a decimal unit, e.g. `90.9 MB`."""
    for unit in _UNITS:
        if nbytes < 1000 or unit == _UNITS[-1]:  # noqa: PLR2004 - decimal units, as the Hub shows them
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    raise AssertionError("unreachable: the last unit takes everything")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns side by side, as wide as their longest entry."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)
    ]
    return "\n".join(lines)


def show_json(value: Any) -> None:
    """Print a value as JSON."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def say(text: str) -> None:
    """Talk to people, beside the results."""
    click.echo(text, err=True)

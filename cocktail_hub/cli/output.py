"""What the command prints: tables for people, JSON for programs, sizes with units, and errors."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from cocktail_hub.errors import CocktailError, printable

if TYPE_CHECKING:
    from collections.abc import Sequence


def size(nbytes: float) -> str:
    """Return a number of bytes with a decimal unit, e.g. `90.9 MB`."""
    units = ("B", "kB", "MB", "GB", "TB", "PB")
    power = 0
    while nbytes >= 1000 and power < len(units) - 1:  # noqa: PLR2004 - decimal units, as on the Hub
        nbytes, power = nbytes / 1000, power + 1
    return f"{nbytes:.{min(power, 1)}f} {units[power]}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return left-aligned columns, each as wide as its longest cell."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in (head, *rows))
    return "\n".join(lines)


def show_json(value: Any) -> None:
    """Print a value as JSON on stdout."""
    show(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def show(text: object) -> None:
    """Print a result on stdout."""
    click.echo(printable(str(text)))


def say(text: str) -> None:
    """Print a message on stderr, which keeps stdout to results."""
    click.echo(printable(text), err=True)


def error_message(error: CocktailError | OSError) -> str:
    """Return what an expected error prints: the only place where the command formats one."""
    if isinstance(error, CocktailError):
        return str(error)
    return printable(
        f"{error}\nThe system or the network reported this; the recipe is not the cause.\n"
        "Check the path, its permissions and the free disk space, or the connection, and try again."
    )

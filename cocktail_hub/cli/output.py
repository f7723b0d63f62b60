"""What the command prints: tables for people, JSON for programs, sizes with units, and errors."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import click

from cocktail_hub.errors import CocktailError, printable

if TYPE_CHECKING:
    from collections.abc import Sequence


QUIET = "cocktail_hub.quiet"
"""Where a context keeps whether `--quiet` is given."""
_KEYWORD = re.compile(
    r"`(as_|cache_dir|create_pr|device|engine|force|local_files_only|low_disk|max_memory|max_shard_size|private|replace"
    r"|scoring_device|threads|token|trust_remote_code)(?:=(?:True)?)?`"
)
"""A keyword of Python in a message, which is an option here."""
_RENAMED = {"as_": "--as", "replace": "--force"}


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


def say(text: str, *, always: bool = False) -> None:
    """Print a message on stderr, which keeps stdout to results. `always`: with `--quiet`, too."""
    context = click.get_current_context(silent=True)
    if always or context is None or not context.meta.get(QUIET):
        click.echo(printable(text), err=True)


def error_message(error: CocktailError | OSError) -> str:
    """Return what an expected error prints: the only place where the command formats one."""
    if isinstance(error, CocktailError):
        said = _KEYWORD.sub(lambda found: f"`{_RENAMED.get(found[1], '--' + found[1].replace('_', '-'))}`", str(error))
        return re.sub(r"`(--[\w-]+)` \(`\1`\)", r"`\1`", said)
    return printable(
        f"{error}\nThe system or the network reported this; the recipe is not the cause.\n"
        "Check the path, its permissions and the free disk space, or the connection, and try again."
    )

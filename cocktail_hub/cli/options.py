"""The options that most commands share, and how they become `MixOptions`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cocktail_hub.errors import CocktailError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from cocktail_hub.merge.options import MixOptions


SMALLEST_SIZE = 1000
"""In bytes. Whoever writes less has forgotten the unit."""


_DAYS = {"": 1.0, "d": 1.0, "h": 1 / 24, "w": 7.0}
"""First letter of a unit of time -> days."""


class Bytes(click.ParamType[int]):
    """A size such as `500MB`, `5GB` or `1GiB`."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number of bytes."""
        from cocktail_hub.merge.options import parse_size

        try:
            nbytes = parse_size(value, param.name or "size" if param else "size")
        except CocktailError as error:
            self.fail(str(error), param, ctx)
        if nbytes < SMALLEST_SIZE:
            self.fail(f"'{value}' is {nbytes} bytes, which is too small. Write a unit, as in 5GB.", param, ctx)
        return nbytes


class Days(click.ParamType[float]):
    """A time such as `12h`, `7d` or `2w`; a number alone is days."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number of days."""
        found = re.fullmatch(r"\s*(\d+|\d*\.\d+)\s*([a-z]*)\s*", str(value), re.IGNORECASE)
        unit = found and _DAYS.get(found[2].lower()[:1])
        if not found or unit is None:
            self.fail(f"'{value}' is not a time. Write it like 12h, 7d or 2w; a number alone is days.", param, ctx)
        return float(found[1]) * unit


MERGING = ("device", "threads", "max_memory", "max_shard_size", "low_disk")
"""Options that only matter to a merge."""
_OPTIONS = {
    "revision": click.option("--revision", help="Branch, tag or commit of the recipe's repo."),
    "token": click.option(
        "--token",
        callback=lambda _context, _option, value: sys.stdin.readline().strip() if value == "-" else value,
        help="Access token; -: read it from stdin, so that no list of processes shows it. Default: the saved one.",
    ),
    "cache_dir": click.option("--cache-dir", type=click.Path(path_type=Path), help="Folder of the Hub cache."),
    "local_files_only": click.option("--local-files-only", is_flag=True, help="Use only locally cached files."),
    "device": click.option("--device", default="cpu", show_default=True, help="Merge on cpu, cuda or cuda:N."),
    "threads": click.option(
        "--threads",
        type=click.IntRange(min=1),
        help="Number of worker threads. Default: one per processor, at most 16.",
    ),
    "max_memory": click.option("--max-memory", type=Bytes(), help="Limit for buffers, e.g. 500MB. Default: 1GiB."),
    "max_shard_size": click.option(
        "--max-shard-size", type=Bytes(), default="5GB", show_default=True, help="Limit for one weight file."
    ),
    "engine": click.option(
        "--engine",
        type=click.Choice(["threads", "ray"]),
        default="threads",
        show_default=True,
        help="Run on threads of this machine, or on a Ray cluster.",
    ),
    "low_disk": click.option("--low-disk", is_flag=True, help="Download only what one output file needs at a time."),
    "trust_remote_code": click.option(
        "--trust-remote-code", is_flag=True, help="Allow custom code from the ingredients' repos."
    ),
    "as_json": click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
}
"""Parameter -> its option."""


def mix_options(*, without: Collection[str] = ()) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the shared options to a command, except those that mean nothing to it."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for name, option in reversed(_OPTIONS.items()):
            command = command if name in without else option(command)
        return command

    return add


def read_options(given: Mapping[str, Any], **more: Any) -> MixOptions:
    """Turn the parameters of a command into `MixOptions`; `more` are further fields of it."""
    from cocktail_hub.hub import Hub
    from cocktail_hub.merge.options import MixOptions

    hub = Hub(token=given["token"], cache_dir=given["cache_dir"], local_files_only=given["local_files_only"])
    fields = {name: given[name] for name in (*MERGING, "engine", "trust_remote_code") if name in given}
    return MixOptions(hub=hub, **fields, **more)

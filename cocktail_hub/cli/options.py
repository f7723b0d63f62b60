"""What most commands share: a recipe or models, options, and how they become a recipe and `MixOptions`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cocktail_hub.cli.output import say
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


class Weights(click.ParamType[tuple[float, ...]]):
    """One number, or several between commas."""

    name = "number..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Return the numbers."""
        try:
            return tuple(map(float, str(value).split(",")))
        except ValueError:
            self.fail(f"'{value}' is not a number. Write one for each model, as in --weights 0.5 0.5.", param, ctx)


class Setting(click.ParamType[tuple[str, Any]]):
    """A key of a recipe and its value as YAML, such as `dtype=bfloat16` or `parameters.density=0.5`."""

    name = "key=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        """Return key and value."""
        from yaml import YAMLError

        from cocktail_hub.recipe.files import load_yaml

        key, sign, text = str(value).partition("=")
        if not key or not sign:
            self.fail(f"'{value}' has no value. Write KEY=VALUE, as in --set dtype=bfloat16.", param, ctx)
        try:
            return key.strip(), load_yaml(text)
        except (YAMLError, ValueError, RecursionError) as error:
            self.fail(f"The value of '{key}' is not valid YAML: {' '.join(str(error).split())}.", param, ctx)


class RecipeCommand(click.Command):
    """A command whose `--weights` takes as many numbers as follow it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Repeat `--weights` before each number that follows its first one."""
        spread: list[str] = []
        for arg in args:
            follows = spread[-2:-1] == ["--weights"] and re.fullmatch(r"-?(\d+\.?\d*|\.\d+)(e-?\d+)?", arg)
            spread += ["--weights", arg] if follows else [arg]
        return super().parse_args(ctx, spread)


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


def recipe_arguments(
    metavar: str = "RECIPE | MODEL MODEL...", *, weights: bool = True
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add what says what to mix: a recipe, or models with their weights, and changes of any key."""
    shares = (
        click.option("--weights", type=Weights(), multiple=True, help="A number for each model. Default: equal ones."),
        click.option("--normalize", is_flag=True, help="Divide the weights by their sum."),
    )
    parts = (
        click.argument("sources", metavar=metavar, nargs=-1, required=True),
        *(shares if weights else ()),
        click.option("--method", help="How the models are merged: see `cocktail methods`. Default: linear."),
        click.option("--base", help="The model that the others were fine-tuned from, for methods that need it."),
        click.option(
            "--set", "settings", type=Setting(), multiple=True, help="Any key of a recipe, its value as YAML."
        ),
    )

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for part in reversed(parts):
            command = part(command)
        return command

    return add


def read_source(given: Mapping[str, Any], options: MixOptions, *, open_weights: bool = False) -> Any:
    """Return what the arguments of `recipe_arguments` name: a recipe source, or where there is nothing else, its name.

    `open_weights`: weights are computed, so that a recipe needs none.
    """
    sources = given["sources"]
    changes: dict[str, Any] = {key: given[key] for key in ("method", "base", "normalize") if given.get(key)}
    if numbers := [number for some in given.get("weights", ()) for number in some]:
        changes["weights"] = numbers
    changes |= dict(given["settings"])
    if len(sources) == 1 and not changes:
        return sources[0]
    if len(sources) > 1 and given["revision"]:
        raise click.UsageError("--revision is that of a recipe's repo. Write a model's as org/name@revision.")
    if len(sources) > 1 and not numbers and not open_weights and not any("weight" in key for key in changes):
        say("note: the models get equal weights; --weights gives others.")
    from cocktail_hub.resolve.source import load_changed

    return load_changed(sources, changes, options.hub, revision=given["revision"], open_weights=open_weights)


def read_options(given: Mapping[str, Any], **more: Any) -> MixOptions:
    """Turn the parameters of a command into `MixOptions`; `more` are further fields of it."""
    from cocktail_hub.hub import Hub
    from cocktail_hub.merge.options import MixOptions

    hub = Hub(token=given["token"], cache_dir=given["cache_dir"], local_files_only=given["local_files_only"])
    fields = {name: given[name] for name in (*MERGING, "engine", "trust_remote_code") if name in given}
    return MixOptions(hub=hub, **fields, **more)

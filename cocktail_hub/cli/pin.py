"""`cocktail pin`, `outdated` and `update`: a lock for models."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cocktail_hub.cli.options import MERGING, mix_options, read_options
from cocktail_hub.cli.output import say, show, show_json, table
from cocktail_hub.errors import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cocktail_hub.hub import Hub
    from cocktail_hub.pipeline.updates import ModelUpdate

EXIT_MOVED = 4
_LOOKING = mix_options(without=(*MERGING, "engine", "trust_remote_code", "local_files_only"))
_OUTPUT = click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write. Default: RECIPE, if it is one.",
)


@click.command(
    epilog="""\b
Examples:
  cocktail pin recipe.yaml
  cocktail pin me/my-mix -o pinned.yaml"""
)
@click.argument("recipe")
@_OUTPUT
@_LOOKING
def pin(recipe: str, output: Path | None, **given: Any) -> None:
    """Write the commits into RECIPE that its models have now, so that it always gives the same mix.

    Models that are pinned keep their commits, a file keeps its comments, and folders have no commits.
    """
    from cocktail_hub.pipeline.updates import outdated

    hub = _hub(given)
    updates = [one for one in outdated(recipe, hub, revision=given["revision"], compare=False) if not one.pinned]
    _refuse_problems(updates)
    _write(recipe, updates, output, hub, given)


@click.command(
    epilog="""\b
Example:
  cocktail outdated recipe.yaml

\b
Exit code: 0 nothing moved, 4 something moved, 1 a model cannot be read."""
)
@click.argument("recipe")
@_LOOKING
def outdated(recipe: str, **given: Any) -> None:
    """Tell which models of RECIPE moved since they were pinned: commits, files, licences."""
    from cocktail_hub.pipeline.updates import outdated

    updates = outdated(recipe, _hub(given), revision=given["revision"])
    _tell(updates, given)
    _refuse_problems(updates)
    if any(one.moved for one in updates):
        sys.exit(EXIT_MOVED)


@click.command(
    epilog="""\b
Examples:
  cocktail update recipe.yaml --all
  cocktail update recipe.yaml org/base -o newer.yaml

\b
Exit code: 0 nothing moved, 4 something moved and was written, 1 an error."""
)
@click.argument("recipe")
@click.argument("models", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Update every model.")
@_OUTPUT
@_LOOKING
def update(recipe: str, models: tuple[str, ...], everything: bool, output: Path | None, **given: Any) -> None:
    """Pin MODELS of RECIPE again, to the commits that their branches have now, and tell what changed."""
    from cocktail_hub.pipeline.updates import outdated

    if bool(models) == everything:
        raise click.UsageError("Name the models to update, or give --all.")
    hub = _hub(given)
    updates = outdated(recipe, hub, revision=given["revision"])
    known = [one.model for one in updates]
    if unknown := set(models) - set(known):
        name = min(unknown)
        raise click.UsageError(f"The recipe has no model '{name}' on the Hub. {did_you_mean(name, known)}")
    updates = tuple(one for one in updates if everything or one.model in models)
    _tell(updates, given)
    _refuse_problems([one for one in updates if one.commit is None])
    moved = [one for one in updates if one.moved]
    _write(recipe, moved, output, hub, given, shown=False)
    if moved:
        say("note: weights that were computed are as before; `cocktail score` computes them again.")
        sys.exit(EXIT_MOVED)


def _hub(given: dict[str, Any]) -> Hub:
    return read_options({**given, "local_files_only": False}).hub


def _tell(updates: Sequence[ModelUpdate], given: dict[str, Any]) -> None:
    """Print a table, and below it what happened to each model that moved."""
    if given["as_json"]:
        show_json([asdict(one) | {"moved": one.moved} for one in updates])
        return
    rows = [
        [
            one.model,
            one.branch[:12],
            (one.revision or "")[:8] if one.pinned else "-",
            (one.commit or "?")[:8],
            one.problem or ("moved" if one.moved else "same" if one.pinned else "not pinned"),
        ]
        for one in updates
    ]
    show(table(["model", "branch", "pinned", "now", ""], rows))
    for one in updates:
        if one.history is not None:
            show(f"\n{one.model}")
            for line in (*(one.history.commits or ("another line of commits",)), *one.history.files):
                show(f"  {line}")
            if one.licenses:
                before, after = (name or "none" for name in one.licenses)
                show(f"  licence {before} -> {after}")


def _refuse_problems(updates: Sequence[ModelUpdate]) -> None:
    if problems := [one.problem for one in updates if one.problem]:
        raise click.ClickException(
            "\n".join(problems) + "\nA mix that is made anew needs every model.\n"
            "Ask for access, go back to a commit that is there, or take another model."
        )


def _write(
    recipe: str,
    updates: Sequence[ModelUpdate],
    output: Path | None,
    hub: Hub,
    given: dict[str, Any],
    *,
    shown: bool = True,
) -> None:
    """Write the recipe with the commits of the updates, in its place or to `output`."""
    from cocktail_hub.pipeline.updates import with_commits

    path = output or Path(recipe)
    if output is None and not path.is_file():
        raise click.UsageError(f"'{recipe}' is no file. Say where to write: -o recipe.yaml.")
    if updates or output:
        path.write_text(with_commits(recipe, updates, hub, revision=given["revision"]), encoding="utf-8")
    for one in updates:
        say(f"{one.model}: {(one.commit or '')[:12]}, {one.branch}")
    if shown:
        show(str(path))

"""`cocktail verify`: is a published mix what its recipe says?"""

from __future__ import annotations

import sys
import traceback
from typing import Any

import click

from cocktail_hub.cli.output import say, show_json
from cocktail_hub.cli.recipes import read_options, taking
from cocktail_hub.errors import CocktailError

EXIT_DIFFERENT = 1
EXIT_NOT_CHECKED = 3


@click.command(
    epilog="""\b
Examples:
  cocktail verify me/my-mix
  cocktail verify ./my-mix

\b
Exit code: 0 the same, 1 different, 3 it could not be checked."""
)
@click.argument("source")
@taking(without=("max_shard_size",))
def verify(source: str, **given: Any) -> None:
    """Make the mix in SOURCE again from its ingredients, and compare the weights byte for byte."""
    from cocktail_hub.pipeline import verify as compare

    try:
        options, as_json = read_options(given)
        found = compare(source, revision=given["revision"], options=options)
    except (CocktailError, OSError) as error:
        click.echo(f"Error: could not check '{source}'.\n{error}", err=True)
        sys.exit(EXIT_NOT_CHECKED)
    except Exception:  # noqa: BLE001 - a bug of ours is no answer either
        traceback.print_exc()
        sys.exit(EXIT_NOT_CHECKED)
    if as_json:
        show_json({"same": found.same, "digest": found.digest, "files": found.found, "differences": found.differences})
    else:
        click.echo("same" if found.same else "\n".join(["different", *found.differences]))
    say(f"Made again from recipe {found.digest[:12]}: {len(found.expected)} weight file(s) compared.")
    if not found.same:
        sys.exit(EXIT_DIFFERENT)

"""`cocktail cache`: look after the mixes on this machine."""

from __future__ import annotations

import time
from typing import Any

import click

from cocktail_hub.cli.output import say, show_json, size, table
from cocktail_hub.cli.recipes import Bytes
from cocktail_hub.errors import CacheError
from cocktail_hub.resolve.resolve import prune_notes
from cocktail_hub.storage.cache import Cache, CachedMix

_DAY = 86_400


@click.group()
def cache() -> None:
    """List, verify and remove finished mixes."""


@cache.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def list_(as_json: bool) -> None:
    """Show every finished mix: digest, size, when it was last used, and what is in it."""
    found = [_described(mix) for mix in Cache().mixes()]
    if as_json:
        show_json(found)
        return
    rows = [[f["digest"][:12], size(f["size"]), f"{f['days']:.1f} d", f["contents"]] for f in found]
    click.echo(table(["digest", "size", "last used", "ingredients"], rows))


@cache.command()
@click.option("--older-than", type=float, help="Remove mixes that were not used for that many days.")
@click.option(
    "--max-size",
    type=Bytes(),
    help="Keep the mixes used last that fit into this size, e.g. 50GB.",
)
@click.option("--all", "everything", is_flag=True, help="Remove every mix.")
def prune(older_than: float | None, max_size: int | None, everything: bool) -> None:
    """Remove mixes. They are made again when they are asked for."""
    if older_than is None and max_size is None and not everything:
        raise click.UsageError("Say what to remove: --older-than DAYS, --max-size SIZE, or --all.")
    age = None if older_than is None else older_than * _DAY
    gone = Cache().prune(older_than=age, max_bytes=0 if everything else max_size)
    prune_notes()
    for mix in gone:
        click.echo(mix.digest)
    say(f"Removed {len(gone)} mix(es), {size(sum(mix.nbytes for mix in gone))}.")


@cache.command()
def verify() -> None:
    """Compare every file of every mix with what was written. Exit code 1 if any is damaged."""
    damaged = {mix.digest: lines for mix in Cache().mixes() if (lines := mix.damage(thorough=True))}
    for digest, lines in damaged.items():
        for line in lines:
            click.echo(f"{digest[:12]}  {line}")
    if damaged:
        raise click.ClickException(
            f"{len(damaged)} mix(es) are damaged.\n"
            "Loading one gives other weights than its recipe says.\n"
            "Make it again with `cocktail mix RECIPE --force`, or delete its folder, which "
            "`cocktail cache list --json` names."
        )
    say("Every mix is as it was written.")


def _described(mix: CachedMix) -> dict[str, Any]:
    try:
        recipe = mix.recipe
        shares = " + ".join(f"{i['weight']:.3g} {i['model']}" for i in recipe["ingredients"])
    except (CacheError, KeyError, TypeError):
        recipe, shares = {}, "(damaged)"
    days = (time.time() - mix.last_used) / _DAY
    return {
        "digest": mix.digest,
        "size": mix.nbytes,
        "days": days,
        "path": mix.path,
        "contents": shares,
        "recipe": recipe,
    }

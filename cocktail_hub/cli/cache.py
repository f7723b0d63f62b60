"""`cocktail cache`: list, verify and remove the mixes on this machine."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from cocktail_hub.cli.options import Bytes, Days
from cocktail_hub.cli.output import say, show, show_json, size, table
from cocktail_hub.errors import CacheError

if TYPE_CHECKING:
    from cocktail_hub.storage.cache import CachedMix

_DAY = 86_400


@click.group()
def cache() -> None:
    """List, verify and remove finished mixes."""


@cache.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def list_(as_json: bool) -> None:
    """List every finished mix: digest, size, last use and ingredients."""
    from cocktail_hub.storage.cache import Cache

    found = [_described(mix) for mix in Cache().mixes()]
    if as_json:
        show_json(found)
        return
    rows = [[f["digest"][:12], size(f["size"]), f"{f['days']:.1f} d", f["contents"]] for f in found]
    show(table(["digest", "size", "last used", "ingredients"], rows))


@cache.command()
@click.option("--older-than", type=Days(), help="Remove mixes unused for this long, e.g. 12h, 7d or 2w.")
@click.option("--max-size", type=Bytes(), help="Keep the most recently used mixes up to this size, e.g. 50GB.")
@click.option("--all", "everything", is_flag=True, help="Remove every mix.")
def prune(older_than: float | None, max_size: int | None, everything: bool) -> None:
    """Remove mixes; a removed mix is made again when it is needed."""
    from cocktail_hub.resolve.resolve import prune_notes
    from cocktail_hub.storage.cache import Cache

    if older_than is None and max_size is None and not everything:
        raise click.UsageError("Say what to remove: --older-than 30d, --max-size SIZE, or --all.")
    age = None if older_than is None else older_than * _DAY
    removed = Cache().prune(older_than=age, max_bytes=0 if everything else max_size)
    prune_notes()
    for mix in removed:
        show(mix.digest)
    say(f"Removed {len(removed)} mix(es), {size(sum(mix.nbytes for mix in removed))}.")


@cache.command()
def verify() -> None:
    """Compare every file of every mix with its recorded hash. Exit code 1 if any is damaged."""
    from cocktail_hub.storage.cache import Cache

    damaged = {mix.digest: lines for mix in Cache().mixes() if (lines := mix.damage(thorough=True))}
    for digest, lines in damaged.items():
        for line in lines:
            show(f"{digest[:12]}  {line}")
    if damaged:
        raise click.ClickException(
            f"{len(damaged)} mix(es) are damaged.\n"
            "Their weights are not those of their recipes.\n"
            "Make them again with `cocktail mix RECIPE --force`, or delete their folders, listed by "
            "`cocktail cache list --json`."
        )
    say("Every mix is undamaged.")


def _described(mix: CachedMix) -> dict[str, Any]:
    try:
        recipe = mix.recipe
        contents = " + ".join(f"{i['weight']:.3g} {i['model']}" for i in recipe["ingredients"])
    except (CacheError, KeyError, TypeError):
        recipe, contents = {}, "(damaged)"
    return {
        "digest": mix.digest,
        "size": mix.nbytes,
        "days": (time.time() - mix.last_used) / _DAY,
        "path": mix.path,
        "contents": contents,
        "recipe": recipe,
    }

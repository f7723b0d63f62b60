"""`cocktail compare`: how far models went from their base, and how much they have in common."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cocktail_hub.cli.options import mix_options, read_options
from cocktail_hub.cli.output import show_json, table

if TYPE_CHECKING:
    from collections.abc import Iterable


@click.command(
    epilog="""\b
Examples:
  cocktail compare ./fine-tuned --base org/base
  cocktail compare ./one ./two --base org/base
  cocktail compare recipe.yaml --plot compare.png --json"""
)
@click.argument("sources", metavar="RECIPE | MODEL...", nargs=-1, required=True)
@click.option("--base", help="The model that the others were fine-tuned from. Default: the recipe's base.")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw heat maps into this PNG file.")
@mix_options(without=("max_shard_size", "engine"))
def compare(sources: tuple[str, ...], base: str | None, plot: Path | None, **given: Any) -> None:
    """Show how far MODELs, or those of RECIPE, went from their base, and how much they have in common."""
    from cocktail_hub.pipeline.measurement import compare
    from cocktail_hub.search.plot import require_plotting

    if plot is not None:
        require_plotting()
        if not plot.absolute().parent.is_dir():
            raise click.BadParameter(f"There is no folder '{plot.parent}'.", param_hint="--plot")
    source = list(sources) if len(sources) > 1 else sources[0]
    found = compare(source, base=base, revision=given["revision"], options=read_options(given))
    if plot is not None:
        found.plot(plot)
    if given["as_json"]:
        show_json(found.to_dict())
        return

    def shown(values: Iterable[float], form: str) -> list[str]:
        return [format(value, form) for value in values]

    numbers, whole = [str(i) for i in range(1, len(found.models) + 1)], found.whole
    sizes = zip(found.models, shown(whole.lengths, ".4g"), shown(whole.relative, ".2%"), strict=True)
    rows = [[n, *size, *shown(row, ".3f")] for n, size, row in zip(numbers, sizes, whole.cosines, strict=True)]
    click.echo(f"task vectors over {found.base}, with the cosines of all pairs\n")
    click.echo(table(["", "model", "length", "of base", *numbers], rows))
    click.echo("\nelements changed by both, in opposite directions\n")
    click.echo(
        table(["", *numbers], [[n, *shown(row, ".1%")] for n, row in zip(numbers, whole.disagreement, strict=True)])
    )
    click.echo("\nlayer by layer: length of the base, and cosine of each pair\n")
    names = [f"{i + 1} and {j + 1}" for _, i, j in found.pairs]
    by_layer = [
        [name, *shown(part.relative, ".2%"), *shown((part.cosines[i][j] for _, i, j in found.pairs), ".3f")]
        for name, part in found.parts.items()
    ]
    click.echo(table(["", *numbers, *names], by_layer))
    click.echo("\n" + "\n".join(found.sentences))

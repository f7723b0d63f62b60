"""`cocktail sweep`: how good a mix is along one of its numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cocktail_hub.cli.evaluate import Named, named_once
from cocktail_hub.cli.options import mix_options, read_options, read_source, recipe_arguments
from cocktail_hub.cli.output import show, show_json


@click.command(
    epilog="""\b
Examples:
  cocktail sweep org/base ./fine-tuned --examples target=mine.jsonl --examples general=theirs.jsonl
  cocktail sweep recipe.yaml --examples target=mine.jsonl --examples general=theirs.jsonl \\
      --choose "general >= start - 0.5" -o chosen.yaml"""
)
@recipe_arguments(weights=False)
@click.option("--examples", type=Named(), multiple=True, required=True, help="File or Hub dataset; may be repeated.")
@click.option("--over", help="anchor, lambda, or an ingredient by its model or number. Default: what there is one of.")
@click.option("--points", type=click.IntRange(min=3), default=11, show_default=True, help="Points on the curve.")
@click.option("--choose", multiple=True, help="Condition on the chosen point, such as 'general >= start - 0.5'.")
@click.option("--maximize", metavar="NAME", help="Choose the best point on these examples. Default: the knee.")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw the curves into this PNG file.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the chosen recipe to this file.")
@click.option("--scoring-device", default="auto", show_default=True, help="Device to run models on: auto, cpu or cuda.")
@mix_options(without=("low_disk", "max_shard_size", "engine"))
def sweep(examples: tuple[tuple[str, str], ...], plot: Path | None, output: Path | None, **given: Any) -> None:
    """Show how good RECIPE, or a mix of MODELs, is along one of its numbers.

    The curve is predicted everywhere, and measured where it matters.
    """
    from cocktail_hub.pipeline.measurement import sweep
    from cocktail_hub.recipe import dump_yaml
    from cocktail_hub.search.plot import require_plotting

    named = named_once(examples)
    if plot is not None:
        require_plotting()
    for path in filter(None, (plot, output)):
        if not path.absolute().parent.is_dir():
            raise click.BadParameter(f"There is no folder '{path.parent}'.")
    options = read_options(given, scoring_device=given["scoring_device"])
    found = sweep(
        read_source(given, options, open_weights=True),
        named,
        over=given["over"],
        points=given["points"],
        choose=given["choose"],
        maximize=given["maximize"],
        revision=given["revision"],
        options=options,
    )
    if plot is not None:
        found.plot(plot)
    if output is not None:
        output.write_text(dump_yaml(found.recipe), encoding="utf-8")
    if given["as_json"]:
        show_json(found.to_dict() | {"recipe": found.mix.to_dict()})
    else:
        show(str(found))

"""`cocktail import`: configurations of mergekit as recipes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from cocktail_hub.cli.output import say


@click.command(
    "import",
    epilog="""\b
Examples:
  cocktail import mergekit_config.yml
  cocktail import mergekit_config.yml -o recipe.yaml""",
)
@click.argument("config", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the recipe to this file.")
def import_recipe(config: Path, output: Path | None) -> None:
    """Print CONFIG, a configuration of mergekit, as a recipe.

    What a recipe cannot express is listed, with its lines. The other commands take such a file in place of a recipe,
    too.
    """
    from cocktail_hub.recipe import dump_yaml, read_recipe

    recipe = read_recipe(config)
    for note in recipe.import_notes:
        say(f"note: {note}")
    text = dump_yaml(replace(recipe, evidence=None))
    if output is None:
        click.echo(text, nl=False)
    else:
        output.write_text(text, encoding="utf-8")
        click.echo(str(output))

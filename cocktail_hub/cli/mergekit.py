"""`cocktail import` and `export`: configurations of mergekit as recipes, and back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from cocktail_hub.cli.output import say, show


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
        show(str(output))


@click.command(
    "export",
    epilog="""\b
Examples:
  cocktail export recipe.yaml --to mergekit
  cocktail export me/my-mix --to mergekit -o mergekit_config.yml""",
)
@click.argument("recipe")
@click.option("--to", type=click.Choice(["mergekit"]), required=True, help="The tool to write for.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the configuration to this file.")
def export_recipe(recipe: str, to: str, output: Path | None) -> None:
    """Print RECIPE as a configuration of mergekit. What it cannot express there is listed."""
    from cocktail_hub.hub import Hub
    from cocktail_hub.recipe.to_mergekit import to_mergekit
    from cocktail_hub.resolve.source import load_recipe_source

    text = to_mergekit(load_recipe_source(recipe, Hub()).recipe)
    if output is None:
        click.echo(text, nl=False)
    else:
        output.write_text(text, encoding="utf-8")
        show(str(output))
    say(f"note: {to} computes some methods otherwise: docs/from-mergekit.md says where numbers differ.")

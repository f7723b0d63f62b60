"""The `cocktail` command and how its errors end."""

from __future__ import annotations

import sys

import click

from cocktail_hub.cli.cache import cache
from cocktail_hub.cli.demo import demo
from cocktail_hub.cli.recipes import check, mix, push, score
from cocktail_hub.cli.verify import verify
from cocktail_hub.errors import CocktailError
from cocktail_hub.version import VERSION

EXIT_INTERRUPTED = 130


class Group(click.Group):
    """Ends expected errors with one clear message and exit code 1; bugs keep their traceback."""

    def invoke(self, ctx: click.Context) -> object:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except CocktailError as error:
            raise click.ClickException(str(error)) from error
        except KeyboardInterrupt:
            click.echo("Interrupted. What was finished is kept; run the same command again to go on.", err=True)
            sys.exit(EXIT_INTERRUPTED)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, package_name="cocktail-hub")
def main() -> None:
    """Mix fine-tuned Hugging Face models from a recipe.

    RECIPE is a YAML or JSON file, a folder, or a repo on the Hub. Results go to stdout, talk and progress to stderr.
    """


for command in (mix, check, score, push, verify, cache, demo):
    main.add_command(command)

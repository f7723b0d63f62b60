"""`cocktail demo`: the whole loop on real models, against a Hub on this machine."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("demo-output"), show_default=True)
def demo(output: Path) -> None:
    """Mix two published models and look at what the mix keeps of both. Writes a plot to OUTPUT."""
    from cocktail_hub.cli.demo import run

    run(output, click.echo)

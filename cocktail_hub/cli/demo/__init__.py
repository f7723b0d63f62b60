"""`cocktail demo`: push, mix, load, measure and publish two real models, against a Hub on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click

from cocktail_hub.cli.demo.models import require_models
from cocktail_hub.errors import CocktailError


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("demo-output"), show_default=True)
def demo(output: Path) -> None:
    """Mix two published models, and measure what the mix can do. Writes a plot to OUTPUT."""
    require_models()
    output.mkdir(parents=True, exist_ok=True)
    # A process of its own: huggingface_hub reads the address of the Hub when it is imported.
    command = [sys.executable, "-u", "-m", "cocktail_hub.cli.demo", str(output)]
    environment = os.environ | {"PYTHONIOENCODING": "utf-8"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8", env=environment) as child:  # noqa: S603 - ourselves
        try:
            for line in child.stdout or ():
                click.echo(line.rstrip("\n"))
            child.wait()
        finally:
            if child.poll() is None:
                child.terminate()
                try:
                    child.wait(20)  # it removes its files
                except subprocess.TimeoutExpired:
                    child.kill()
    if child.returncode:
        raise CocktailError(
            f"The demo stopped early, with exit code {child.returncode}.\nThe cause is printed above.\n"
            "Nothing is left running; fix the cause and run `cocktail demo` again."
        )

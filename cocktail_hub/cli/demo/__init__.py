"""`cocktail demo`: the whole loop on two real models, against a Hub on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from cocktail_hub.cli.demo.models import require_models
from cocktail_hub.errors import CocktailError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_PATIENCE = 20
"""Seconds that an interrupted demo gets to remove what it has on the disk."""


def run(output: Path, echo: Callable[[str], object]) -> None:
    """Push, mix, load, measure and publish; tell what happens line by line.

    It runs in a process of its own, because the Hub's address has to be known before huggingface_hub is imported,
    and this process may have imported it. The Hub and all downloads lie in a temporary folder and go with it.

    Args:
        output: folder for the picture and its numbers; made if it is not there.
        echo: takes each line as it comes.

    Raises:
        MissingExtraError: the models of the demo are not installed.
        OSError: `output` cannot be made.
        CocktailError: the demo stopped early.
    """
    require_models()
    output.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-u", "-m", "cocktail_hub.cli.demo", str(output)]
    environment = os.environ | {"PYTHONIOENCODING": "utf-8"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8", env=environment) as child:  # noqa: S603 - ourselves
        try:
            for line in child.stdout or ():
                echo(line.rstrip("\n"))
            child.wait()
        finally:
            _stop(child)
    if child.returncode:
        raise CocktailError(
            f"The demo stopped early, with exit code {child.returncode}.\nWhat went wrong stands above.\n"
            "Nothing is left running; fix it and run `cocktail demo` again."
        )


def _stop(child: subprocess.Popen[str]) -> None:
    """End the demo's process if it still runs, and wait until it has cleaned up."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            child.kill()

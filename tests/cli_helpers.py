"""Run the `cocktail` command in tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from click.testing import CliRunner, Result

from cocktail_hub.cli import main

HEAVY = ("torch", "transformers", "sentence_transformers")
CLIENT = ("huggingface_hub.hf_api", "tqdm")
"""Parts of the Hub's client that take longer to import than small models to mix."""


def run(*arguments: str | Path, stdin: str | None = None) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin)


def write(folder: Path, recipe: dict[str, Any]) -> Path:
    """A recipe file."""
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


def loaded_by(*arguments: str | Path) -> tuple[str, set[str]]:
    """Run the command in a fresh process; returns its stdout, and which heavy modules it has imported."""
    code = (
        "import sys\nfrom cocktail_hub.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"sys.stderr.write('LOADED ' + ' '.join(name for name in {HEAVY + CLIENT} if name in sys.modules))"
    )
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8")
    return done.stdout, set(done.stderr.rpartition("LOADED ")[2].split())

"""The version is the same wherever it is told, and the Hub hears it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from models import TOKEN

import cocktail_hub
from cocktail_hub.hub import Hub
from cocktail_hub.version import USER_AGENT, VERSION

if TYPE_CHECKING:
    from cocktail_hub.testing import LoopbackHub

pytestmark = pytest.mark.whole


def test_the_package_and_its_metadata_have_the_same_version() -> None:
    from importlib.metadata import version

    assert cocktail_hub.__version__ == version("cocktail_hub") == VERSION


def test_pyproject_takes_the_version_from_the_module_without_importing_anything_else() -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no TOML parser")
    settings = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" in settings["project"]["dynamic"]
    assert settings["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "cocktail_hub.version.VERSION"}
    code = "import sys, cocktail_hub.version; print(sorted({'torch', 'numpy', 'huggingface_hub'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_requests_to_the_hub_name_the_package_and_its_version(hub: LoopbackHub) -> None:
    Hub(token=TOKEN).api.whoami()
    assert USER_AGENT == {"cocktail_hub": VERSION}
    agents = [request.headers["user-agent"] for request in hub.requests]
    assert agents
    assert all(f"cocktail_hub/{VERSION}" in agent for agent in agents)

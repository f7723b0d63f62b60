"""The version is the same wherever it is told, and the Hub hears it."""

from __future__ import annotations

import os
import shutil
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


def test_one_command_makes_a_release(tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    for name in ("Makefile", "CHANGELOG.md", "cocktail_hub/version.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(root / name, tmp_path / name)

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        identity = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        return subprocess.run(
            command, cwd=tmp_path, env=os.environ | identity, capture_output=True, text=True, check=False
        )

    for command in (["git", "init", "-q"], ["git", "add", "."], ["git", "commit", "-qm", "begin"]):
        assert run(*command).returncode == 0
    assert "make release VERSION=1.2.3" in run("make", "release", "VERSION=1.2").stdout
    assert run("make", "release", "VERSION=9.8.7").returncode == 0
    assert 'VERSION = "9.8.7"\n' in (tmp_path / "cocktail_hub/version.py").read_text()
    today = run("date", "+%F").stdout.strip()
    assert f"## [Unreleased]\n\n## [9.8.7] - {today}\n" in (tmp_path / "CHANGELOG.md").read_text()
    assert run("git", "tag", "--points-at", "HEAD").stdout == "v9.8.7\n"
    assert run("git", "status", "--porcelain").stdout == ""
    (tmp_path / "Makefile").write_text((tmp_path / "Makefile").read_text() + "\n")
    assert "Commit your changes first" in run("make", "release", "VERSION=9.8.8").stdout


def test_requests_to_the_hub_name_the_package_and_its_version(hub: LoopbackHub) -> None:
    Hub(token=TOKEN).api.whoami()
    assert USER_AGENT == {"cocktail_hub": VERSION}
    agents = [request.headers["user-agent"] for request in hub.requests]
    assert agents
    assert all(f"cocktail_hub/{VERSION}" in agent for agent in agents)

"""huggingface_hub's own tests against the Hub of `cocktail_hub.testing`: `make hub-suite`.

They come with the sdist of the installed version, but without their conftest.py. A copy of this file takes its place:
it has their fixtures, and leaves out what `hub_suite.txt` names, and what asks for repos of the real Hub.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import uuid
from contextlib import suppress
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

RepoFactory = Any
"""The tests import it from their conftest.py, for annotations."""
_PLACES = {
    "HF_HUB_CACHE": "hub",
    "HUGGINGFACE_HUB_CACHE": "hub",
    "HF_XET_CACHE": "xet",
    "HF_ASSETS_CACHE": "assets",
    "HF_HOME": "",
    "HF_TOKEN_PATH": "token",
    "HF_STORED_TOKENS_PATH": "stored_tokens",
}
"""Constant of huggingface_hub -> where it leads in a folder that every test has for itself."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests. A name in the list that fits none is an error: the list is out of date."""
    patterns = [f"tests/{name}*" for name in os.environ["HUB_SUITE_LEFT_OUT"].splitlines()]
    fitting = {pattern: {item for item in items if fnmatchcase(item.nodeid, pattern)} for pattern in patterns}
    if unknown := [pattern for pattern, found in fitting.items() if not found]:
        raise pytest.UsageError(f"No tests have these names of hub_suite.txt: {', '.join(unknown)}")
    real = {i for i in items if i.get_closest_marker("production") or "api_prod" in getattr(i, "fixturenames", ())}
    left_out = real.union(*fitting.values())
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has caches and tokens of its own."""
    from huggingface_hub import constants

    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("COLUMNS", "200")
    for name, place in _PLACES.items():
        monkeypatch.setattr(constants, name, str(home / place))


@pytest.fixture(scope="session")
def api() -> Any:
    """The user whom the tests call USER."""
    from huggingface_hub import HfApi

    from .testing_constants import TOKEN  # type: ignore[import-not-found]  # this file is copied beside it

    return HfApi(token=TOKEN)


@pytest.fixture(scope="session")
def api_prod() -> None:
    """The real Hub: tests with it are left out."""


@pytest.fixture
def new_repo_id(api: Any) -> Iterator[str]:
    """A name for a repo, which is deleted after the test."""
    name = f"{api.whoami()['name']}/repo-{uuid.uuid4().hex[:12]}"
    yield name
    api.delete_repo(name, missing_ok=True)


@pytest.fixture
def repo_factory(api: Any) -> Iterator[Callable[..., Any]]:
    """Makes repos, which are deleted after the test."""
    made = []

    def make(repo_type: str = "model", **options: Any) -> Any:
        space = {"space_sdk": "gradio"} if repo_type == "space" else {}
        name = f"{repo_type}-{uuid.uuid4().hex[:12]}"
        made.append(api.create_repo(**{"repo_id": name, "repo_type": repo_type, **space, **options}))
        return made[-1]

    yield make
    for repo in made:
        with suppress(Exception):  # the test has deleted it, or it is another user's
            api.delete_repo(repo.repo_id, repo_type=repo.repo_type)


def main(arguments: Sequence[str]) -> int:
    """Unpack the tests below `build`, and run them beside a Hub of their own; `arguments` are pytest's."""
    from cocktail_hub.testing import LoopbackHub

    folder = Path("build/hub-suite").absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--dest", folder]
    subprocess.run([*fetch, f"huggingface_hub=={version('huggingface_hub')}"], check=True)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as sdist:
        sdist.extractall(folder, filter="data")
    tests = next(folder.glob("*/tests"))
    (tests / "__init__.py").touch()
    (tests.parent / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    shutil.copy(__file__, tests / "conftest.py")
    lines = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8").splitlines()
    left_out = [line for line in lines if line and not line.startswith("#")]
    for file in (file for name in left_out if "::" not in name for file in tests.glob(name)):
        file.unlink()
    with LoopbackHub(folder / "hub", xet=True) as hub:
        text = (tests / "testing_constants.py").read_text(encoding="utf-8")
        text = text.replace("https://hub-ci.huggingface.co", hub.url).replace("__DUMMY_HUB_USER__", "dummy-user")
        (tests / "testing_constants.py").write_text(text, encoding="utf-8")
        known: dict[str, Any] = {}
        exec(text, known)
        for who in ("", "OTHER_", "ENTERPRISE_"):
            hub.add_user(known[f"{who}USER"], token=known[f"{who}TOKEN"])
        environment = {**os.environ, **hub.environment(folder / "home")}
        environment["HUB_SUITE_LEFT_OUT"] = "\n".join(name for name in left_out if "::" in name)
        command = [sys.executable, "-m", "pytest", "--quiet", "--disable-warnings", "--timeout=120", *arguments]
        return subprocess.run([*command, "tests"], cwd=tests.parent, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The files around the code agree with it. `python tests/test_project_files.py` lists modules without a test file."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "cocktail_hub"
TESTS = ROOT / "tests"
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def pyproject() -> dict:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no TOML parser")
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def first_column(heading: str) -> set[str]:
    """Names in backticks in the first column of the table under a heading of CONTRIBUTING.md."""
    section = GUIDE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))


def modules_without_tests() -> list[str]:
    """Modules, `testing` aside, that have no test file of their name in the same folder of `tests`."""
    modules = [path.relative_to(PACKAGE) for path in sorted(PACKAGE.rglob("[!_]*.py"))]
    return [
        module.as_posix()
        for module in modules
        if module.parts[0] != "testing" and not (TESTS / module.parent / f"test_{module.name}").is_file()
    ]


def test_every_module_has_a_test_file_of_its_name() -> None:
    assert modules_without_tests() == []


def test_wheels_contain_every_data_file() -> None:
    patterns = pyproject()["tool"]["setuptools"]["package-data"]["cocktail_hub"]
    packaged = {path for pattern in patterns for path in PACKAGE.glob(pattern)}
    files = {path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert packaged == {path for path in files if path.suffix != ".py"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_pin_every_action_to_a_commit(path: Path) -> None:
    jobs = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].values()
    actions = [step["uses"] for job in jobs for step in job.get("steps", []) if "uses" in step]
    assert not [action for action in actions if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", action)]


def test_workflows_cover_every_python_version_of_the_classifiers() -> None:
    tests = (ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8")
    classifiers = pyproject()["project"]["classifiers"]
    versions = set(re.findall(r"Python :: (3\.\d+)", " ".join(classifiers)))
    assert versions == set(re.findall(r'"(3\.\d+)"', tests))


def test_contributing_lists_every_marker() -> None:
    markers = pyproject()["tool"]["pytest"]["ini_options"]["markers"]
    assert first_column("Tests") == {marker.partition(":")[0] for marker in markers}


def test_contributing_names_rooms_that_exist() -> None:
    section = GUIDE.partition("## Find your way\n")[2].partition("\n## ")[0]
    rooms = re.findall(r"\| `(\w+)` \|$", section, re.MULTILINE)
    assert rooms
    assert not [room for room in rooms if not (PACKAGE / room).is_dir()]


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "SECURITY.md"])
def test_links_to_files_work(page: str) -> None:
    targets = re.findall(r"\]\(([^)#:\s]+)\)", (ROOT / page).read_text(encoding="utf-8"))
    assert targets
    assert not [target for target in targets if not (ROOT / target).exists()]


@pytest.mark.skipif(sys.platform != "linux", reason="sed of GNU")
def test_a_release_has_links_that_work_outside_of_the_repository(tmp_path: Path) -> None:
    release = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8"))
    (script,) = [step["run"] for step in release["jobs"]["build"]["steps"] if "ADDRESS" in step.get("env", ())]
    for name in ("README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    known = {**os.environ, "ADDRESS": "https://host/me/it", "GITHUB_REF_NAME": "v1"}
    subprocess.run(["bash", "-e", "-c", script], cwd=tmp_path, env=known, check=True)
    links = re.findall(r"\]\(([^)]*)\)", (tmp_path / "README.md").read_text(encoding="utf-8"))
    assert {"https://host/me/it/raw/v1/docs/forgetting.png", "https://host/me/it/blob/v1/docs/recipe.md"} < set(links)
    assert all(link.startswith("https://") for link in links)
    assert 'Source = "https://host/me/it"' in (tmp_path / "pyproject.toml").read_text(encoding="utf-8").splitlines()


def test_sdists_contain_every_file_of_the_repository() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("git does not know what belongs to it here")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    manifest = (ROOT / "MANIFEST.in").read_text(encoding="utf-8")
    known = {word for line in manifest.splitlines() for word in line.split()}
    by_itself = {"cocktail_hub", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"}
    assert {name.partition("/")[0] for name in listed.splitlines()} <= known | by_itself


if __name__ == "__main__":
    sys.exit("\n".join(modules_without_tests()) or 0)

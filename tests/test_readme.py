"""Every command and every line of Python that the README and the docs show is run, against a Hub on loopback."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import models
import pytest
from huggingface_hub import HfApi

from cocktail_hub.evaluation.examples import check_examples
from cocktail_hub.evaluation.settings import TASKS
from cocktail_hub.recipe import parse_recipe

if TYPE_CHECKING:
    from cocktail_hub.testing import LoopbackHub

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EMBEDDERS = ("BAAI/bge-base-en-v1.5", "Shitao/bge-hotpotqa", "Shitao/bge-quora")
TOKEN = "hf_me"


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def whole_recipes() -> list[tuple[str, str]]:
    found = [(page.name, block) for page in PAGES for block in blocks(page, "yaml")]
    return [(name, block) for name, block in found if re.search("^ingredients:", block, re.MULTILINE)]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to work in, as the README assumes it: a checkout's configs, and the models on the Hub."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "configs", folder / "configs")
    rows = [{"query": f"who wrote {word}", "pos": [f"{word} is by her"], "neg": ["a dog ran"]} for word in "abcd"]
    for name in ("hotpot", "others"):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


@pytest.fixture
def environment(hub: LoopbackHub) -> dict[str, str]:
    """Logged in as somebody who may write to every name that the README uses."""
    hub.add_user("me", token=TOKEN, orgs=("BAAI", "Shitao"))
    api = HfApi(token=TOKEN)
    for seed, name in enumerate(EMBEDDERS):
        if not api.repo_exists(name):
            folder = models.save("bert", seed, models.root() / f"readme-{seed}")
            api.create_repo(name)
            api.upload_folder(repo_id=name, folder_path=folder)
    scripts = str(Path(sys.executable).parent)
    return os.environ | {"HF_TOKEN": TOKEN, "PATH": scripts + os.pathsep + os.environ["PATH"]}


def run(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_python_of_the_readme_runs_as_it_stands(shelf: Path, environment: dict[str, str]) -> None:
    shown = blocks(ROOT / "README.md", "python")
    assert len(shown) >= 3
    for number, block in enumerate(shown):
        (shelf / f"block{number}.py").write_text(block, encoding="utf-8")
        run([sys.executable, f"block{number}.py"], shelf, environment)


@pytest.mark.slow
def test_the_commands_of_the_readme_run_as_they_stand(shelf: Path, environment: dict[str, str]) -> None:
    lines = [line for block in blocks(ROOT / "README.md", "bash") for line in block.splitlines() if line.strip()]
    targets = [line.split()[1] for line in lines if line.startswith("make ")]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert targets == ["demo", "test"]
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
    for line in lines:
        if not line.startswith("make "):
            run(["bash", "-c", line], shelf, environment)
    assert (shelf / "mix" / "README.md").is_file()


@pytest.mark.slow
def test_the_recipe_of_the_readme_with_examples_is_scored(shelf: Path, environment: dict[str, str]) -> None:
    shown = [text for page, text in whole_recipes() if page == "README.md" and "examples:" in text]
    assert len(shown) == 1
    (shelf / "scored.yaml").write_text(shown[0], encoding="utf-8")
    assert "Shitao/bge-quora" in run(["cocktail", "score", "scored.yaml"], shelf, environment)


@pytest.mark.parametrize(("page", "text"), whole_recipes())
def test_every_recipe_that_is_shown_is_valid(page: str, text: str) -> None:
    recipe = parse_recipe(text, name=page)
    assert recipe.weights or recipe.weighting
    if recipe.weighting and isinstance(recipe.weighting.examples, tuple):
        assert recipe.task in TASKS, "without it the reader's models decide which keys an example needs"
        examples = check_examples(recipe.weighting.examples, TASKS[recipe.task], columns=recipe.weighting.columns)
        assert len(examples) > (recipe.weighting.temperature == "auto")


def test_every_link_inside_the_repo_leads_somewhere() -> None:
    links = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
    targets = [(page, target) for page in PAGES for target in links.findall(page.read_text(encoding="utf-8"))]
    assert not [
        f"{p.name}: {target}" for p, target in targets if "://" not in target and not (p.parent / target).exists()
    ]

"""Every command of the tutorials runs as it stands, with small models under the names that the tutorials use."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import embedders
import models
import pytest
from models import FAMILIES, TOKEN, fill, pushed_files

from cocktail_hub.version import VERSION

pytestmark = [pytest.mark.whole, pytest.mark.slow, pytest.mark.usefixtures("hub")]
TUTORIALS = Path(__file__).parents[1] / "docs" / "tutorials"


@cache
def publish() -> None:
    """Push the models of all tutorials."""
    for seed, name in enumerate(("search", "support", "questions")):
        models.push(embedders._save("mean", 10 + seed), f"acme/{name}")
    for seed, name in enumerate(("base", "mine", *(f"task-{number}" for number in range(1, 9)))):
        models.push(models.save("llama", 20 + seed, models.root() / "tutorials" / name), f"acme/{name}")
    folder = models.root() / "tutorials" / "chat"
    make, tokenizer = FAMILIES["llama"]
    model, tokens = make(), tokenizer()
    tokens.add_tokens(["<tool>"])
    model.resize_token_embeddings(len(tokens), mean_resizing=False)
    fill(model, 40).save_pretrained(folder)
    tokens.save_pretrained(folder)
    models.push(folder, "acme/chat")


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of what is to be run."""
    text = (TUTORIALS / page).read_text(encoding="utf-8")
    return re.findall(r"^```(python|bash)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def run(page: str, folder: Path) -> str:
    """Run everything on a page; returns what was printed."""
    publish()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "HF_TOKEN": TOKEN, "COCKTAIL_HUB_CACHE": str(folder / "mixes")}
    printed = ""
    for language, block in blocks(page):
        command = [sys.executable, "-c", block] if language == "python" else ["bash", "-euc", block]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        printed += done.stdout
    return printed


def test_the_first_page(tmp_path: Path) -> None:
    recipe = "ingredients: [{model: acme/search, weight: 0.5}, {model: acme/support, weight: 0.5}]"
    (tmp_path / "recipe.yaml").write_text(recipe, encoding="utf-8")
    assert run("../index.md", tmp_path).endswith("same\n")


def test_a_new_task(tmp_path: Path) -> None:
    assert "effective number of ingredients" in run("new-task.md", tmp_path)
    assert (tmp_path / "new-task" / "modules.json").is_file()
    assert "model.safetensors" in pushed_files("alice/new-task")


def test_ten_models(tmp_path: Path) -> None:
    assert "mine, loss" in run("ten-models.md", tmp_path)
    assert "model.safetensors" in pushed_files("alice/ten")
    assert "sentence: 'mine: " in (tmp_path / "chosen.yaml").read_text(encoding="utf-8")


def test_tokenizers(tmp_path: Path) -> None:
    run("tokenizers.md", tmp_path)
    assert models.weights_of(tmp_path / "chat")["model.embed_tokens.weight"].shape[0] == len(models.WORDS) + 5
    assert models.weights_of(tmp_path / "rules")["model.embed_tokens.weight"].shape[0] == 64


def test_a_scheduled_mix(tmp_path: Path) -> None:
    printed = run("scheduled.md", tmp_path)
    first, again, verdict = printed.split()
    assert first == again, "nothing moved, so nothing is committed"
    assert verdict == "same"


@pytest.mark.ray
@pytest.mark.usefixtures("no_other_ray")
def test_a_cluster(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs cocktail-hub[ray]")
    run("cluster.md", tmp_path)
    assert "model.safetensors" in pushed_files("alice/large")


def test_air_gapped(tmp_path: Path) -> None:
    run("air-gapped.md", tmp_path)
    assert (tmp_path / "inside" / "mix" / "model.safetensors").is_file()
    assert (tmp_path / "inside" / "other" / "model.safetensors").is_file()


def test_the_hubs_machines(tmp_path: Path) -> None:
    assert "alice/mixed-there" in run("hub-jobs.md", tmp_path)
    assert "model.safetensors" in pushed_files("alice/mixed-there")
    assert f"cocktail_hub-{VERSION}-py3-none-any.whl" in (TUTORIALS / "hub-jobs.md").read_text(encoding="utf-8")


def test_every_tutorial_has_a_test() -> None:
    named = set(re.findall(r'run\("([\w-]+\.md)"', Path(__file__).read_text(encoding="utf-8")))
    assert named == {page.name for page in TUTORIALS.glob("*.md")}

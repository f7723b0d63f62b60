"""`cocktail pin`, `outdated` and `update`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cli_helpers import run, write
from huggingface_hub import HfApi
from models import TOKEN, pair, push

from cocktail_hub.recipe import read_recipe

if TYPE_CHECKING:
    from cocktail_hub.testing import LoopbackHub

pytestmark = pytest.mark.whole


def test_a_recipe_is_pinned_found_outdated_and_updated(tmp_path: Path) -> None:
    names = ["alice/pin-a", "alice/pin-b"]
    for name, folder in zip(names, pair("bert").folders, strict=True):
        push(folder, name)
    recipe = write(tmp_path, {"ingredients": [{"model": name, "weight": 0.5} for name in names]})
    pinned = run("pin", recipe)
    assert (pinned.exit_code, pinned.stdout) == (0, f"{recipe}\n")
    assert all(i.pinned for i in read_recipe(recipe).ingredients)
    assert run("outdated", recipe).exit_code == 0
    HfApi(token=TOKEN).upload_file(
        path_or_fileobj=b"new", path_in_repo="new.txt", repo_id=names[0], commit_message="Add news"
    )
    late = run("outdated", recipe)
    assert late.exit_code == 4
    rows = [line.split() for line in late.stdout.splitlines()]
    assert (rows[1][0], rows[1][-1], rows[2][-1]) == (names[0], "moved", "same")
    assert late.stdout.endswith("Add news\n  added new.txt\n")
    assert [m["moved"] for m in json.loads(run("outdated", recipe, "--json").stdout)] == [True, False]
    other = run("update", recipe, names[1])
    assert (other.exit_code, other.stderr) == (0, "")
    done = run("update", recipe, "--all")
    assert done.exit_code == 4
    assert f"{names[0]}: " in done.stderr
    assert run("outdated", recipe).exit_code == 0
    wrong = run("update", recipe, "alice/pin-c")
    assert (wrong.exit_code, "no model 'alice/pin-c' on the Hub. Did you mean" in wrong.stderr) == (2, True)


def test_models_that_are_gone_or_gated_are_said_one_by_one(tmp_path: Path, hub: LoopbackHub) -> None:
    push(pair("bert").folders[0], "alice/pin-gated")
    hub.set_gated("alice/pin-gated")
    models = [{"model": name, "weight": 0.5} for name in ("alice/pin-gone", "alice/pin-gated")]
    for command in ("outdated", "pin"):
        done = run(command, write(tmp_path, {"ingredients": models}))
        assert done.exit_code == 1
        assert "Error: 'alice/pin-gone' is not on the Hub" in done.stderr
        assert "\n'alice/pin-gated' is gated" in done.stderr


def test_a_repo_is_pinned_to_a_file(tmp_path: Path) -> None:
    for name, folder in zip("ab", pair("bert").folders, strict=True):
        push(folder, f"alice/pinned-{name}")
    recipe = write(tmp_path, {"ingredients": [{"model": f"alice/pinned-{name}", "weight": 0.5} for name in "ab"]})
    assert run("push", recipe, "alice/pinned", "--as", "recipe", "--token", TOKEN).exit_code == 0
    assert "Say where to write: -o recipe.yaml." in run("pin", "alice/pinned").stderr
    done = run("pin", "alice/pinned", "-o", tmp_path / "out.yaml")
    assert done.exit_code == 0, done.stderr
    assert [i.requested for i in read_recipe(tmp_path / "out.yaml").ingredients] == ["main", "main"]

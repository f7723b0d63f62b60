"""The commands that take a recipe: what they do, and what goes to which stream."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cli_helpers import HEAVY, loaded_by, run, write
from models import TOKEN, assert_holds, expected, pair, published

if TYPE_CHECKING:
    from cocktail_hub.testing import LoopbackHub

pytestmark = pytest.mark.whole

# -- mix -----------------------------------------------------------------------------------------------------------


def test_local_models_are_mixed_without_the_hubs_client(tmp_path: Path) -> None:
    for number, folder in enumerate(pair("bert").folders):
        shutil.copytree(folder, tmp_path / str(number))
    (tmp_path / "0" / "README.md").write_text("---\nlicense: mit\n---\n# A model with a card\n")
    models = [{"model": str(tmp_path / name), "weight": 0.5} for name in "01"]
    shown, loaded = loaded_by("mix", write(tmp_path, {"ingredients": models}), "-o", tmp_path / "mix")
    assert shown == f"{tmp_path / 'mix'}\n"
    assert loaded == set()
    assert "| `mit` |" in (tmp_path / "mix" / "README.md").read_text(encoding="utf-8")


def test_mix_prints_the_folder_and_nothing_else(recipe: Path, fresh_cache: Path) -> None:
    done = run("mix", recipe)
    assert done.exit_code == 0
    folder = Path(done.stdout.removesuffix("\n"))
    assert folder.parent == fresh_cache / "mixes"
    assert done.stderr.startswith("Merged ")
    from transformers import AutoModel

    assert_holds(AutoModel.from_pretrained(folder), expected("bert"))


@pytest.mark.usefixtures("fresh_cache")
def test_models_are_mixed_without_a_file(tmp_path: Path) -> None:
    first, second = pair("bert").folders
    done = run("mix", first, second, "--weights", "0.75", "0.25", "-o", tmp_path / "mix")
    assert done.exit_code == 0, done.stderr
    again = run("mix", "--weights=3,1", "--normalize", first, second, "--set", "dtype=float64", "--json")
    recipe = json.loads(again.stdout)["recipe"]
    assert ([i["weight"] for i in recipe["ingredients"]], recipe["dtype"]) == ([3.0, 1.0], "float64")
    checked = run("check", first, second, "--method", "task_arithmetic", "--base", first, "--json")
    assert json.loads(checked.stdout)["method"] == "task_arithmetic"
    assert checked.stderr.splitlines()[0] == "note: the models get equal weights; --weights gives others."
    assert [m["weight"] for m in json.loads(checked.stdout)["models"]] == [None, 0.5, 0.5]


def test_a_mix_of_models_is_pushed_without_a_file() -> None:
    models = ("acme/bert-a", "acme/bert-b") if published("bert") else ()
    done = run("push", *models, "--weights", "1", "1", "--normalize", "--to", "alice/cli-models", "--token", TOKEN)
    assert done.exit_code == 0, done.stderr
    assert run("verify", "alice/cli-models").stdout == "same\n"


def test_models_are_scored_without_a_file(tmp_path: Path) -> None:
    models, examples = pair("llama").folders, tmp_path / "e.jsonl"
    examples.write_text('{"input": "a b c", "output": "d"}\n{"input": "b", "output": "c d"}\n')
    done = run("score", *models, "--examples", examples, "--scoring-device", "cpu", "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert sum(i["weight"] for i in found["ingredients"]) == pytest.approx(1)
    assert found["evidence"]["examples"]["source"] == "e.jsonl"


def test_mix_says_what_to_know_about_computed_weights(tmp_path: Path) -> None:
    found = {"rule": "softmax", "sentence": "temperature 0.1 leaves one ingredient alone in the mix: 0.000 / 1.000"}
    done = run("mix", write(tmp_path, published("bert").recipe | {"evidence": found}))
    assert f"note: {found['sentence']}" in done.stderr.splitlines()


def test_mix_writes_to_a_folder_of_choice(recipe: Path, tmp_path: Path) -> None:
    done = run("mix", recipe, "-o", tmp_path / "out")
    assert (done.exit_code, done.stdout) == (0, f"{tmp_path / 'out'}\n")
    assert (tmp_path / "out" / "model.safetensors").is_file()
    again = run("mix", recipe, "-o", tmp_path / "out")
    assert again.exit_code == 0
    assert "nothing was downloaded or merged" in again.stderr


def test_a_folder_with_other_things_is_not_written_to(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "diary.txt").write_text("dear diary")
    done = run("mix", recipe, "-o", tmp_path / "out", "--force")
    assert done.exit_code == 1
    assert "is not only an earlier mix: diary.txt" in done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["diary.txt"]


@pytest.mark.usefixtures("fresh_cache")
def test_mix_as_json(recipe: Path) -> None:
    first, second = run("mix", recipe, "--json"), run("mix", recipe, "--json")
    made, again = json.loads(first.stdout), json.loads(second.stdout)
    assert (made["cached"], again["cached"]) == (False, True)
    assert made["merged"]["bytes_written"] > 0
    assert Path(made["path"]).name == made["digest"] == again["digest"]
    assert [len(i["revision"]) for i in made["recipe"]["ingredients"]] == [40, 40]


@pytest.mark.usefixtures("fresh_cache")
@pytest.mark.parametrize("where", ["hub", "hub, offline", "folders"])
@pytest.mark.parametrize("to", ["cache", "folder"])
def test_a_mix_that_is_there_is_found_without_torch(
    where: str, to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = published("bert")
    recipe = write(tmp_path, pair.local_recipe if where == "folders" else pair.recipe)
    output = ("-o", tmp_path / "out") if to == "folder" else ()
    made = run("mix", recipe, *output)
    assert made.exit_code == 0, made.stderr
    if where == "hub, offline":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found, loaded = loaded_by("mix", recipe, *output)
    assert found == made.stdout
    assert not loaded & set(HEAVY)


@pytest.mark.usefixtures("fresh_cache")
def test_a_mix_that_is_there_is_copied_without_torch(recipe: Path, tmp_path: Path) -> None:
    run("mix", recipe)
    found, loaded = loaded_by("mix", recipe, "-o", tmp_path / "out")
    assert found == f"{tmp_path / 'out'}\n"
    assert not loaded & set(HEAVY)


@pytest.mark.parametrize("arguments", [("mix", "--dry-run"), ("check",)])
def test_a_look_ahead_downloads_no_weights(
    arguments: tuple[str, ...], recipe: Path, fresh_cache: Path, tmp_path: Path, hub: LoopbackHub
) -> None:
    done = run(*arguments, recipe, "--cache-dir", tmp_path / "hub")
    assert done.exit_code == 0
    assert {r.headers.get("range") is not None for r in hub.requests if r.path.startswith("/_cdn/")} == {True}
    assert list((tmp_path / "hub").rglob("*.safetensors")) == []
    assert not (fresh_cache / "mixes").exists()
    head, first, second, *facts = done.stdout.splitlines()
    assert head.split() == ["model", "revision", "weight", "size", "licence"]
    assert (first.split()[0], first.split()[2]) == ("acme/bert-a", "0.75")
    assert (second.split()[0], second.split()[2]) == ("acme/bert-b", "0.25")
    assert [line.split()[0] for line in facts if line] == ["result", "download", "weights", "disk", "memory", "licence"]


def test_check_as_json(recipe: Path, tmp_path: Path) -> None:
    found = json.loads(run("check", recipe, "--json", "--cache-dir", tmp_path / "hub").stdout)
    assert (found["architecture"], found["method"]) == ("BertModel", "linear")
    assert found["to_download"] == sum(model["to_download"] for model in found["models"]) > 0
    assert found["files"] == ["model.safetensors"]


# -- push and verify -----------------------------------------------------------------------------------------------


def test_push_prints_where_it_is_and_verify_makes_it_again(recipe: Path, hub: LoopbackHub) -> None:
    done = run("push", recipe, "alice/cli-both", "--as", "both", "--token", TOKEN, "-m", "Try the command")
    assert (done.exit_code, done.stdout.startswith(f"{hub.url}/alice/cli-both/commit/")) == (0, True)
    found = run("verify", "alice/cli-both")
    assert (found.exit_code, found.stdout) == (0, "same\n")


def test_push_of_a_recipe_as_json(recipe: Path) -> None:
    done = run("push", recipe, "alice/cli-recipe", "--as", "recipe", "--token", TOKEN, "--private", "--json")
    pushed = json.loads(done.stdout)
    assert len(pushed["commit"]) == 40
    assert pushed["pull_request"] is None
    assert "private" in run("mix", "alice/cli-recipe").stderr
    assert run("mix", "alice/cli-recipe", "--token", TOKEN).exit_code == 0


@pytest.mark.usefixtures("hub")
@pytest.mark.usefixtures("fresh_cache")
def test_the_revision_is_that_of_the_recipes_repo(recipe: Path, tmp_path: Path) -> None:
    even = json.loads(json.dumps(published("bert").recipe))
    for ingredient in even["ingredients"]:
        ingredient["weight"] = 0.5
    (tmp_path / "even").mkdir()
    other, common = write(tmp_path / "even", even), ("--as", "recipe", "--token", TOKEN)
    assert run("push", recipe, "alice/cli-branches", *common).exit_code == 0
    assert run("push", other, "alice/cli-branches", *common, "--to-branch", "even").exit_code == 0

    def weights(*words: str) -> list[float]:
        return [i["weight"] for i in json.loads(run("mix", *words, "--json").stdout)["recipe"]["ingredients"]]

    where = ("alice/cli-branches", "--revision", "even")
    assert weights("alice/cli-branches") != [0.5, 0.5]
    assert weights(*where) == [0.5, 0.5]
    assert [m["weight"] for m in json.loads(run("check", *where, "--json").stdout)["models"]] == [0.5, 0.5]
    for name, form in (("a", ("--as", "recipe")), ("b", ()), ("c", ("--low-disk",))):
        done = run("push", where[0], f"alice/cli-even-{name}", *where[1:], *form, "--token", TOKEN)
        assert done.exit_code == 0, done.stderr
        assert weights(f"alice/cli-even-{name}") == [0.5, 0.5]


def test_push_to_a_namespace_of_others_is_refused(recipe: Path) -> None:
    done = run("push", recipe, "bob/mine", "--token", TOKEN)
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)
    assert "bob/mine" in done.stderr
    assert len(done.stderr.splitlines()) > 1

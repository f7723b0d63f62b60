"""A mix is finished only if it would load: tried beside the merge, here or in a process, and remembered."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import models
import pytest
import trials
from safetensors.torch import load_file, save_file

from cocktail_hub import AutoCocktailModel, MixOptions, mix, publish
from cocktail_hub.errors import IncompatibleError
from cocktail_hub.evaluation import load_check
from cocktail_hub.evaluation.load_trial import Request, Verdict, try_loading

NOTE = "A BertModel starts 'pooler.dense.weight' and 1 more at random, which no ingredient has."


def rewrite(folder: Path, change: Any) -> None:
    """Give the tensors of a model other names; those that become empty are left out."""
    tensors = {change(name): tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    tensors.pop("", None)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


@pytest.fixture
def recipe(tmp_path: Path) -> dict[str, Any]:
    """Two encoders without a pooler."""
    folders = [models.save("bert", seed, tmp_path / f"m{seed}") for seed in range(2)]
    for folder in folders:
        rewrite(folder, lambda name: "" if name.startswith("pooler") else name)
    return recipe_of(*folders)


@pytest.fixture
def wrong(tmp_path: Path) -> dict[str, Any]:
    """Two encoders whose names have a part too many."""
    folders = [models.save("bert", seed, tmp_path / f"w{seed}") for seed in range(2)]
    for folder in folders:
        rewrite(folder, lambda name: f"model.{name}")
    return recipe_of(*folders)


def recipe_of(*folders: Path, weight: float = 0.5) -> dict[str, Any]:
    pairs = zip(folders, (weight, 1 - weight), strict=True)
    return {"ingredients": [{"model": str(folder), "weight": w} for folder, w in pairs]}


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Request]:
    """What is tried in this process, with an empty cache."""
    monkeypatch.setenv("COCKTAIL_HUB_CACHE", str(tmp_path / "cache"))
    requests = []

    def noted(request: Request) -> Verdict:
        requests.append(request)
        return try_loading(request)

    monkeypatch.setattr(load_check, "try_loading", noted)
    return requests


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch, tried: list[Request]) -> list[bool]:
    """Whether each process was started in a hurry: nothing is tried in this one."""
    started = []

    def noted(request: Request, *, light: bool) -> Any:
        started.append(light)
        return trials.start_process(request, light=light)

    monkeypatch.setattr(load_check, "_start", noted)
    return started


# -- here ------------------------------------------------------------------------------------------------------------


def test_what_is_worth_knowing_is_in_the_report(recipe: dict[str, Any], tried: list[Request], tmp_path: Path) -> None:
    assert NOTE in mix(recipe, output=tmp_path / "out").report["notes"]
    assert len(tried) == 1


def test_a_mix_that_would_not_load_is_not_finished(wrong: dict[str, Any], tried: list[Request], tmp_path: Path) -> None:
    before = set(tmp_path.iterdir())
    with pytest.raises(IncompatibleError, match="The mix is no BertModel: it lacks") as caught:
        mix(wrong, output=tmp_path / "out")
    assert caught.value.model == wrong["ingredients"][0]["model"]
    assert caught.value.tensor == "embeddings.word_embeddings.weight"
    assert set(tmp_path.iterdir()) - {tmp_path / "cache"} == before
    assert len(tried) == 2, "an error is looked at twice, the second time with the ingredients' own files"
    assert not list((tmp_path / "cache").rglob("loads/*"))


def test_other_weights_for_the_same_models_are_not_tried_again(
    recipe: dict[str, Any], tried: list[Request], tmp_path: Path
) -> None:
    other = recipe_of(*(Path(one["model"]) for one in recipe["ingredients"]), weight=0.25)
    notes = [mix(wanted, output=tmp_path / f"out{n}").report["notes"] for n, wanted in enumerate((recipe, other))]
    assert notes[0] == notes[1]
    assert len(tried) == 1


@pytest.mark.whole
@pytest.mark.parametrize("text", ["", "{", "[]", '{"error": ""}', '{"notes": [], "other": 1}', '{"notes": 1}'])
def test_a_damaged_verdict_is_not_taken_for_one(
    recipe: dict[str, Any], tried: list[Request], tmp_path: Path, text: str
) -> None:
    mix(recipe, output=tmp_path / "out")
    (kept,) = (tmp_path / "cache" / "loads").iterdir()
    kept.write_text(text)
    assert NOTE in mix(recipe, output=tmp_path / "again", options=MixOptions(force=True)).report["notes"]
    assert len(tried) == 2


def test_another_tokenizer_is_tried(recipe: dict[str, Any], tried: list[Request], tmp_path: Path) -> None:
    mix(recipe, output=tmp_path / "out")
    tokenizer = Path(recipe["ingredients"][0]["model"], "tokenizer_config.json")
    tokenizer.write_text(json.dumps(json.loads(tokenizer.read_text()) | {"padding_side": "left"}))
    mix(recipe, output=tmp_path / "other")
    assert len(tried) == 2


def test_a_mix_from_the_cache_is_not_tried(recipe: dict[str, Any], tried: list[Request]) -> None:
    assert mix(recipe).path == mix(recipe).path
    assert len(tried) == 1


def test_a_task_without_its_head_is_refused(recipe: dict[str, Any], tried: list[Request], tmp_path: Path) -> None:
    with pytest.raises(IncompatibleError, match="Leave out `task: text-ranking`, or mix models that were trained"):
        mix(recipe | {"task": "text-ranking"}, output=tmp_path / "out")


def test_a_tokenizer_as_bad_as_the_ingredients_is_noted(
    recipe: dict[str, Any], tried: list[Request], tmp_path: Path
) -> None:
    for one in recipe["ingredients"]:
        path = Path(one["model"], "tokenizer.json")
        path.write_text(json.dumps(json.loads(path.read_text()) | {"pre_tokenizer": {"type": "Unheard"}}))
    notes = mix(recipe, output=tmp_path / "out").report["notes"]
    assert any(note.startswith("The tokenizer of the mix does not load here, as little as") for note in notes)
    assert [bool(request.givers) for request in tried] == [False, True]


@pytest.fixture
def pushed(tmp_path: Path) -> dict[str, Any]:
    """Two encoders on the Hub whose names have a part too many."""
    for seed in range(2):
        folder = models.save("bert", seed, tmp_path / f"p{seed}")
        rewrite(folder, lambda name: f"model.{name}")
        models.push(folder, f"acme/wrong-{seed}")
    return {"ingredients": [{"model": f"acme/wrong-{seed}", "weight": 0.5} for seed in range(2)]}


@pytest.mark.whole
def test_nothing_is_uploaded_of_a_mix_that_would_not_load(pushed: dict[str, Any], hub: Any, token: str) -> None:
    hub.clear_requests()
    with pytest.raises(IncompatibleError, match="The mix is no BertModel"):
        publish(pushed, "alice/wrong-mix", token=token, options=MixOptions(low_disk=True))
    assert not [request for request in hub.requests if request.method == "PUT"]


@pytest.mark.whole
def test_what_the_trial_notes_is_on_the_card_of_a_mix_made_on_little_disk(
    recipe: dict[str, Any], hub: Any, token: str
) -> None:
    for number, ingredient in enumerate(recipe["ingredients"]):
        models.push(Path(ingredient["model"]), f"acme/poolerless-{number}")
        ingredient["model"] = f"acme/poolerless-{number}"
    publish(recipe, "alice/poolerless-mix", token=token, options=MixOptions(low_disk=True))
    assert NOTE in models.read_pushed("alice/poolerless-mix", "README.md")


@pytest.mark.whole
def test_no_large_weights_are_downloaded_for_a_mix_that_would_not_load(
    pushed: dict[str, Any], hub: Any, token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cocktail_hub.pipeline.mix.LONG_DOWNLOAD", 0)
    hub.clear_requests()
    with pytest.raises(IncompatibleError, match="The mix is no BertModel"):
        mix(pushed, output=tmp_path / "out", token=token, cache_dir=tmp_path / "hub")
    assert not list((tmp_path / "hub").rglob("model.safetensors"))


# -- in a process of its own -----------------------------------------------------------------------------------------


@pytest.mark.whole
def test_where_no_libraries_are_loaded_a_process_has_them(
    recipe: dict[str, Any], apart: list[bool], tried: list[Request], tmp_path: Path
) -> None:
    assert NOTE in mix(recipe, output=tmp_path / "out").report["notes"]
    assert (apart, tried) == ([True], [])


@pytest.mark.whole
def test_what_a_hurried_process_finds_wrong_is_looked_at_with_all_libraries(
    wrong: dict[str, Any], apart: list[bool], tmp_path: Path
) -> None:
    with pytest.raises(IncompatibleError, match="The mix is no BertModel: it lacks"):
        mix(wrong, output=tmp_path / "out")
    assert apart == [True, False]


def test_a_process_that_dies_says_nothing_about_the_mix(
    recipe: dict[str, Any], apart: list[bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(python))
    notes = mix(recipe, output=tmp_path / "out").report["notes"]
    assert notes[-1] == "Whether the mix loads could not be tried: no process could be run for it."
    assert apart == [True, False]


def test_a_program_that_is_no_python_starts_no_process(
    recipe: dict[str, Any], apart: list[bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_check, "runs_python", lambda: False)
    notes = mix(recipe, output=tmp_path / "out").report["notes"]
    assert notes[-1] == "Whether the mix loads could not be tried: no process could be run for it."


def test_a_process_ends_with_a_merge_that_fails(
    recipe: dict[str, Any], apart: list[bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []
    start = load_check._start
    monkeypatch.setattr(load_check, "_start", lambda *a, **k: started.append(start(*a, **k)) or started[0])
    monkeypatch.setattr("cocktail_hub.pipeline.mix.write_weights", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        mix(recipe, output=tmp_path / "out")
    assert started[0].returncode is not None


def test_who_loads_the_mix_next_starts_no_process(
    recipe: dict[str, Any], apart: list[bool], tried: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_check, "_start", trials.start_process)
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a process was started"))
    assert type(AutoCocktailModel.from_pretrained(recipe)).__name__ == "BertModel"
    assert len(tried) == 1

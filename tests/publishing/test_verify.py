"""Is a published mix what its recipe says?"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import embedders
import models
import pytest
from click.testing import CliRunner
from huggingface_hub import HfApi

from cocktail_hub import MixOptions, check, mix, publish, verify
from cocktail_hub.cli import main
from cocktail_hub.errors import RecipeError, SourceError

if TYPE_CHECKING:
    from pathlib import Path

    from cocktail_hub.testing import LoopbackHub

pytestmark = pytest.mark.whole


def recipe(weights: tuple[float, float] = (0.25, 0.75)) -> dict:
    pair = models.published("bert")
    return {"ingredients": [{"model": m, "weight": w} for m, w in zip(pair.ids, weights, strict=True)]}


def damage(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_a_mix_on_the_hub_is_the_same_and_its_weights_are_not_downloaded(hub: LoopbackHub, token: str) -> None:
    publish(recipe(), "alice/verified", token=token)
    hub.clear_requests()
    found = verify("alice/verified", token=token)
    assert found.same
    assert found.differences == []
    assert list(found.found) == ["model.safetensors"]
    assert not [r for r in hub.requests if "alice/verified/resolve" in r.path and "model.safetensors" in r.path]


def test_weights_that_somebody_changed_are_told_by_file(token: str, tmp_path: Path) -> None:
    publish(recipe(), "alice/changed", token=token)
    shutil.copytree(mix(recipe(), token=token).path, tmp_path / "copy")
    damage(tmp_path / "copy")
    HfApi(token=token).upload_file(
        path_or_fileobj=tmp_path / "copy" / "model.safetensors",
        path_in_repo="model.safetensors",
        repo_id="alice/changed",
    )
    found = verify("alice/changed", token=token)
    assert not found.same
    assert len(found.differences) == 1
    assert found.differences[0].startswith("model.safetensors has sha256 ")


def test_a_mix_cut_into_shards_is_made_again_with_the_same_cut(token: str, tmp_path: Path) -> None:
    mix(recipe(), output=tmp_path / "cut", options=MixOptions(max_shard_size=4000), token=token)
    assert len(list((tmp_path / "cut").glob("model-*.safetensors"))) > 1
    assert verify(tmp_path / "cut", token=token).same


def test_the_cut_of_an_old_layout_is_found_in_the_folder_of_its_module(token: str, tmp_path: Path) -> None:
    mixed = embedders.recipe("old")
    mix(mixed, output=tmp_path / "cut", options=MixOptions(max_shard_size=4000), token=token)
    assert len(list((tmp_path / "cut").rglob("model-*.safetensors"))) > 1
    assert verify(tmp_path / "cut", token=token).same


def test_a_recipe_without_weights_has_nothing_to_verify(token: str, tmp_path: Path) -> None:
    config = {"model_type": "cocktail", "recipe": recipe()}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(RecipeError, match="has no merged weights"):
        verify(tmp_path, token=token)


def test_it_is_made_again_from_the_ingredients_whatever_the_cache_holds(
    token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COCKTAIL_HUB_CACHE", str(tmp_path / "cache"))
    made = mix(recipe((0.4, 0.6)), token=token)
    publish(made, "alice/from-a-damaged-cache", token=token)
    damage(made.path)  # of the same size, so the cache takes it for whole
    assert mix(recipe((0.4, 0.6)), token=token).path == made.path
    assert verify("alice/from-a-damaged-cache", token=token).same


@pytest.mark.parametrize("place", ["repo", "folder"])
def test_weights_that_were_changed_are_not_mixed_again_in_silence(place: str, token: str, tmp_path: Path) -> None:
    folder = mix(recipe(), output=tmp_path / "made", token=token).path
    damage(folder)
    (folder / "adapter_model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    source: Any = folder
    if place == "repo":
        source = "alice/changed-since"
        publish(recipe(), source, token=token)
        HfApi(token=token).upload_folder(repo_id=source, folder_path=folder, allow_patterns="*.safetensors")
    words = (
        rf"^'{source}' was trained, or changed .+: adapter_model\.safetensors was added\.\nIts recipe\.json does not"
    )
    for use in (mix, check, publish_there):
        with pytest.raises(RecipeError, match=words):
            use(source, token=token)
    assert verify(source, token=token).changed == (
        "adapter_model.safetensors was added",
        "model.safetensors has other weights than were mixed",
    )
    assert mix(folder / "recipe.json", token=token).recipe.digest == mix(recipe(), token=token).recipe.digest


def publish_there(source: Any, token: str) -> None:
    publish(source, "alice/changed-again", token=token)


def test_weights_without_a_list_of_what_was_mixed_are_not_taken_for_the_mix(token: str, tmp_path: Path) -> None:
    folder = mix(recipe(), output=tmp_path / "made", token=token).path
    (folder / ".cocktail.json").unlink()
    with pytest.raises(RecipeError, match=r"\.cocktail\.json, the list of the weights that were mixed, is missing"):
        mix(folder, token=token)
    assert verify(folder, token=token).same


def test_a_recipe_that_names_branches_proves_nothing(token: str, tmp_path: Path) -> None:
    folder = mix(recipe(), output=tmp_path / "made", token=token).path
    (folder / "recipe.json").write_text(json.dumps(recipe()))
    with pytest.raises(
        RecipeError, match=r"is not resolved, so it does not say exactly what these weights are made of\.\n'"
    ):
        verify(folder, token=token)


def test_an_ingredient_that_is_gone_cannot_be_checked(token: str, tmp_path: Path) -> None:
    folder = models.save("bert", 9, tmp_path / "gone")
    local = {"ingredients": [{"model": str(folder), "weight": 0.5}, recipe()["ingredients"][0] | {"weight": 0.5}]}
    made = mix(local, output=tmp_path / "made", token=token)
    shutil.rmtree(folder)
    with pytest.raises(SourceError, match="There is no folder"):
        verify(made.path, token=token)


def test_exit_codes_say_same_different_and_not_checked(token: str, tmp_path: Path) -> None:
    made = mix(recipe((0.5, 0.5)), output=tmp_path / "made", token=token)
    run = CliRunner()
    same = run.invoke(main, ["verify", str(made.path), "--token", token])
    assert (same.exit_code, same.stdout) == (0, "same\n")
    damage(made.path)
    different = run.invoke(main, ["verify", str(made.path), "--token", token])
    assert different.exit_code == 1
    assert different.stdout.startswith(
        "different: trained, or changed in another way, since it was mixed\nmodel.safetensors has sha256 "
    )
    unknown = run.invoke(main, ["verify", str(tmp_path / "nothing"), "--token", token])
    assert unknown.exit_code == 3
    assert "could not check" in unknown.stderr


# -- the evidence ----------------------------------------------------------------------------------------------------

ROWS = [
    {"query": "where is the cat", "pos": ["the cat sat on the mat"], "neg": ["a dog ran", "paris", "yes"]},
    {"query": "who ran", "pos": ["a dog ran in the park"], "neg": ["the cat sat", "rome is it"]},
    {"query": "what is it", "pos": ["it is paris"], "neg": ["no", "the pod keeps crashing"]},
]


def scored(folder: Path, token: str, examples: Any = ROWS, **keys: Any) -> Path:
    """A mix whose weights were computed."""
    ids = list(models.published("bert").ids)
    weighting = {"examples": examples, "temperature": 0.1, **keys}
    return mix({"ingredients": ids, "weighting": weighting}, output=folder, token=token).path


def test_the_evidence_is_computed_again_from_the_examples(token: str, tmp_path: Path) -> None:
    folder = scored(tmp_path / "made", token)
    assert verify(folder, token=token).evidence is None
    found = verify(folder, examples=ROWS, token=token)
    assert (found.evidence, found.same) == ((), True)
    path = folder / "recipe.json"
    recipe = json.loads(path.read_text())
    loss = recipe["evidence"]["ingredients"][1]["loss"]
    recipe["evidence"]["ingredients"][1]["loss"] = loss - 0.5
    path.write_text(json.dumps(recipe))
    found = verify(folder, examples=ROWS, token=token)
    assert found.evidence == (f"ingredients 2 loss is {loss - 0.5:.6g}, computed again {loss:.6g}",)
    assert (found.differences, found.same) == ([], False)


def test_nothing_that_is_cached_counts_as_computed_again(token: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("COCKTAIL_HUB_CACHE", str(tmp_path / "cache"))
    folder = scored(tmp_path / "made", token)
    for path in (tmp_path / "cache" / "losses").rglob("*.json"):
        path.write_text(path.read_text().replace('"mean": ', '"mean": 1'))
    assert verify(folder, examples=ROWS, token=token).evidence == ()


@pytest.mark.parametrize("keys", [
    {"rule": "ensemble", "fallback": "never"},
    {"rule": "greedy", "fallback": "never", "metric": "MRR"},
    {"rule": "greedy"},
])  # fmt: skip
def test_every_rule_gives_its_evidence_again(keys: dict, token: str, tmp_path: Path) -> None:
    folder = scored(tmp_path / "made", token, **keys)
    assert verify(folder, examples=ROWS, token=token).evidence == ()


def test_the_anchor_keeps_its_share_when_the_evidence_is_computed_again(token: str, tmp_path: Path) -> None:
    ids, third = list(models.published("bert").ids), models.save("bert", 7, tmp_path / "third")
    anchored = {"ingredients": ids, "anchor": {"model": str(third), "share": 0.25}, "weighting": {"examples": ROWS}}
    folder = mix(anchored, output=tmp_path / "made", token=token).path
    assert verify(folder, examples=ROWS, token=token).evidence == ()


def test_equal_weights_need_no_examples_to_be_computed_again(token: str, tmp_path: Path) -> None:
    ids = list(models.published("bert").ids)
    folder = mix({"ingredients": ids, "weighting": {"rule": "uniform"}}, output=tmp_path / "made", token=token).path
    assert verify(folder, evidence=True, token=token).evidence == ()


def test_examples_on_the_hub_are_found_at_their_commit(token: str, tmp_path: Path) -> None:
    api = HfApi(token=token)
    api.create_repo("alice/behind-the-weights", repo_type="dataset")
    content = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    for data in (content, content[: content.index(b"\n") + 1]):
        if data != content:
            folder = scored(tmp_path / "made", token, "alice/behind-the-weights")
        api.upload_file(
            path_or_fileobj=data, path_in_repo="rows.jsonl", repo_id="alice/behind-the-weights", repo_type="dataset"
        )
    assert verify(folder, evidence=True, token=token).evidence == ()


def test_examples_that_are_not_published_cannot_be_checked(token: str, tmp_path: Path) -> None:
    folder = scored(tmp_path / "made", token)
    result = CliRunner().invoke(main, ["verify", str(folder), "--evidence", "--token", token])
    assert result.exit_code == 3
    assert "The examples behind the weights of" in result.stderr
    assert "are not published (inline)" in result.stderr
    with pytest.raises(SourceError, match="The examples are not those behind the weights"):
        verify(folder, examples=ROWS[:2], token=token)


def test_weights_that_were_given_have_no_evidence_to_compute_again(token: str, tmp_path: Path) -> None:
    folder = mix(recipe(), output=tmp_path / "made", token=token).path
    with pytest.raises(SourceError, match="were given, and its recipe does not say all that led to them"):
        verify(folder, evidence=True, token=token)


def test_the_command_says_which_numbers_differ(token: str, tmp_path: Path) -> None:
    folder = scored(tmp_path / "made", token)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    arguments = ["verify", str(folder), "--examples", str(rows), "--token", token]
    result = CliRunner().invoke(main, arguments)
    assert (result.exit_code, result.stdout) == (0, "same\n"), result.output
    assert "Computed the evidence again: no number(s) differ." in result.stderr
    path = folder / "recipe.json"
    path.write_text(path.read_text().replace('"temperature": 0.1', '"temperature": 0.2', 1))
    result = CliRunner().invoke(main, [*arguments, "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["evidence"]

"""Is a published mix what its recipe says?"""

from __future__ import annotations

import json
import os
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
    assert different.exit_code == 4
    assert different.stdout.startswith(
        "different: trained, or changed in another way, since it was mixed\nmodel.safetensors has sha256 "
    )
    unknown = run.invoke(main, ["verify", str(tmp_path / "nothing"), "--token", token])
    assert unknown.exit_code == 3
    assert "could not check" in unknown.stderr


def test_ingredients_are_hashed_anew_and_it_says_which_were_here_already(
    token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = mix(recipe(), output=tmp_path / "made", token=token).path
    cache = tmp_path / "hub"
    first = verify(folder, token=token, cache_dir=cache)
    assert (first.same, first.local_copies) == (True, ())
    arguments = ["verify", str(folder), "--token", token, "--cache-dir", str(cache)]
    result = CliRunner().invoke(main, arguments)
    assert (result.exit_code, result.stdout) == (0, "same\n")
    assert "On this machine already, and hashed anew: acme/bert-a, acme/bert-b." in result.stderr
    monkeypatch.setattr("cocktail_hub.resolve.resolve.WORTH_NOTING", 1)
    verify(folder, token=token, cache_dir=cache)
    (blob,) = {path.resolve() for path in cache.glob("models--acme--bert-a/snapshots/*/model.safetensors")}
    before = blob.stat()
    damage_blob = bytearray(blob.read_bytes())
    damage_blob[-1] ^= 1
    blob.write_bytes(damage_blob)
    os.utime(blob, ns=(before.st_atime_ns, before.st_mtime_ns))
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 3
    assert "'model.safetensors' of 'acme/bert-a' is damaged: its sha256 is" in result.stderr

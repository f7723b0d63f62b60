"""A mix has only bytes of which the Hub states the hash."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import models
import pytest
from huggingface_hub import HfApi

from cocktail_hub import MixOptions, mix
from cocktail_hub.errors import SourceError
from cocktail_hub.hub import Hub
from cocktail_hub.merge.engine import execute
from cocktail_hub.resolve import resolve
from cocktail_hub.storage.cache import Cache

if TYPE_CHECKING:
    from pathlib import Path

    from cocktail_hub.testing import LoopbackHub

pytestmark = pytest.mark.whole


@pytest.fixture
def options(token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MixOptions:
    """Caches of their own, so that everything is downloaded."""
    monkeypatch.setenv("COCKTAIL_HUB_CACHE", str(tmp_path / "cocktail"))
    return MixOptions(hub=Hub(token=token, cache_dir=tmp_path / "hub"))


def recipe(**keys: Any) -> dict[str, Any]:
    ids = models.published("bert").ids
    return {
        "ingredients": [{"model": name, "weight": w} for name, w in zip(ids, models.SHARES, strict=True)],
        **keys,
    }


def blob(options: MixOptions, name: str, path: str) -> Path:
    files = options.hub.files(name, options.hub.resolve(name, None))
    return files.path(path).resolve()


def flip(path: Path) -> None:
    """Change one bit, and nothing else that a listing shows."""
    content, times = bytearray(path.read_bytes()), path.stat()
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_the_recipe_has_the_sha256_of_every_file_that_was_mixed_and_the_digest_is_the_same(
    options: MixOptions,
) -> None:
    made = mix(recipe(), options=options)
    first, second = models.published("bert").ids
    materials = made.recipe.materials
    commits = {ingredient.model: ingredient.revision for ingredient in made.recipe.ingredients}
    assert set(materials) == {f"{name}@{commits[name]}" for name in (first, second)}
    for name in (first, second):
        files = materials[f"{name}@{commits[name]}"]
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(files)
        for path, sha256 in files.items():
            assert sha256 == hashlib.sha256(blob(options, name, path).read_bytes()).hexdigest()
    written = json.loads((made.path / "recipe.json").read_text())
    assert written["evidence"] == {"materials": materials}
    found = mix(recipe(), options=options)
    assert found.report == {"cached": True}
    assert found.recipe == made.recipe
    assert found.recipe.digest == made.path.name


def test_files_of_a_recipe_inside_the_recipe_are_compared_and_recorded(options: MixOptions) -> None:
    first, second = models.published("bert").ids
    inner = {"method": "slerp", "ingredients": [{"model": name, "weight": 0.5} for name in (first, second)]}
    outer = {"ingredients": [{"recipe": inner, "weight": 0.5}, {"model": first, "weight": 0.5}]}
    made = mix(outer, options=options)
    assert {name.partition("@")[0] for name in made.recipe.materials} == {first, second}
    assert all(sha256 for files in made.recipe.materials.values() for sha256 in files.values())
    flip(blob(options, second, "model.safetensors"))
    with pytest.raises(SourceError, match=r"model\.safetensors"):
        mix(outer, options=replace(options, force=True))


@pytest.mark.parametrize("path", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_bit_that_flips_in_a_download_is_found_and_nothing_is_made(
    hub: LoopbackHub, options: MixOptions, path: str
) -> None:
    name = models.published("bert").ids[1]
    if hub.xet and path == "model.safetensors":
        pytest.skip("over Xet, weights are sent as chunks of other files")
    sha256 = hashlib.sha256((models.published("bert").folders[1] / path).read_bytes()).hexdigest()
    where = f"/_cdn/file/{sha256}" if path == "model.safetensors" else f"/resolve-cache/models/{name}/.*/{path}"
    size = (models.published("bert").folders[1] / path).stat().st_size
    hub.fail(f"GET .*{where}", flip=size - 3, times=50)
    with pytest.raises(SourceError, match=rf"'{path}' of '{name}' is damaged: its (sha256|git blob id) is") as caught:
        mix(recipe(), options=options)
    assert Cache().mixes() == []
    hub.clear_faults()
    with pytest.raises(SourceError, match="is damaged"):
        mix(recipe(), options=options)
    blob(options, name, path).unlink()
    assert f"Delete '{blob(options, name, path)}', and run the same command again" in str(caught.value)
    assert mix(recipe(), options=options).recipe.materials


def test_a_bit_that_flips_in_the_cache_of_the_hub_is_found(options: MixOptions) -> None:
    mix(recipe(), options=options)
    damaged = blob(options, models.published("bert").ids[0], "model.safetensors")
    flip(damaged)
    mix(recipe(), options=options)  # the finished mix is not made again
    with pytest.raises(SourceError, match="is damaged: its sha256 is"):
        mix(recipe(dtype="float16"), options=options)
    damaged.unlink()
    assert mix(recipe(dtype="float16"), options=options).report["cached"] is False


def test_a_shard_that_was_made_of_a_damaged_file_is_made_again(
    options: MixOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = mix(recipe(), output=tmp_path / "expected", options=options)
    damaged = blob(options, models.published("bert").ids[0], "model.safetensors")
    flip(damaged)
    with pytest.raises(SourceError, match="is damaged"):
        mix(recipe(), options=options)
    damaged.unlink()
    asked: list[str] = []
    fill = execute.fill_shard

    def filled(task: Any, shard: Any, *rest: Any) -> Any:
        asked.append(shard.path)
        return fill(task, shard, *rest)

    monkeypatch.setattr(execute, "fill_shard", filled)
    made = mix(recipe(), options=options)
    assert asked == ["model.safetensors"]
    assert (made.path / "model.safetensors").read_bytes() == (expected.path / "model.safetensors").read_bytes()


def test_a_file_is_read_once_and_then_known(options: MixOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "WORTH_NOTING", 1)
    read: list[str] = []
    hash_of = resolve.hash_of

    def hashed(path: Path, kind: str) -> str:
        read.append(path.name)
        return hash_of(path, kind)

    monkeypatch.setattr(resolve, "hash_of", hashed)
    mix(recipe(), options=options)
    assert read.count("model.safetensors") == 2
    mix(recipe(dtype="float16"), options=options)
    assert read.count("model.safetensors") == 2
    mix(recipe(), options=MixOptions(hub=options.hub, force=True))
    assert read.count("model.safetensors") == 4


def test_a_recipe_that_was_made_of_another_file_is_refused(options: MixOptions) -> None:
    made = mix(recipe(), options=options)
    resolved = json.loads((made.path / "recipe.json").read_text())
    for files in resolved["evidence"]["materials"].values():
        files["model.safetensors"] = "0" * 64
    options = MixOptions(hub=options.hub, force=True)
    with pytest.raises(SourceError, match="but the recipe was made of a file with 0000000"):
        mix(resolved, options=options)


def test_parts_of_files_are_compared_as_they_come_and_the_recipe_is_that_of_whole_files(
    hub: LoopbackHub, options: MixOptions, tmp_path: Path
) -> None:
    low = MixOptions(hub=Hub(token="hf_alice", cache_dir=tmp_path / "other"), low_disk=True, max_shard_size=5000)
    made = mix(recipe(), output=tmp_path / "low", options=low)
    assert len(list(made.path.glob("*.safetensors"))) > 1
    assert made.recipe == mix(recipe(), options=options).recipe
    sha256 = hashlib.sha256((models.published("bert").folders[0] / "model.safetensors").read_bytes()).hexdigest()
    low = MixOptions(hub=Hub(token="hf_alice", cache_dir=tmp_path / "third"), low_disk=True, force=True)
    hub.fail(f"GET /_cdn/file/{sha256}.*", flip=8_000, times=9)  # in the weights: a header is shorter
    with pytest.raises(SourceError, match=r"'model.safetensors' of 'acme/bert-a' is damaged") as caught:
        mix(recipe(), output=tmp_path / "damaged", options=low)
    assert str(caught.value).endswith("\nRun the same command again: the file is downloaded anew.")
    assert not (tmp_path / "damaged").exists()
    hub.clear_faults()
    assert mix(recipe(), output=tmp_path / "damaged", options=low).recipe == made.recipe
    for path in made.path.glob("*.safetensors"):
        assert path.stat().st_size <= 10_000


def test_parts_that_do_not_come_in_order_are_recorded_as_not_compared(options: MixOptions, tmp_path: Path) -> None:
    """A method that measures a whole model first reads it twice."""
    low = MixOptions(hub=options.hub, low_disk=True)
    ids = list(models.published("bert").ids)
    keys = {"method": "ties", "base": ids[0], "parameters": {"trim": "model", "density": 0.5}}
    made = mix({"ingredients": [{"model": ids[1], "weight": 1.0}], **keys}, output=tmp_path / "low", options=low)
    for files in made.recipe.materials.values():
        assert files["model.safetensors"] is None
        assert files["config.json"] is not None
    assert mix(json.loads((made.path / "recipe.json").read_text()), options=options).recipe.digest == made.recipe.digest


def test_models_in_folders_have_no_materials(tmp_path: Path) -> None:
    folders = models.pair("bert").folders
    made = mix([str(folder) for folder in folders], weights=models.SHARES, output=tmp_path / "mix")
    assert made.recipe.evidence is None


@pytest.mark.parametrize("linked", [True, False])
def test_a_file_is_compared_with_what_is_known_of_it(
    options: MixOptions, token: str, monkeypatch: pytest.MonkeyPatch, linked: bool
) -> None:
    """The client's listing has git's ids alone, and not every system has links that tell a sha256."""
    api, name = HfApi(token=token), "alice/compared"
    api.create_repo(name, exist_ok=True)
    contents = {"config.json": b'{"a": 1}', "a.safetensors": b"weights"}
    for path, content in contents.items():
        api.upload_file(path_or_fileobj=content, path_in_repo=path, repo_id=name)
    files = options.hub.files(name, options.hub.resolve(name, None))
    for path, content in contents.items():
        files.path(path)
        if not linked:
            monkeypatch.setattr("pathlib.Path.is_symlink", lambda _: False)
        files.require_stated(path, hashlib.sha256(content).hexdigest())
        assert files.read(path) == content
        flip(files.path(path).resolve())
        with pytest.raises(SourceError, match=r"is damaged: its (sha256|git blob id) is"):
            files.require_stated(path, hashlib.sha256(files.path(path).read_bytes()).hexdigest())
        with pytest.raises(SourceError, match="is damaged"):
            files.read(path)

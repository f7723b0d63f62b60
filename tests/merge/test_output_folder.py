"""Where a mix may be written, and what happens to files that are there already."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import models
import pytest
import torch
from safetensors.torch import load_file

from cocktail_hub import MixOptions, mix
from cocktail_hub.errors import CacheError
from cocktail_hub.merge.engine.journal import working_files
from cocktail_hub.merge.output_folder import OutputFolder, copy_out
from cocktail_hub.merge.run import plan_mix
from cocktail_hub.pipeline.mix import check_and_weigh, prepare
from cocktail_hub.resolve.source import load_recipe_source
from cocktail_hub.storage.cache import MANIFEST, Cache

if TYPE_CHECKING:
    from cocktail_hub.merge.plan import MergePlan
    from cocktail_hub.recipe import ResolvedRecipe

pytestmark = pytest.mark.whole


def recipe_of(weights: tuple[float, float] = (0.7, 0.3)) -> dict[str, object]:
    folders = models.pair("bert").folders
    return {"ingredients": [{"model": str(f), "weight": w} for f, w in zip(folders, weights, strict=True)]}


def output_folder_of(
    output: Path, cache: Path | None = None, **options: Any
) -> tuple[OutputFolder, ResolvedRecipe, MergePlan]:
    """An output folder, and the recipe and plan of the mix for it."""
    chosen = MixOptions(**options)
    origin = load_recipe_source(recipe_of(), chosen.hub)
    checked, resolved = check_and_weigh(prepare(origin, chosen))
    return OutputFolder(options=chosen, output=output, cache=Cache(cache)), resolved, plan_mix(checked)


@pytest.fixture
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COCKTAIL_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_working_directory_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(CacheError) as caught:
        mix(recipe_of(), output=".")
    assert str(caught.value) == (
        "'.' is the current working directory.\n"
        "A mix is made beside its folder and then takes its place in one step, which is not possible there.\n"
        "Name a folder inside it: 'mix'."
    )
    assert [path.name for path in tmp_path.iterdir()] == ["here"]
    assert mix(recipe_of(), output="mix").path == Path("mix")


def test_a_mount_point_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "disk").mkdir()
    monkeypatch.setattr("os.path.ismount", lambda path: Path(path) == tmp_path / "disk")
    with pytest.raises(CacheError, match=r"disk' is a mount point\.(?s:.*)Name a folder inside it: '.*mix'"):
        mix(recipe_of(), output=tmp_path / "disk")
    with pytest.raises(CacheError, match="is a mount point"):
        mix(recipe_of()).save_pretrained(tmp_path / "disk")
    assert list((tmp_path / "disk").iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_link_to_an_empty_folder_stays_a_link(tmp_path: Path, fresh_cache: Path) -> None:
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "away")
    made = mix(recipe_of(), output=tmp_path / "link")
    assert made.path == tmp_path / "link"
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "far" / "away" / "model.safetensors").is_file()
    assert [path.name for path in (tmp_path / "far").iterdir()] == ["away"]
    assert mix(recipe_of(), output=tmp_path / "link").report["cached"]


def test_a_folder_has_one_lock_under_any_spelling_of_its_path(tmp_path: Path, fresh_cache: Path) -> None:
    mix(recipe_of(), output=tmp_path / "out")
    mix(recipe_of(), output=tmp_path / "there" / ".." / "out")
    assert len(list((fresh_cache / "locks").glob("folder-*.lock"))) == 1


def test_files_of_another_plan_in_the_staging_folder_are_removed(tmp_path: Path, fresh_cache: Path) -> None:
    place, resolved, plan = output_folder_of(tmp_path / "out")
    stage = place.stage_path(resolved)
    (stage / "old").mkdir(parents=True)
    for name in ("model-00001-of-00002.safetensors", "model.safetensors.index.json", "old/code.py", "config.json"):
        (stage / name).write_text("of an earlier version")
    kept = working_files(plan)
    assert kept == {".cocktail-merge.json", "model.safetensors", "model.safetensors.incomplete"}
    (stage / "model.safetensors.incomplete").write_bytes(b"half")
    with place.stage(resolved, kept):
        assert [path.name for path in stage.rglob("*")] == ["model.safetensors.incomplete"]
    made = mix(recipe_of(), output=tmp_path / "out")
    assert "model-00001-of-00002.safetensors" not in json.loads((made.path / MANIFEST).read_text())["files"]


def test_a_mix_with_custom_code_is_found_only_by_callers_who_trust_it(fresh_cache: Path) -> None:
    trusting = MixOptions(trust_remote_code=True)
    first = mix(recipe_of(), options=trusting)
    second = mix(recipe_of())
    assert not second.report["cached"]
    assert first.path != second.path
    assert first.recipe.digest == second.recipe.digest
    assert mix(recipe_of(), options=trusting).report["cached"]
    assert mix(recipe_of()).report["cached"]


def test_leftovers_of_killed_runs_that_trust_code_are_removed(tmp_path: Path, fresh_cache: Path) -> None:
    place, resolved, _ = output_folder_of(tmp_path / "out", trust_remote_code=True)
    left = place.stage_path(resolved)
    left.mkdir()
    mix(recipe_of(), output=tmp_path / "out")
    assert not left.exists()


@pytest.mark.parametrize("content", ['{"schema": 9}', "not JSON", "[]"])
def test_an_earlier_mix_whose_recipe_cannot_be_read_can_be_replaced(tmp_path: Path, content: str) -> None:
    out = mix(recipe_of(), output=tmp_path / "out").path
    (out / "recipe.json").write_text(content)
    with pytest.raises(CacheError, match="exists and is not empty"):
        mix(recipe_of(), output=out)
    mix(recipe_of(), output=out, options=MixOptions(replace=True))
    assert json.loads((out / "recipe.json").read_text())["schema"] == 1


@pytest.mark.skipif(os.name == "nt", reason="modes mean something else there")
def test_a_copy_from_a_read_only_cache_is_writable(tmp_path: Path, fresh_cache: Path) -> None:
    made = mix(recipe_of())
    for path in (made.path, *made.path.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    out = copy_out(made.path, tmp_path / "out")
    assert all(path.stat().st_mode & stat.S_IWUSR for path in (out, *out.rglob("*")))
    before, after = (load_file(folder / "model.safetensors") for folder in (made.path, out))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert Cache().find(made.recipe.digest) is not None


def test_users_of_different_caches_have_different_staging_folders(tmp_path: Path) -> None:
    (one, resolved, _), (again, *_), (other, *_) = (
        output_folder_of(tmp_path / "out", tmp_path / name) for name in ("one", "one", "other")
    )
    assert one.stage_path(resolved) == again.stage_path(resolved)
    assert one.stage_path(resolved) != other.stage_path(resolved)


def test_staging_folders_of_other_caches_are_not_removed(tmp_path: Path) -> None:
    other, resolved, _ = output_folder_of(tmp_path / "out", tmp_path / "other")
    with other.stage(resolved, set()) as work:
        (work / "model.safetensors.incomplete").write_bytes(b"half")
        copy = tmp_path / f".out.copy.{other.cache.identity}.partial"
        copy.mkdir()
        mix(recipe_of(), output=tmp_path / "out")
        assert [path.name for path in work.iterdir()] == ["model.safetensors.incomplete"]
        assert copy.is_dir()


def test_of_two_caches_the_second_finds_the_output_folder_taken(tmp_path: Path) -> None:
    """Both made the mix at once; the second leaves that of the first unchanged."""
    other, resolved, _ = output_folder_of(tmp_path / "out", tmp_path / "other")
    with other.stage(resolved, set()) as work:
        (work / "model.safetensors").write_bytes(b"of the other")
    made = mix(recipe_of(), output=tmp_path / "out")
    before = (made.path / "model.safetensors").read_bytes()
    with pytest.raises(CacheError, match="exists and is not empty"):
        other.finish(resolved, {})
    assert (made.path / "model.safetensors").read_bytes() == before

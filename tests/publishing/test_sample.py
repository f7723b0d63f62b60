"""A few tensors of published weights, compared with the same made again."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import models
import pytest
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from cocktail_hub import MixOptions, mix, publish, verify
from cocktail_hub.cli import main
from cocktail_hub.errors import RecipeError

if TYPE_CHECKING:
    from pathlib import Path

    from cocktail_hub.testing import LoopbackHub

pytestmark = pytest.mark.whole


def recipe(**keys: object) -> dict[str, object]:
    pair = models.published("bert")
    return {"ingredients": [{"model": m, "weight": w} for m, w in zip(pair.ids, (0.25, 0.75), strict=True)]} | keys


def test_a_sample_is_compared_by_ranges_of_the_files(hub: LoopbackHub, token: str, tmp_path: Path) -> None:
    publish(recipe(), "alice/sampled", token=token)
    hub.clear_requests()
    found = verify("alice/sampled", sample=3, token=token, cache_dir=tmp_path)
    assert found.same
    assert found.sample == 3
    assert len(found.expected) == 4  # and the header
    read = [r for r in hub.requests if r.path.endswith("model.safetensors") and r.method == "GET"]
    assert {"alice/sampled" in r.path for r in read} == {True, False}
    assert not list(tmp_path.rglob("model.safetensors"))


def test_more_tensors_than_there_are_find_every_change(token: str, tmp_path: Path) -> None:
    cut = MixOptions(max_shard_size=20_000)
    folder = mix(
        recipe(method="dare_linear", base=models.published("bert").ids[0]), output=tmp_path / "mix", options=cut
    )
    count = sum(len(load_file(path)) for path in folder.path.glob("*.safetensors"))
    found = verify(folder.path, sample=10**6)
    assert (found.same, found.sample) == (True, count)
    changed = sorted(folder.path.glob("*.safetensors"))[1]
    tensors = load_file(changed)
    last = list(tensors)[-1]
    tensors[last].view(-1)[-1] += 1
    save_file(tensors, changed, metadata={"format": "pt"})
    found = verify(folder.path, sample=10**6)
    assert found.differences[0].startswith(f"{changed.name}: {last} has sha256 ")
    assert len(found.differences) == 1


def test_another_header_a_missing_and_a_foreign_file_are_told(tmp_path: Path) -> None:
    cut = MixOptions(max_shard_size=20_000)
    folder = mix(recipe(), output=tmp_path / "mix", options=cut).path
    one, two, *_ = sorted(folder.glob("*.safetensors"))
    tensors = load_file(one)
    save_file(tensors | {"more": tensors[next(iter(tensors))].clone()}, one)
    two.unlink()
    shutil.copy(one, folder / "other.safetensors")
    done = CliRunner().invoke(main, ["verify", str(folder), "--sample", "1"])
    assert done.exit_code == 4
    assert f"{one.name} has sha256" in done.stdout
    assert f"{two.name} is missing" in done.stdout
    assert "other.safetensors does not come from the recipe" in done.stdout
    assert "compared 1 tensor(s) and all headers, nothing else" in done.stderr
    shown = CliRunner().invoke(main, ["verify", str(folder), "--sample", "2", "--json"])
    assert json.loads(shown.stdout)["sample"] == 2


def test_no_sample_is_made_where_the_whole_model_is_measured_or_none_is_asked_for(tmp_path: Path) -> None:
    over = {"method": "ties", "base": models.published("bert").ids[0], "parameters": {"trim": "model"}}
    folder = mix(recipe(**over), output=tmp_path / "mix").path
    with pytest.raises(RecipeError, match="`ties` measures the whole model before it makes a tensor"):
        verify(folder, sample=1)
    with pytest.raises(RecipeError, match="`sample` is 0"):
        verify(folder, sample=0)

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import embedders
import models
import pytest
import torch

from cocktail_hub import MixOptions, Recipe, mix
from cocktail_hub.compat.check import check_models
from cocktail_hub.errors import CheckpointError
from cocktail_hub.evaluation.loading import load_model, load_sentence_transformer
from cocktail_hub.hub import Hub
from cocktail_hub.merge.in_memory import mixed_in_memory
from cocktail_hub.resolve.resolve import resolve

pytestmark = pytest.mark.whole
OPTIONS = MixOptions(hub=Hub(token=models.TOKEN))


def report_of(recipe: dict):
    return check_models(resolve(Recipe.from_dict(recipe), OPTIONS.hub), OPTIONS.hub)


def weights_in(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*model*.safetensors*")}


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"dtype": "float16"},
        {"method": "ties", "base": {"model": "acme/llama-a"}, "parameters": {"density": 0.5}},
        {"layers": [{"match": r".*\.q_proj\.weight", "weights": [0.5, 0.5]}]},
    ],
)
def test_a_mix_in_memory_has_the_bytes_of_one_on_disk(keys, tmp_path):
    recipe = models.published("llama").recipe | keys
    expected = weights_in(mix(recipe, token=models.TOKEN).path)
    with mixed_in_memory(report_of(recipe), OPTIONS, tmp_path / "mix") as folder:
        assert weights_in(folder) == expected


def test_so_it_does_in_several_files_with_an_index(tmp_path):
    options = replace(OPTIONS, max_shard_size=4000)
    recipe = models.published("llama").recipe
    expected = weights_in(mix(recipe, options=options).path)
    assert len(expected) > 3
    with mixed_in_memory(report_of(recipe), options, tmp_path / "mix") as folder:
        assert weights_in(folder) == expected
        models.assert_holds(load_model(folder), models.expected("llama"))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the files are ordinary ones")
def test_nothing_of_the_weights_is_on_the_disk(tmp_path):
    with mixed_in_memory(report_of(models.pair("bert").local_recipe), OPTIONS, tmp_path) as folder:
        file = folder / "model.safetensors"
        assert file.readlink().is_relative_to("/proc")
        assert file.stat().st_dev != tmp_path.stat().st_dev
    assert not file.exists()
    assert not any(path.suffix == ".safetensors" and path.is_file() for path in tmp_path.rglob("*"))


def test_without_files_in_memory_ordinary_ones_take_their_place(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "memfd_create", raising=False)
    recipe = models.pair("bert").local_recipe
    with mixed_in_memory(report_of(recipe), OPTIONS, tmp_path) as folder:
        assert not (folder / "model.safetensors").is_symlink()
        assert weights_in(folder) == weights_in(mix(recipe).path)


@pytest.mark.parametrize("family", ["llama", "llama-tied", "bert", "t5", "reranker"])
def test_transformers_loads_it_and_keeps_it(family, tmp_path):
    with mixed_in_memory(report_of(models.pair(family).local_recipe), OPTIONS, tmp_path) as folder:
        model = load_model(folder)
    models.assert_holds(model, models.expected(family))


@pytest.mark.parametrize("kind", ["mean", "dense", "old", "static"])
def test_sentence_transformers_loads_it_with_all_its_modules(kind, tmp_path):
    ids = embedders.published(kind)
    recipe = {"ingredients": [{"model": m, "weight": w} for m, w in zip(ids, models.SHARES, strict=True)]}
    text = ["the cat sat on the mat"]
    expected = mix(recipe, token=models.TOKEN).load_sentence_transformer(device="cpu").encode(text)
    with mixed_in_memory(report_of(recipe), OPTIONS, tmp_path) as folder:
        model = load_sentence_transformer(folder, device="cpu")
    assert torch.equal(torch.tensor(model.encode(text)), torch.tensor(expected))


def test_a_model_that_changed_since_it_was_planned_is_refused(tmp_path):
    first = models.save("bert", 1, tmp_path / "a")
    second = models.save("bert", 2, tmp_path / "b")
    report = report_of({"ingredients": [{"model": str(first), "weight": 0.5}, {"model": str(second), "weight": 0.5}]})
    models.save("bert", 3, second)
    with pytest.raises(CheckpointError), mixed_in_memory(report, OPTIONS, tmp_path / "mix"):
        pass

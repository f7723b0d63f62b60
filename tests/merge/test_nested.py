"""A recipe inside a recipe: its tensors are made when they are read, not rounded, and nowhere on the disk."""

from __future__ import annotations

import os
import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import merge_helpers
import models
import pytest
import torch
from safetensors.torch import load_file, save_file

from cocktail_hub import MixOptions, mix
from cocktail_hub.errors import CheckpointError
from cocktail_hub.merge.engine import workers
from cocktail_hub.merge.materialize import materialize
from cocktail_hub.merge.nested import MixReader
from cocktail_hub.merge.run import opened_models, plan_mix
from cocktail_hub.methods.registry import METHODS
from cocktail_hub.pipeline.mix import prepare
from cocktail_hub.storage.cache import Cache

if TYPE_CHECKING:
    from pathlib import Path

LIBRARIES = {"numpy": (torch.float32, "float64"), "torch": (torch.bfloat16, "float32")}
"""Dtypes that each library is used for."""


@pytest.mark.whole
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("method", sorted(METHODS))
def test_any_part_of_a_tensor_is_that_of_the_mix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, library: str
) -> None:
    monkeypatch.setattr(workers, "_wants_torch", lambda _: library == "torch")
    dtype, wide = LIBRARIES[library]
    folders, ways = merge_helpers.mixed_by_every_method(tmp_path, dtype)
    options = ways[method] | {"dtype": wide}
    merge_helpers.mix(folders, tmp_path / "whole", **options)
    whole = merge_helpers.load(tmp_path / "whole")
    draw = random.Random(method)
    with ExitStack() as stack:
        sources = merge_helpers.opened(stack, merge_helpers.used(folders, options))
        made = merge_helpers.plan(folders, **options)
        reader = MixReader("inner", made, 0, sources, MixOptions())

        def same(name: str) -> bool:
            bounds = sorted(draw.randint(0, whole[name].numel()) for _ in range(4))
            ranges = [(name, bounds[0], bounds[1]), (name, bounds[2], bounds[3])]
            out = bytearray(sum(stop - start for _, start, stop in ranges) * whole[name].element_size())
            reader.read_bytes(ranges, memoryview(out))
            parts = [whole[name].reshape(-1)[start:stop] for _, start, stop in ranges]
            return bytes(out) == torch.cat(parts).view(torch.uint8).numpy().tobytes()

        with ThreadPoolExecutor(2) as pool:
            assert all(pool.map(same, [*whole, "wide", "wide", "embed"]))


# -- in a mix ------------------------------------------------------------------------------------------------------


def three(folder: Path, dtype: torch.dtype = torch.bfloat16) -> list[str]:
    """Three fine-tunes of a tiny Llama in a precision."""
    found = []
    for seed in range(3):
        place = models.save("llama", seed + 1, folder / f"m{seed}")
        tensors = {name: tensor.to(dtype) for name, tensor in load_file(place / models.WEIGHTS).items()}
        save_file(tensors, place / models.WEIGHTS, metadata={"format": "pt"})
        found.append(str(place))
    return found


def nested(folders: list[str], **keys: Any) -> dict[str, Any]:
    a, b, c = folders
    inner = {
        "method": "slerp",
        "ingredients": [{"model": a, "weight": 0.4}, {"model": b, "weight": 0.6}],
    } | keys.pop("inner", {})
    ingredients = [{"model": "inner", "recipe": inner, "weight": 0.3}, {"model": c, "weight": 0.7}]
    return {"method": "nuslerp", "ingredients": ingredients, **keys}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return merge_helpers.load(folder)


def same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.whole
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_nothing_is_rounded_between_two_stages(tmp_path: Path, dtype: torch.dtype) -> None:
    a, b, c = three(tmp_path, dtype)
    inner = {"method": "passthrough", "ingredients": [{"model": a}], "parameters": {"scale": 0.37}}
    recipe = {
        "ingredients": [{"recipe": inner, "weight": 0.3}, {"model": b, "weight": 0.5}, {"model": c, "weight": 0.2}]
    }
    made = weights(mix(recipe).path)
    first, *others = ({name: tensor.double() for name, tensor in weights(tmp_path / f"m{i}").items()} for i in range(3))
    wide = torch.float32 if dtype == torch.bfloat16 else torch.float64
    for name, tensor in made.items():
        scaled = (first[name] * 0.37).to(wide).double()
        want = 0.3 * scaled + 0.5 * others[0][name] + 0.2 * others[1][name]
        assert torch.equal(tensor, want.to(dtype))


@pytest.mark.whole
def test_it_has_the_bytes_of_stages_that_are_kept_in_the_cache_and_leaves_none_there(tmp_path: Path) -> None:
    folders = three(tmp_path)
    recipe = nested(folders)
    before = set(Cache().root.glob("*/*"))
    made = mix(recipe)
    new = set(Cache().root.glob("*/*")) - before
    assert made.path in new
    inner = mix({**recipe["ingredients"][0]["recipe"], "dtype": "float32"}).path
    assert inner not in new
    recipe["ingredients"][0] = {"model": str(inner), "weight": 0.3}
    apart = mix({**recipe, "dtype": "bfloat16"})
    assert same_bits(weights(made.path), weights(apart.path))
    low = mix(nested(folders), output=tmp_path / "low", options=MixOptions(low_disk=True))
    assert same_bits(weights(made.path), weights(low.path))
    assert {tensor.dtype for tensor in weights(made.path).values()} == {torch.bfloat16}
    assert made.load().dtype == low.load().dtype == torch.bfloat16


@pytest.mark.whole
def test_a_model_inside_that_changes_under_the_mix_is_refused(tmp_path: Path) -> None:
    folders = three(tmp_path)
    report = prepare(nested(folders)).check()
    with opened_models(plan_mix(report), report, tmp_path, MixOptions()) as inputs:
        os.utime(tmp_path / "m1" / models.WEIGHTS, (1, 1))
        with pytest.raises(CheckpointError, match=r"'model\.safetensors' of '.*m1' changed while it was being mixed"):
            inputs.readers[0][0].check_unchanged()


@pytest.mark.whole
def test_where_the_model_itself_is_wanted_it_is_mixed_into_the_cache(tmp_path: Path) -> None:
    folders = three(tmp_path)
    recipe = nested(folders)
    report = prepare(recipe).check()
    folder = materialize(report.models[0], 0, report.components, tmp_path / "scratch")
    inner = mix({**recipe["ingredients"][0]["recipe"], "dtype": "float32"}).path
    assert folder == inner


@pytest.mark.whole
def test_recipes_three_deep_with_rows_that_only_some_models_have_are_mixed(tmp_path: Path) -> None:
    folders = three(tmp_path)
    recipe = nested(folders, inner={"pad_to_multiple_of": 64})
    recipe["ingredients"][1] = {"recipe": nested(folders, inner={"method": "nuslerp"}), "weight": 0.7}
    made = mix({**recipe, "method": "linear"})
    assert made.load().get_input_embeddings().weight.isfinite().all()

"""Buffers of numpy and of torch: where they lie, and that mixes have the same bytes in both."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from merge_helpers import digests, mix, mixed_by_every_method, model, plan, save, save_all

from cocktail_hub.merge.engine import workers as workers_module
from cocktail_hub.merge.engine.workers import make_workers
from cocktail_hub.merge.kernels.buffers import ALIGNMENT, Buffers
from cocktail_hub.merge.kernels.torch_buffers import TorchBuffers
from cocktail_hub.methods.dtypes import itemsize
from cocktail_hub.methods.registry import METHODS

KINDS = [Buffers, TorchBuffers]


@pytest.mark.parametrize("kind", KINDS)
def test_buffers_lie_side_by_side_and_are_aligned(kind: type[Buffers]) -> None:
    buffers = kind(1 << 16)
    layout = [("BF16", 1), ("BF16", 2), ("F32", 1), ("F64", 1)]
    size = buffers.fitting(layout)
    assert size % ALIGNMENT == 0
    slots = buffers.slots(layout, size)
    assert [slot.dtype for slot in slots] == [dtype for dtype, _ in layout]
    assert [slot.start for slot in slots] == [0, 2 * size, 6 * size, 10 * size]
    assert [slot.nbytes for slot in slots] == [size * times * itemsize(dtype) for dtype, times in layout]
    assert 18 * size <= 1 << 16
    assert all(buffers.host(slot).ctypes.data % ALIGNMENT == 0 for slot in slots)
    assert [len(buffers.array(slot)) for slot in slots] == [size, 2 * size, size, size]


@pytest.mark.parametrize("kind", KINDS)
def test_buffers_begin_in_the_same_place_whatever_their_length(kind: type[Buffers]) -> None:
    buffers = kind(1 << 16)
    first, again = (buffers.slots([("F32", 1), ("F32", 1)], count) for count in (100, 7))
    assert [a.start for a in first] == [b.start for b in again]
    assert [len(buffers.array(slot)) for slot in again] == [7, 7]


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_are_computed_in_the_memory_that_files_are_read_to(kind: type[Buffers]) -> None:
    buffers = kind(1 << 10)
    (slot,) = buffers.slots([("F32", 1)], 2)
    buffers.host(slot)[:] = np.frombuffer(np.array([1.5, -2.0], np.float32).tobytes(), np.uint8)
    assert buffers.array(slot).tolist() == [1.5, -2.0]


@pytest.mark.whole
@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_numpy_gives_the_same_bytes_as_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, dtype: torch.dtype
) -> None:
    folders, options = mixed_by_every_method(tmp_path, dtype)
    mix(folders, tmp_path / "torch", **options[method])
    used = []
    monkeypatch.setattr(workers_module, "_wants_torch", lambda _: used.append(1))
    mix(folders, tmp_path / "numpy", **options[method], threads=2)
    assert used
    assert digests(tmp_path / "torch") == digests(tmp_path / "numpy")


def test_the_same_model_twice_is_that_model_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16)
    folder = save(tmp_path / "m", {"every": every})
    monkeypatch.setattr(workers_module, "_wants_torch", lambda _: False)
    mix([folder, folder], tmp_path / "out", weights=[0.3, 0.7])
    assert digests(tmp_path / "out")["model.safetensors"] == digests(folder)["model.safetensors"]


@pytest.mark.parametrize(
    ("dtypes", "options", "torch_free"),
    [
        (("bfloat16", "bfloat16"), {}, True),
        (("float32", "float64"), {}, True),
        (("float32", "float32"), {"dtype": "float64"}, True),
        (("float16", "float16"), {}, False),
        (("bfloat16", "float32"), {}, False),
        (("float32", "float32"), {"dtype": "bfloat16"}, False),
        (("float16", "float16"), {"weights": [1.0, 0.0]}, True),
        (("bfloat16", "bfloat16"), {"method": "ties", "weights": [1.0]}, True),
        (("float16", "float16"), {"method": "ties", "weights": [1.0]}, False),
    ],
)
def test_torch_is_loaded_where_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtypes: tuple[str, str], options: dict[str, Any], torch_free: bool
) -> None:
    folders = save_all(tmp_path, [model(i, getattr(torch, dtype)) for i, dtype in enumerate(dtypes)])
    made = plan(folders, **{"weights": [0.5, 0.5], **options})
    monkeypatch.delitem(sys.modules, "torch")
    assert (type(make_workers(made, 1, None, "cpu")[0]) is Buffers) == torch_free


def test_torch_is_used_where_it_is_there(tmp_path: Path) -> None:
    made = plan(save_all(tmp_path, [model(0), model(1)]), weights=[0.5, 0.5])
    assert type(make_workers(made, 1, None, "cpu")[0]) is TorchBuffers


def test_torch_is_used_where_numbers_near_zero_would_be_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = plan(save_all(tmp_path, [model(0), model(1)]), weights=[0.5, 0.5])
    torch.set_flush_denormal(True)
    try:
        monkeypatch.delitem(sys.modules, "torch")
        assert type(make_workers(made, 1, None, "cpu")[0]) is TorchBuffers
    finally:
        torch.set_flush_denormal(False)


TORCH_FREE = """
    import sys
    from cocktail_hub import mix
    from cocktail_hub.evaluation import load_check
    load_check._start = lambda request, light: None  # the models are made up
    path = mix(sys.argv[1], output=sys.argv[2]).path
    assert not {"torch", "transformers", "sentence_transformers"} & sys.modules.keys()
"""


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.whole
def test_an_ordinary_mix_needs_no_torch(tmp_path: Path, method: str) -> None:
    *folders, base = save_all(tmp_path, [model(0), model(1), model(2)])
    for folder in (*folders, base):
        (folder / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
    weights = [1.0] if METHODS[method].most == 1 else [0.5, 0.5]
    given = [f"  - {{model: {folder}, weight: {weight}}}" for folder, weight in zip(folders, weights, strict=False)]
    lines = [f"method: {method}", "ingredients:", *given]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("\n".join([*lines, *([f"base: {base}"] if METHODS[method].base == "needed" else [])]))
    arguments = [sys.executable, "-c", textwrap.dedent(TORCH_FREE), str(recipe), str(tmp_path / "out")]
    subprocess.run(arguments, check=True)
    mixed = [base, *folders] if METHODS[method].base == "needed" else folders
    mix(mixed, tmp_path / "here", weights=weights, method=method)
    assert digests(tmp_path / "out")["model.safetensors"] == digests(tmp_path / "here")["model.safetensors"]

"""Two memories: what a GPU needs is tried on the CPU by making them two there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from merging import digests, mix, model, save_all

from cocktail_hub.merge.bench import ALIGNMENT, Bench
from cocktail_hub.methods import METHODS

if TYPE_CHECKING:
    from pathlib import Path


def test_buffers_lie_side_by_side_and_are_aligned() -> None:
    bench = Bench(1 << 16)
    dtypes = (torch.bfloat16, torch.bfloat16, torch.float32, torch.float64)
    size = bench.fitting(dtypes)
    assert size % ALIGNMENT == 0
    buffers = bench.buffers(dtypes, size)
    assert [buffer.dtype for buffer in buffers] == list(dtypes)
    starts = [buffer.data_ptr() - buffers[0].data_ptr() for buffer in buffers]
    assert starts == [0, 2 * size, 4 * size, 8 * size]
    assert 16 * size <= 1 << 16


def test_buffers_are_the_same_memory_every_time() -> None:
    bench = Bench(1 << 16)
    first = bench.buffers((torch.float32, torch.float32), 100)
    again = bench.buffers((torch.float32, torch.float32), 7)
    assert [a.data_ptr() for a in first] == [b.data_ptr() for b in again]
    assert [len(buffer) for buffer in again] == [7, 7]


class TwoMemories(Bench):
    """Computes in other memory than it reads to and writes from."""

    def __init__(self, arena: int, device: str = "cpu") -> None:
        super().__init__(arena, device)
        self._remote = True
        self._work = torch.empty_like(self._host)

    def stream(self) -> Any:
        import contextlib

        return contextlib.nullcontext()


@pytest.mark.parametrize("method", sorted(METHODS))
def test_two_memories_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    models = [model(seed) | {"wide": torch.randn(50, 50)} for seed in range(3)]
    models[1]["embed"][0, :2] = torch.tensor([float("nan"), float("inf")])
    folders = save_all(tmp_path, models)
    options: dict[str, Any] = {"method": method, "weights": [0.2, 0.3, 0.5] if method == "linear" else [0.6, 0.4]}
    mix(folders, tmp_path / "one", **options)
    monkeypatch.setattr("cocktail_hub.merge.team.Bench", TwoMemories)
    mix(folders, tmp_path / "two", **options)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_gpu_gives_the_same_bytes(tmp_path: Path, method: str, dtype: torch.dtype) -> None:
    models = [model(seed, dtype) | {"large": torch.randn(3000, 1001).to(dtype)} for seed in range(3)]
    models[1]["embed"][0, :3] = torch.tensor([float("nan"), float("inf"), -0.0])
    folders = save_all(tmp_path, models)
    options: dict[str, Any] = {"method": method, "weights": [0.2, 0.3, 0.5] if method == "linear" else [0.6, 0.4]}
    mix(folders, tmp_path / "cpu", **options)
    mix(folders, tmp_path / "cuda", **options, device="cuda", threads=2)
    assert digests(tmp_path / "cpu") == digests(tmp_path / "cuda")

"""Two memories: what a GPU needs is tried on the CPU by making them two there."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from merge_helpers import digests, mix, mixed_by_every_method

from cocktail_hub.errors import MergeError
from cocktail_hub.merge.kernels.torch_buffers import TorchBuffers
from cocktail_hub.methods.registry import METHODS


class TwoMemories(TorchBuffers):
    """Computes in other memory than it reads to and writes from."""

    def __init__(self, arena: int, device: str = "cpu") -> None:
        super().__init__(arena, device)
        self._remote = True
        self._work = torch.empty(arena, dtype=torch.uint8)

    def _stream(self) -> Any:
        return contextlib.nullcontext()


@pytest.mark.whole
@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_two_memories_give_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, dtype: torch.dtype
) -> None:
    folders, options = mixed_by_every_method(tmp_path, dtype)
    mix(folders, tmp_path / "one", **options[method])
    monkeypatch.setattr("cocktail_hub.merge.kernels.torch_buffers.TorchBuffers", TwoMemories)
    mix(folders, tmp_path / "two", **options[method])
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


def test_a_device_without_memory_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 64.00 MiB.\\nmore")

    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(
        MergeError, match=r"'cuda' ran out of memory: CUDA out of memory.*\n.*shards are kept.\nUse fewer threads"
    ):
        TorchBuffers(1 << 10, "cuda")
    monkeypatch.undo()
    buffers = TorchBuffers(1 << 10)
    with pytest.raises(MergeError, match="ran out of memory"), buffers.at_work():
        raise torch.OutOfMemoryError("no more")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_gpu_gives_the_same_bytes(tmp_path: Path, method: str, dtype: torch.dtype) -> None:
    folders, options = mixed_by_every_method(tmp_path, dtype)
    mix(folders, tmp_path / "cpu", **options[method])
    mix(folders, tmp_path / "cuda", **options[method], device="cuda", threads=2)
    assert digests(tmp_path / "cpu") == digests(tmp_path / "cuda")

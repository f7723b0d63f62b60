"""Choose where a plan is computed: numpy or torch, in this process or in others. The bytes do not depend on it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np

from cocktail_hub.merge.engine.processes import ProcessBuffers
from cocktail_hub.merge.kernels.buffers import Buffers
from cocktail_hub.methods.numpy_arrays import can_compute

if TYPE_CHECKING:
    from cocktail_hub.merge.plan import MergePlan

WORTH_PROCESSES = 1 << 30
"""Bytes of input from which it pays to start processes, each of which imports numpy."""


def make_benches(
    plan: MergePlan, threads: int | None, max_memory: int | None, device: str, *, may_leave: bool = False
) -> list[Buffers | ProcessBuffers]:
    """Make the benches that run a plan, one per thread. Which kind they are never shows in the bytes.

    Args:
        plan: what to run.
        threads: how many; `None`: one per usable processor, up to 16.
        max_memory: most bytes of buffers; `None`: 1 GiB.
        device: where to compute.
        may_leave: whether all but the first may be in processes of their own.
    """
    budget = plan.budget(threads, max_memory, device)
    if device != "cpu" or _wants_torch(plan):
        from cocktail_hub.merge.kernels.torch_buffers import TorchBuffers

        return [TorchBuffers(budget.arena, device) for _ in range(budget.threads)]
    if budget.threads == 1 or not may_leave or plan.input_bytes < WORTH_PROCESSES:
        return [Buffers(budget.arena) for _ in range(budget.threads)]
    arena = budget.cached_arena
    return [Buffers(arena), *(ProcessBuffers(arena) for _ in range(budget.threads - 1))]


def _wants_torch(plan: MergePlan) -> bool:
    """Tell whether torch is needed, or there anyway."""
    if "torch" in sys.modules or _flushes_denormals():
        return True
    mixed = (tensor for shard in plan.shards for tensor in shard.tensors if tensor.rule != "same")
    return not all(tensor.is_copy or can_compute((*tensor.dtypes, tensor.dtype)) for tensor in mixed)


def _flushes_denormals() -> bool:
    """Tell whether some library has this thread, and those it starts, take numbers near 0 for 0: torch can undo it."""
    return bool(np.float32(1e-45) * np.float32(1.0) == 0.0)

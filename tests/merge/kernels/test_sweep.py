"""Passes over a tensor in chunks: what they measure is what sorting the whole would give."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from merge_helpers import Memory

from cocktail_hub.merge.kernels.buffers import Buffers, ShardJob
from cocktail_hub.merge.kernels.sweep import Cut, Sweep
from cocktail_hub.merge.kernels.torch_buffers import TorchBuffers
from cocktail_hub.merge.plan import ComponentInput, plan_merge

if TYPE_CHECKING:
    from collections.abc import Sequence

COUNT = 5000
KINDS = [Buffers, TorchBuffers]
DTYPES = {torch.bfloat16: torch.float32, torch.float32: torch.float64}
"""Dtype of the models -> the one that is computed in."""
ONE_CHUNK, MANY_CHUNKS = 1 << 20, 16_000
"""Bytes of buffers that hold all elements at once, or one or two hundred."""


def sweep_of(models: Sequence[torch.Tensor], kind: type[Buffers], arena: int, **parameters: float) -> Sweep:
    """Begin to merge a tensor by TIES, the base first."""
    sources = [Memory({"x": tensor}) for tensor in models]
    names = tuple(f"m{number}" for number in range(len(models)))
    given = ComponentInput(specs=tuple(source.specs for source in sources), models=names)
    made = plan_merge([given], method="ties", weights=[1.0] * (len(models) - 1), parameters=parameters)
    job = ShardJob(method="ties", models=names, sources=sources, output=Memory({}))
    return Sweep(kind(arena), job, made.shards[0].tensors[0], [("x", 0, models[0].numel())])


def task_vectors(dtype: torch.dtype) -> tuple[list[torch.Tensor], list[np.ndarray]]:
    """A base and two models with many equal magnitudes, and the magnitudes of their task vectors, wider."""
    generator = torch.Generator().manual_seed(0)
    base, *others = (torch.randint(-9, 10, (COUNT,), generator=generator).to(dtype) for _ in range(3))
    return [base, *others], [(other - base).abs().to(DTYPES[dtype]).numpy() for other in others]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("arena", [ONE_CHUNK, MANY_CHUNKS])
@pytest.mark.parametrize("density", [1e-6, 0.001, 0.2, 0.5, 0.9999])
def test_the_kth_largest_of_several_chunks_is_that_of_a_sort(
    kind: type[Buffers], dtype: torch.dtype, arena: int, density: float
) -> None:
    models, magnitudes = task_vectors(dtype)
    sweep = sweep_of(models, kind, arena, density=density)
    assert (len(list(sweep.chunks())) == 1) == (arena == ONE_CHUNK)
    k = max(1, int(COUNT * density))
    wanted = [np.sort(found)[COUNT - k] for found in magnitudes]
    (cuts,) = sweep.measure()
    assert cuts == [Cut(float(cut), COUNT, float(np.nextafter(cut, cut.dtype.type(np.inf)))) for cut in wanted]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("arena", [ONE_CHUNK, MANY_CHUNKS])
@pytest.mark.parametrize("density", [0.0003, 0.1, 0.5, 0.9])
def test_exactly_k_end_behind_the_last_of_equal_elements_that_is_kept(
    kind: type[Buffers], dtype: torch.dtype, arena: int, density: float
) -> None:
    models, magnitudes = task_vectors(dtype)
    sweep = sweep_of(models, kind, arena, density=density, exact_k=True)
    k = int(COUNT * density)
    measured = sweep.measure()
    for found, cut in zip(magnitudes, measured[0], strict=True):
        order = np.lexsort((np.arange(COUNT), -found))  # the largest first, equal ones as they come
        assert cut.value == found[order[k - 1]]
        assert cut.end == order[k - 1] + 1
        kept = np.where(np.arange(COUNT) < cut.end, found >= cut.value, found >= cut.above)
        assert set(np.flatnonzero(kept)) == set(order[:k])


@pytest.mark.parametrize("arena", [ONE_CHUNK, MANY_CHUNKS])
def test_chunks_cover_the_tensor_and_none_has_two_cuts(arena: int) -> None:
    models, _ = task_vectors(torch.float32)
    sweep = sweep_of(models, Buffers, arena, density=0.3, exact_k=True)
    measured = sweep.measure()
    chunks = list(sweep.chunks(measured))
    assert [start for start, _ in chunks] == [0, *(stop for _, stop in chunks[:-1])]
    assert chunks[-1][1] == COUNT
    ends = {cut.end for cut in measured[0]}
    assert ends <= {stop for _, stop in chunks}
    for start, _ in chunks:
        wanted = [cut.value if start < cut.end else cut.above for cut in measured[0]]
        assert sweep.at(start, measured) == [wanted]


@pytest.mark.parametrize("arena", [ONE_CHUNK, MANY_CHUNKS])
def test_where_all_is_kept_no_magnitude_is_looked_for(arena: int) -> None:
    models, _ = task_vectors(torch.float32)
    assert sweep_of(models, Buffers, arena, density=1.0).measure() == [[Cut(0.0, COUNT, 0.0)] * 2]


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_are_the_differences_to_the_base_of_the_same_elements(kind: type[Buffers]) -> None:
    (base, *others), _ = task_vectors(torch.float32)
    sweep = sweep_of([base, *others], kind, MANY_CHUNKS, density=0.3)
    start, stop = list(sweep.chunks())[1]
    vectors = sweep.vectors(sweep.pieces(start, stop))
    assert [vector.tolist() for vector in vectors] == [(other - base)[start:stop].tolist() for other in others]
    assert sweep.base.tolist() == base[start:stop].tolist()

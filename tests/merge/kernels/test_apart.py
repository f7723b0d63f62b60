"""Rows that not all models have: by whatever method the others are made, they are a weighted sum of those that do."""

from __future__ import annotations

import pytest
import torch
from merge_helpers import Memory, computed, weights_for

from cocktail_hub.checkpoint.conversion.tokens import ZERO, RowStretch
from cocktail_hub.merge.kernels.buffers import Buffers
from cocktail_hub.merge.kernels.torch_buffers import TorchBuffers
from cocktail_hub.merge.plan import ComponentInput, MergePlan, plan_merge
from cocktail_hub.methods.registry import METHODS

APART = (RowStretch(3, 5, (0, 2)), RowStretch(5, 6, (1,)), RowStretch(90, 91, ()), RowStretch(95, 100, (1, 2)))
ROWS, COLUMNS = 100, 33


def models(dtype: torch.dtype) -> list[Memory]:
    return [
        Memory({"embed": torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(seed)).to(dtype)})
        for seed in range(3)
    ]


def planned(
    sources: list[Memory], method: str, weights: list[float], apart: tuple = APART, **keys: object
) -> MergePlan:
    given = ComponentInput(
        specs=tuple(source.specs for source in sources),
        models=("a", "b", "c")[: len(sources)],
        by_token=frozenset({"embed"}),
        apart=apart,
        rows=ROWS,
    )
    return plan_merge([given], method=method, weights=weights, **keys)


@pytest.mark.whole
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", METHODS)
def test_chunks_and_library_do_not_matter_and_other_rows_are_as_ever(method: str, dtype: torch.dtype) -> None:
    count = len(weights_for(method)) + (METHODS[method].base != "none")
    sources = models(dtype)[:count]
    apart = tuple(part._replace(models=tuple(m for m in part.models if m < count)) for part in APART)
    plan = planned(sources, method, weights_for(method), apart)
    results = [
        computed(plan, sources, library, arena)["embed"]
        for library, arena in ((Buffers, 1 << 14), (Buffers, 1 << 22), (TorchBuffers, 1 << 14), (TorchBuffers, 1 << 22))
    ]
    assert all(torch.equal(results[0].view(torch.uint8), other.view(torch.uint8)) for other in results[1:])
    rows = torch.tensor([row for part in apart for row in range(part.start, part.stop)])
    bare = [Memory({"embed": source.tensors["embed"].index_fill(0, rows, 0.0)}) for source in sources]
    whole = computed(planned(bare, method, weights_for(method), ()), bare, Buffers, 1 << 22)["embed"]
    assert torch.equal(results[0].index_fill(0, rows, 0.0), whole.index_fill(0, rows, 0.0))
    assert not results[0][90].any()


def test_weights_of_the_models_that_have_a_row_are_divided_by_their_sum() -> None:
    sources = models(torch.float32)
    a, b, c = (source.tensors["embed"].double() for source in sources)
    made = computed(planned(sources, "linear", [0.25, 0.25, 0.5]), sources, Buffers, 1 << 22)["embed"]
    assert torch.equal(made[3:5], (a * (0.25 / 0.75) + c * (0.5 / 0.75))[3:5].float())
    assert torch.equal(made[5], sources[1].tensors["embed"][5])
    assert torch.equal(made[95:], (b * (0.25 / 0.75) + c * (0.5 / 0.75))[95:].float())
    assert torch.equal(made[:3], (a * 0.25 + b * 0.25 + c * 0.5)[:3].float())


@pytest.mark.parametrize("method", ["task_arithmetic", "ties"])
def test_on_task_vectors_a_row_that_the_base_lacks_is_the_mean_of_the_models(method: str) -> None:
    sources = models(torch.float32)
    base, b, c = (source.tensors["embed"].double() for source in sources)
    plan = planned(sources, method, [1.0, 3.0], parameters={"lambda": 0.5})
    made = computed(plan, sources, Buffers, 1 << 22)["embed"]
    assert torch.equal(made[95:], (b * 0.25 + c * 0.75)[95:].float())
    assert torch.equal(made[5], sources[1].tensors["embed"][5])
    assert torch.equal(made[3:5], (base * 0.5 + c * 0.5)[3:5].float())


def test_models_without_weight_give_only_rows_that_no_other_has() -> None:
    sources = models(torch.float32)
    plan = planned(sources, "linear", [1.0, 0.0, 0.0])
    made = computed(plan, sources, Buffers, 1 << 22)["embed"]
    a, b, c = (source.tensors["embed"] for source in sources)
    assert torch.equal(made[:5], a[:5])
    assert torch.equal(made[5], b[5])
    assert torch.equal(made[95:], ((b.double() + c.double()) / 2)[95:].float())
    assert plan.shards[0].tensors[0].sources == {0, 1, 2}


def test_a_row_that_the_base_alone_has_stays() -> None:
    sources = models(torch.float32)
    plan = planned(sources, "task_arithmetic", [1.0, 1.0], (RowStretch(7, 9, (0,)),))
    made = computed(plan, sources, Buffers, 1 << 22)["embed"]
    assert torch.equal(made[7:9], sources[0].tensors["embed"][7:9])


def test_a_source_stands_for_those_that_lack_a_row() -> None:
    sources = models(torch.float32)
    a, b, c = (source.tensors["embed"].double() for source in sources)
    apart = (RowStretch(3, 5, (0, 1), 1), RowStretch(7, 8, (2,), 2))
    made = computed(planned(sources, "linear", [0.25, 0.25, 0.5], apart), sources, Buffers, 1 << 22)["embed"]
    assert torch.equal(made[3:5], (a * 0.25 + b * 0.75)[3:5].float())
    assert torch.equal(made[7], c[7].float())
    apart = (RowStretch(3, 5, (0, 1), ZERO), RowStretch(7, 8, (), ZERO))
    made = computed(planned(sources, "linear", [0.25, 0.25, 0.5], apart), sources, Buffers, 1 << 22)["embed"]
    assert torch.equal(made[3:5], (a * 0.25 + b * 0.25)[3:5].float())
    assert not made[7].any()
    plan = planned(sources, "task_arithmetic", [0.25, 0.25], (RowStretch(3, 5, (1, 2), 2),))
    made = computed(plan, sources, Buffers, 1 << 22)["embed"]
    assert torch.allclose(made[3:5].double(), (b * 0.5 + c * 0.5)[3:5])

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from cocktail_hub.merge.engine.chunks import PIECES_PER_RUN, Chunk, batched, cut_runs, long_first
from cocktail_hub.merge.plan import ShardPlan, TensorPlan
from cocktail_hub.methods.dtypes import itemsize


def tensor(name: str, *shape: int, weights: tuple[float, ...] = (0.5, 0.5), dtype: str = "BF16") -> TensorPlan:
    return TensorPlan(
        name=name, shape=shape, dtype=dtype, rule="mix", models=(0, 1), weights=weights, dtypes=(dtype, dtype)
    )


def cut(*tensors: TensorPlan, capacity: int = 10, offset: int = 100) -> list[Chunk]:
    shard = ShardPlan(path="model.safetensors", component=0, tensors=tensors)
    return list(cut_runs(shard, offset, lambda _: capacity))


def test_small_neighbours_are_one_run() -> None:
    (run,) = cut(tensor("a", 2), tensor("b", 3), tensor("c"))
    assert run.pieces == (("a", 0, 2), ("b", 0, 3), ("c", 0, 1))
    assert (run.offset, run.numel, run.nbytes) == (100, 6, 12)


def test_a_large_tensor_is_several_runs_and_its_rest_is_shared() -> None:
    runs = cut(tensor("a", 5, 5), tensor("b", 3))
    assert [run.pieces for run in runs] == [(("a", 0, 10),), (("a", 10, 20),), (("a", 20, 25), ("b", 0, 3))]
    assert [run.offset for run in runs] == [100, 120, 140]


def test_tensors_made_in_other_ways_are_other_runs() -> None:
    runs = cut(tensor("a", 2), tensor("b", 2, weights=(0.1, 0.9)), tensor("c", 2, dtype="F32"))
    assert [run.like.name for run in runs] == ["a", "b", "c"]


def test_empty_tensors_have_no_run() -> None:
    assert cut(tensor("a", 0, 7)) == []
    assert [run.pieces for run in cut(tensor("a", 1), tensor("b", 0), tensor("c", 1))] == [(("a", 0, 1), ("c", 0, 1))]


def test_without_a_capacity_a_run_is_one_tensor() -> None:
    runs = cut(tensor("a", 50), tensor("b", 2), tensor("c", 2), capacity=0)
    assert [run.pieces for run in runs] == [(("a", 0, 50),), (("b", 0, 2),), (("c", 0, 2),)]


def test_a_run_has_a_limit_of_pieces() -> None:
    runs = cut(*(tensor(f"t{i}", 1) for i in range(PIECES_PER_RUN + 1)), capacity=10**6)
    assert [len(run.pieces) for run in runs] == [PIECES_PER_RUN, 1]


def test_long_runs_are_begun_first_and_all_others_in_the_order_of_the_file() -> None:
    sizes = {"norm": 3, "embed": 900, "up": 20, "down": 10, "head": 1000}
    runs = cut(*(tensor(name, size) for name, size in sizes.items()), capacity=0)
    assert [run.like.name for run in long_first(runs, 2)] == ["embed", "head", "norm", "up", "down"]
    assert long_first(runs[2:4], 2) == runs[2:4]
    assert long_first([], 2) == []


shapes = st.lists(st.integers(0, 30), max_size=2).map(tuple)
plans = st.lists(st.tuples(shapes, st.sampled_from([(0.5, 0.5), (1.0, 0.0)]), st.sampled_from(["F32", "BF16"])))


def test_short_runs_are_handed_out_together_and_long_ones_alone() -> None:
    runs = cut(tensor("a", 640), tensor("b", 60, weights=(0.1, 0.9)), capacity=1)
    batches = list(batched(runs, 1))
    assert [run for batch in batches for run in batch] == runs
    assert {len(batch) for batch in batches} == {10}  # of 700, a 64th
    assert [len(batch) for batch in batched(runs, 2)][:2] == [5, 5]
    assert list(batched(cut(tensor("a", 7, 7), capacity=49), 4)) == [cut(tensor("a", 7, 7), capacity=49)]
    assert list(batched([], 2)) == []


@given(plans, st.integers(0, 40))
def test_runs_cover_every_element_once_in_order(
    kinds: list[tuple[tuple[int, ...], tuple[float, ...], str]], capacity: int
) -> None:
    tensors = [tensor(f"t{i}", *shape, weights=w, dtype=d) for i, (shape, w, d) in enumerate(kinds)]
    runs = cut(*tensors, capacity=capacity, offset=8)
    by_name = {made.name: made for made in tensors}
    reached = dict.fromkeys(by_name, 0)
    offset = 8
    for run in runs:
        assert run.offset == offset
        assert run.numel == sum(stop - start for _, start, stop in run.pieces)
        assert not capacity or run.numel <= capacity
        for name, start, stop in run.pieces:
            assert (by_name[name].weights, by_name[name].dtype) == (run.like.weights, run.like.dtype)
            assert start == reached[name] < stop
            reached[name] = stop
            offset += (stop - start) * itemsize(by_name[name].dtype)
    assert reached == {name: math.prod(made.shape) for name, made in by_name.items()}

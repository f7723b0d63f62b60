from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from cocktail_hub.merge.kernels.dispatch import PIECES_PER_CHUNK, Chunk, batched, cut_chunks, long_first
from cocktail_hub.merge.plan import ShardPlan, TensorPlan
from cocktail_hub.methods.dtypes import itemsize


def tensor(name: str, *shape: int, weights: tuple[float, ...] = (0.5, 0.5), dtype: str = "BF16") -> TensorPlan:
    return TensorPlan(
        name=name, shape=shape, dtype=dtype, rule="mix", models=(0, 1), weights=weights, dtypes=(dtype, dtype)
    )


def cut(*tensors: TensorPlan, capacity: int = 10, offset: int = 100) -> list[Chunk]:
    shard = ShardPlan(path="model.safetensors", component=0, tensors=tensors)
    return list(cut_chunks(shard, offset, lambda _: capacity))


def test_small_neighbours_are_one_chunk() -> None:
    (chunk,) = cut(tensor("a", 2), tensor("b", 3), tensor("c"))
    assert chunk.pieces == (("a", 0, 2), ("b", 0, 3), ("c", 0, 1))
    assert (chunk.offset, chunk.numel, chunk.nbytes) == (100, 6, 12)


def test_a_large_tensor_is_several_chunks_and_its_rest_is_shared() -> None:
    chunks = cut(tensor("a", 5, 5), tensor("b", 3))
    assert [chunk.pieces for chunk in chunks] == [(("a", 0, 10),), (("a", 10, 20),), (("a", 20, 25), ("b", 0, 3))]
    assert [chunk.offset for chunk in chunks] == [100, 120, 140]


def test_tensors_made_in_other_ways_are_other_chunks() -> None:
    chunks = cut(tensor("a", 2), tensor("b", 2, weights=(0.1, 0.9)), tensor("c", 2, dtype="F32"))
    assert [chunk.like.name for chunk in chunks] == ["a", "b", "c"]


def test_empty_tensors_have_no_chunk() -> None:
    assert cut(tensor("a", 0, 7)) == []
    assert [chunk.pieces for chunk in cut(tensor("a", 1), tensor("b", 0), tensor("c", 1))] == [
        (("a", 0, 1), ("c", 0, 1))
    ]


def test_without_a_capacity_a_run_is_one_tensor() -> None:
    chunks = cut(tensor("a", 50), tensor("b", 2), tensor("c", 2), capacity=0)
    assert [chunk.pieces for chunk in chunks] == [(("a", 0, 50),), (("b", 0, 2),), (("c", 0, 2),)]


def test_a_run_has_a_limit_of_pieces() -> None:
    chunks = cut(*(tensor(f"t{i}", 1) for i in range(PIECES_PER_CHUNK + 1)), capacity=10**6)
    assert [len(chunk.pieces) for chunk in chunks] == [PIECES_PER_CHUNK, 1]


def test_long_chunks_are_begun_first_and_all_others_in_the_order_of_the_file() -> None:
    sizes = {"norm": 3, "embed": 900, "up": 20, "down": 10, "head": 1000}
    chunks = cut(*(tensor(name, size) for name, size in sizes.items()), capacity=0)
    assert [chunk.like.name for chunk in long_first(chunks, 2)] == ["embed", "head", "norm", "up", "down"]
    assert long_first(chunks[2:4], 2) == chunks[2:4]
    assert long_first([], 2) == []


shapes = st.lists(st.integers(0, 30), max_size=2).map(tuple)
plans = st.lists(st.tuples(shapes, st.sampled_from([(0.5, 0.5), (1.0, 0.0)]), st.sampled_from(["F32", "BF16"])))


def test_short_chunks_are_handed_out_together_and_long_ones_alone() -> None:
    chunks = cut(tensor("a", 640), tensor("b", 60, weights=(0.1, 0.9)), capacity=1)
    batches = list(batched(chunks, 1))
    assert [chunk for batch in batches for chunk in batch] == chunks
    assert {len(batch) for batch in batches} == {10}  # of 700, a 64th
    assert [len(batch) for batch in batched(chunks, 2)][:2] == [5, 5]
    assert list(batched(cut(tensor("a", 7, 7), capacity=49), 4)) == [cut(tensor("a", 7, 7), capacity=49)]
    assert list(batched([], 2)) == []


@given(plans, st.integers(0, 40))
def test_chunks_cover_every_element_once_in_order(
    kinds: list[tuple[tuple[int, ...], tuple[float, ...], str]], capacity: int
) -> None:
    tensors = [tensor(f"t{i}", *shape, weights=w, dtype=d) for i, (shape, w, d) in enumerate(kinds)]
    chunks = cut(*tensors, capacity=capacity, offset=8)
    by_name = {made.name: made for made in tensors}
    reached = dict.fromkeys(by_name, 0)
    offset = 8
    for chunk in chunks:
        assert chunk.offset == offset
        assert chunk.numel == sum(stop - start for _, start, stop in chunk.pieces)
        assert not capacity or chunk.numel <= capacity
        for name, start, stop in chunk.pieces:
            assert (by_name[name].weights, by_name[name].dtype) == (chunk.like.weights, chunk.like.dtype)
            assert start == reached[name] < stop
            reached[name] = stop
            offset += (stop - start) * itemsize(by_name[name].dtype)
    assert reached == {name: math.prod(made.shape) for name, made in by_name.items()}

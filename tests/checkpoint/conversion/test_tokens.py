"""Which rows of a model are where in the mix, and which rows not all models have."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from cocktail_hub.checkpoint.conversion.tokens import RowStretch, TokenRows, stretches_apart
from cocktail_hub.checkpoint.header import TensorSpec


def test_rows_that_follow_one_another_in_both_are_one_run() -> None:
    rows = TokenRows.of([0, 1, None, 5, 6, 2], own=7)
    assert rows.runs == ((0, 0, 2), (3, 5, 2), (5, 2, 1))
    assert not rows.same
    assert TokenRows.of([0, 1, 2], own=3).same
    assert not TokenRows.of([0, 1, 2], own=4).same


def test_a_tensor_with_an_element_per_token_is_told_by_its_shape() -> None:
    rows = TokenRows.of([0, 1, None], own=5)
    assert [rows.axis(shape) for shape in ((5, 8), (5,), (1, 5), (8, 5), ())] == [0, 0, 1, None, None]
    assert rows.resized(TensorSpec((5, 8), "F32"), 0) == TensorSpec((3, 8), "F32")
    assert rows.resized(TensorSpec((1, 5), "F32"), 1) == TensorSpec((1, 3), "F32")


def test_rows_that_a_model_lacks_are_filled_with_some_of_its_own() -> None:
    rows = TokenRows.of([2, None, None, None, 0, None], own=3)
    assert rows.ranges("e", 6) == (("e", 4, 6), ("e", 0, 6), ("e", 0, 2), ("e", 0, 2))


sources = st.lists(st.lists(st.none() | st.integers(0, 4), min_size=12, max_size=12), min_size=1, max_size=4)


@given(sources)
def test_stretches_are_the_rows_that_some_model_lacks(models: list[list[int | None]]) -> None:
    found = stretches_apart([TokenRows.of(model, own=5) for model in models])
    having = {row: part.models for part in found for row in range(part.start, part.stop)}
    for row in range(12):
        models_with = tuple(i for i, model in enumerate(models) if model[row] is not None)
        assert having.get(row, tuple(range(len(models)))) == models_with
    assert all(a.stop < b.start or a.models != b.models for a, b in pairwise(found))


def test_an_added_token_is_one_stretch() -> None:
    rows = [TokenRows.of([0, 1, 2], own=3), TokenRows.of([0, 1, None], own=2)]
    assert stretches_apart(rows) == (RowStretch(2, 3, (0,)),)


@given(st.lists(st.none() | st.integers(0, 4), min_size=1, max_size=12))
def test_the_ranges_have_every_row_at_its_place(rows: list[int | None]) -> None:
    elements = [(start, stop) for _, start, stop in TokenRows.of(rows, own=5).ranges("e", 10)]
    flat = [element for start, stop in elements for element in range(start, stop)]
    assert len(flat) == 2 * len(rows)
    for place, row in enumerate(rows):
        assert row is None or flat[2 * place : 2 * place + 2] == [2 * row, 2 * row + 1]


def test_a_config_tells_the_number_of_tokens_and_the_ids_of_the_mix() -> None:
    rows = TokenRows.of([0, 2, 1, None], own=4)
    config = {"vocab_size": 4, "bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": -1, "num_layers": 2}
    told = {"vocab_size": 4, "bos_token_id": 2, "eos_token_id": [1], "pad_token_id": -1, "num_layers": 2}
    assert rows.told(config) == told
    assert rows.told({"text_config": config}) == {"text_config": told}
    assert rows.told({"sep_token_id": 3}) == {"sep_token_id": None}


def test_a_source_gives_a_row_to_those_that_lack_it_or_to_all() -> None:
    rows = [TokenRows.of([0, 1, None], own=2), TokenRows.of([0, 1, 2], own=3)]
    given = {1: (0, True), 2: (1, False)}
    assert stretches_apart(rows, given) == (RowStretch(1, 2, (0,), 0), RowStretch(2, 3, (1,), 1))
    assert stretches_apart(rows, {0: (0, False)}) == (RowStretch(2, 3, (1,)),)

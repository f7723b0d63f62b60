"""Random numbers: the same everywhere, and as random as they should be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from cocktail_hub.methods.draws import PERIOD, Draws
from cocktail_hub.methods.numpy_arrays import split_order

COUNT = 100_001


def drawn(key: str = "0 1 x", start: int = 0, count: int = COUNT) -> np.ndarray:
    return Draws(np.zeros(count, np.float32), [key], [(start, start + count)], np, split=False).uniform(0)


def test_numpy_and_torch_draw_the_same_in_either_order_and_in_any_pieces() -> None:
    whole = drawn()
    torchs = Draws(torch.zeros(COUNT), ["0 1 x"], [(0, COUNT)], torch, split=False).uniform(0)
    assert np.array_equal(torchs.numpy(), whole)
    split = Draws(np.zeros(COUNT, np.float32), ["0 1 x"], [(0, COUNT)], np, split=True).uniform(0)
    assert np.array_equal(split, split_order(whole))
    pieces = Draws(np.zeros(30, np.float64), ["0 1 x"], [(5, 15), (100, 120)], np, split=False).uniform(0)
    assert pieces.dtype == np.float64
    assert np.array_equal(pieces, np.concatenate([whole[5:15], whole[100:120]]).astype(np.float64))


def test_the_numbers_stay_what_they_are_from_release_to_release() -> None:
    assert [int(number) for number in drawn(count=4) * 2**24] == [7238059, 10988009, 12794633, 8165134]


def test_they_have_the_shape_of_the_vector_and_go_past_the_period() -> None:
    like = np.zeros((2, 5), np.float32)
    draws = Draws(like, ["0 1 x"], [(PERIOD - 5, PERIOD + 5)], np, split=False)
    assert draws.uniform(0).shape == (2, 5)
    assert np.array_equal(draws.uniform(0)[1], drawn(count=5))


@pytest.mark.parametrize("key", ["0 1 x", "0 2 x", "1 1 x", "0 1 model.layers.0.mlp.weight"])
def test_they_are_uniform_and_independent_of_neighbours(key: str) -> None:
    numbers = drawn(key).astype(np.float64)
    counts = np.histogram(numbers, 100, (0, 1))[0]
    assert ((counts - COUNT / 100) ** 2 / (COUNT / 100)).sum() < 150  # chi squared of 99 degrees: 1 in 1000
    for lag in (1, 2, 3, 64, 1024, 4096):
        assert abs(np.corrcoef(numbers[lag:], numbers[:-lag])[0, 1]) < 4 / COUNT**0.5


@pytest.mark.parametrize("other", ["0 2 x", "1 1 x", "0 1 y"])
def test_another_seed_model_or_tensor_gives_independent_numbers(other: str) -> None:
    assert abs(np.corrcoef(drawn(), drawn(other))[0, 1]) < 4 / COUNT**0.5


@pytest.mark.parametrize("library", [np, torch])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("chance", [0.0, 2.0**-24, 0.1, 0.3, 0.5, 0.9, 1 - 2.0**-24, 1 - 2.0**-30, 1.0])
def test_what_is_below_a_chance_is_told_without_the_numbers(library: Any, dtype: str, chance: float) -> None:
    draws = Draws(
        library.zeros((400, 100), dtype=getattr(library, dtype)), ["7 1 x"], [(3, 40_003)], library, split=False
    )
    assert bool((draws.below(0, chance) == (draws.uniform(0) < chance)).all())

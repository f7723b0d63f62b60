import math

import pytest

from cocktail_hub.errors import ScoringError
from cocktail_hub.evaluation.losses import Losses, mean_of_batches


def test_a_loss_is_the_mean_over_its_terms():
    losses = Losses.of("a", [1.0, 6.0], [1, 3])
    assert losses.per_example == (1.0, 2.0)
    assert losses.mean == 1.5
    assert Losses.of("a", [1.0, 6.0], [1, 3], batch_size=2).mean == 7 / 4


@pytest.mark.parametrize(
    ("size", "expected"), [(1, (1 / 1 + 2 / 2 + 12 / 3) / 3), (2, (3 / 3 + 12 / 3) / 2), (3, 15 / 6), (9, 15 / 6)]
)
def test_a_shorter_last_batch_counts_as_much_as_the_others(size, expected):
    assert mean_of_batches([1.0, 2.0, 12.0], [1, 2, 3], size) == pytest.approx(expected)


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_names_the_example(loss):
    with pytest.raises(ScoringError, match="loss of 'b' on example 1 is") as caught:
        Losses.of("b", [1.0, loss])
    assert (caught.value.model, caught.value.example) == ("b", 1)


def test_the_standard_error_needs_two_examples():
    assert Losses.of("a", [1.0, 2.0, 3.0]).standard_error == pytest.approx(1 / math.sqrt(3))
    assert Losses.of("a", [1.0]).standard_error is None

import pytest

from cocktail_hub.evaluation.lm_cocktail import DIFFERENCES, mean_of_batches


@pytest.mark.parametrize(
    ("size", "expected"), [(1, (1 / 1 + 2 / 2 + 12 / 3) / 3), (2, (3 / 3 + 12 / 3) / 2), (3, 15 / 6), (9, 15 / 6)]
)
def test_a_last_batch_that_is_shorter_counts_as_much_as_the_others(size, expected):
    assert mean_of_batches([1.0, 2.0, 12.0], [1, 2, 3], size) == pytest.approx(expected)


def test_what_differs_from_the_original_is_listed():
    assert all(line.endswith(".") for line in DIFFERENCES)

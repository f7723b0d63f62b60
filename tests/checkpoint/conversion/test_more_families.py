"""The other rows of docs/checkpoints.md: many families, with several differences at once."""

import pytest
from checkpoint_pairs import assert_mean
from more_model_zoo import MORE_FAMILIES

pytestmark = pytest.mark.slow

WAYS = ["current names, wrapped, bin with tied copies", "no prefix, legacy names"]
NEEDS_PREFIX = {"Qwen2.5-VL"}
"""Where transformers itself cannot tell text from vision without it."""


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", MORE_FAMILIES)
def test_two_checkpoints_mix_into_their_mean(family, way, tmp_path):
    if family in NEEDS_PREFIX:
        way = way.replace("no prefix, ", "")
    assert_mean(MORE_FAMILIES[family], way, tmp_path)

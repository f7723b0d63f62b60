"""The first rows of docs/checkpoints.md: two checkpoints of a family, saved in different ways, mix into their mean."""

import pytest
from checkpoint_pairs import assert_mean
from model_zoo import FAMILIES

WAYS = ["as saved", "current names", "legacy names", "no prefix", "wrapped", "bin with tied copies"]
CASES = [
    (family, way) for family in FAMILIES for way in WAYS if (family, way) != ("Qwen2-VL", "no prefix")
]  # transformers itself cannot tell text from vision there


@pytest.mark.whole
@pytest.mark.parametrize(("family", "way"), CASES)
def test_two_checkpoints_mix_into_their_mean(family, way, tmp_path):
    assert_mean(FAMILIES[family], way, tmp_path)

"""Which pattern of `missing` applies to a tensor."""

from __future__ import annotations

import pytest

from cocktail_hub.errors import RecipeError
from cocktail_hub.recipe.missing import DROP, FIRST, MissingPolicy


def test_the_first_pattern_that_matches_the_whole_name_applies() -> None:
    policy = MissingPolicy({"head\\.bias": FIRST, "head\\..*": DROP})
    assert policy.says(FIRST, "head.bias")
    assert not policy.says(DROP, "head.bias")
    assert policy.says(DROP, "head.weight")
    assert not policy.says(DROP, "my.head.weight")


def test_a_tensor_may_be_named_as_in_either_model() -> None:
    assert MissingPolicy({"bert\\.pooler\\..*": DROP}).says(DROP, "pooler.bias", "bert.pooler.bias")


def test_a_pattern_that_matches_no_tensor_is_refused() -> None:
    policy = MissingPolicy({"pooler\\..*": DROP})
    policy.refuse_idle(["pooler.bias"])
    with pytest.raises(RecipeError, match="no ingredient has a tensor of such a name"):
        policy.refuse_idle(["head.bias"])

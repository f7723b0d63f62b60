"""Values of a recipe: what is accepted, and how a wrong one is shown."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from cocktail_hub.errors import RecipeError
from cocktail_hub.recipe.validation import (
    as_flag,
    as_json,
    as_number,
    as_text,
    as_whole,
    collected,
    plain,
    raise_all,
    reject_unknown,
)


def test_a_json_value_is_copied_read_only_and_back() -> None:
    given = {"a": [1, {"b": None}], "c": 0.5}
    copy = as_json(given, "evidence")
    with pytest.raises(TypeError):
        copy["a"] = 1
    assert isinstance(copy["a"], tuple)
    assert plain(copy) == given
    assert plain(copy) is not given


@pytest.mark.parametrize(
    ("read", "value", "words"),
    [
        (as_text, "", "`key` must be a string, got '' (str)."),
        (as_number, "a" * 100, f"got '{'a' * 76}... (str)."),
        (as_number, "1e-3", "Write 0.001, without quotes."),
        (as_number, 10**5000, "must be a finite number, got a number of thousands of digits (int)."),
        (as_number, math.nan, "must be a finite number, got nan (float)."),
        (as_json, {"x": [{1}]}, "`key.x[0]` must be a JSON value, got {1} (set)."),
    ],
    ids=range(6),
)
def test_a_wrong_value_is_named_and_shown(read: Any, value: Any, words: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(words)):
        read(value, "key")


def test_whole_numbers_fit_into_a_seed() -> None:
    assert as_whole(2**63 - 1, "seed", low=0) == 2**63 - 1
    with pytest.raises(RecipeError, match="at most 9223372036854775807"):
        as_whole(2**63, "seed", low=0)


def test_an_unknown_key_is_refused_with_the_nearest_or_a_hint() -> None:
    with pytest.raises(RecipeError, match=r"Unknown key 'seeed' in the recipe\. Did you mean 'seed'\?"):
        reject_unknown({"seeed": 1}, ["seed"], "the recipe")
    with pytest.raises(RecipeError, match=r"Unknown key 'models' in the recipe\. List them\."):
        reject_unknown({"models": 1}, ["seed"], "the recipe", {"models": "List them."})


def test_no_more_problems_than_people_read_are_listed() -> None:
    problems: list[RecipeError] = []
    for number in range(12):
        with collected(problems):
            as_flag(number, "normalize")
    with pytest.raises(RecipeError, match=r"(?s)has 12 problems:\n1\. .*\n10\. .*\n\.\.\. and 2 more\.$") as caught:
        raise_all(problems)
    assert len(caught.value.problems) == 12
    raise_all([])

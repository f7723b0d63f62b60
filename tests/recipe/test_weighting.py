from __future__ import annotations

import re
from typing import Any

import pytest

from cocktail_hub.errors import RecipeError
from cocktail_hub.recipe import Weighting

GIVEN = {"examples": "examples.jsonl"}
ENSEMBLE = {"rule": "ensemble", **GIVEN}

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"rule": "sofmax", **GIVEN}, "must be one of softmax, uniform, ensemble, greedy, top_k, cma, got 'sofmax' (str)."),
    ({**GIVEN, "prior": [1, 2]}, "`weighting.prior` goes with `rule: ensemble`, got `rule: softmax`."),
    (
        {**GIVEN, "fallback": "never"},
        "goes with `rule: ensemble` or `greedy` or `top_k` or `cma`, got `rule: softmax`.",
    ),
    ({**GIVEN, "rule": "greedy", "k": 2}, "`weighting.k` goes with `rule: top_k`, got `rule: greedy`."),
    (
        {**GIVEN, "metric": "MRR"},
        "`weighting.metric` goes with `rule: greedy` or `top_k` or `cma`, got `rule: softmax`.",
    ),
    ({**GIVEN, "rule": "top_k", "k": 0}, "`weighting.k` must be at least 1, got 0 (int)."),
    ({"rule": "uniform", "floor": 0}, "`weighting.floor` goes with `rule: ensemble`, got `rule: uniform`."),
    ({**ENSEMBLE, "prior": [0, 1]}, "`weighting.prior` must have weights above 0, got [0, 1]."),
    ({**ENSEMBLE, "prior": []}, "`weighting.prior` must have weights above 0, got []."),
    ({**ENSEMBLE, "prior": [1, "a"]}, "`weighting.prior[1]` must be a number, got 'a' (str)."),
    ({**ENSEMBLE, "floor": 1}, "`weighting.floor` must be below 1, got 1: no weight is above 1."),
    ({**ENSEMBLE, "floor": -0.1}, "`weighting.floor` must be"),
    ({**ENSEMBLE, "fallback": "always"}, "`weighting.fallback` must be one of uniform, softmax, never, got 'always'"),
    ({}, "`weighting` has no `examples`.\nThe weights are computed from each ingredient's loss on them."),
    ({"examples": ""}, "`weighting` has no `examples`."),
    ({"examples": []}, "`weighting` has no `examples`."),
    ({"examples": 3}, "`weighting.examples` must be a list, got 3 (int)."),
    ({"examples": ["x"]}, "`weighting.examples[0]` must be a mapping of keys to values, got 'x' (str)."),
    ({"examples": [{"input": {1, 2}}]}, "`weighting.examples[0].input` must be a JSON value, got {1, 2} (set)."),
    ({**GIVEN, "temperature": 0}, "`weighting.temperature` must be above 0 nats, got 0."),
    ({**GIVEN, "temperature": -1.0}, "`weighting.temperature` must be above 0 nats, got -1.0."),
    ({**GIVEN, "temperature": "hot"}, "must be a number, got 'hot' (str). Or write auto."),
    ({**GIVEN, "temperature": "1e-1"}, "got '1e-1' (str). Write 0.1, without quotes. Or write auto."),
    ({**GIVEN, "temperature": float("inf")}, "`weighting.temperature` must be a finite number, got inf"),
    ({**GIVEN, "seed": -1}, "`weighting.seed` must be at least 0, got -1 (int)."),
    ({**GIVEN, "max_length": 0}, "`weighting.max_length` must be at least 1, got 0 (int)."),
    ({**GIVEN, "negatives": 1.5}, "`weighting.negatives` must be a whole number, got 1.5 (float)."),
    ({**GIVEN, "batch_size": True}, "`weighting.batch_size` must be a whole number, got True (bool)."),
    ({**GIVEN, "chat_template": "yes"}, "`weighting.chat_template` must be true or false, got 'yes' (str)."),
    ({**GIVEN, "normalize": 1}, "`weighting.normalize` must be true or false, got 1 (int)."),
    ({**GIVEN, "pooling": "cles"}, "`weighting.pooling` must be one of cls, mean, max, lasttoken, got 'cles' (str)."),
    ({**GIVEN, "dtype": "float64"}, "`weighting.dtype` must be one of float32, bfloat16, float16, got 'float64'"),
    ({**GIVEN, "columns": ["input"]}, "`weighting.columns` must be a mapping of keys to values, got ['input'] (list)."),
    ({**GIVEN, "columns": {"input": 3}}, "`weighting.columns.input` must be a string, got 3 (int). Put it in quotes."),
    ({**GIVEN, "revision": 2}, "`weighting.revision` must be a string, got 2 (int). Put it in quotes."),
    ({**GIVEN, "split": ""}, "`weighting.split` must be a string, got '' (str)."),
]


@pytest.mark.parametrize(("data", "words"), WRONG, ids=range(len(WRONG)))
def test_a_wrong_weighting_says_what_to_fix(data: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(words)):
        Weighting.from_value(data)


def test_the_defaults_are_those_of_lm_cocktail() -> None:
    weighting = Weighting.from_value({"examples": "examples.jsonl", "temperature": None, "seed": None})
    assert (weighting.rule, weighting.temperature, weighting.seed) == ("softmax", 5.0, 0)
    assert weighting.to_dict() == {"rule": "softmax", "examples": "examples.jsonl"}


def test_equal_weights_need_no_examples() -> None:
    assert Weighting(rule="uniform").to_dict() == {"rule": "uniform"}


def test_the_temperature_may_be_chosen_from_the_losses() -> None:
    assert Weighting(examples="x.jsonl", temperature="auto").temperature == "auto"


def test_examples_inside_the_recipe_are_kept_as_they_are() -> None:
    examples = [{"query": "q", "pos": ["a", "b"], "neg": "c"}]
    weighting = Weighting.from_value({"examples": examples, "columns": {"query": "q"}})
    examples[0]["pos"].append("later")  # type: ignore[union-attr]
    written = {"examples": [{"query": "q", "pos": ["a", "b"], "neg": "c"}], "columns": {"query": "q"}}
    assert weighting.to_dict() == {"rule": "softmax", **written}
    assert Weighting.from_value(weighting.to_dict()) == weighting


def test_the_options_of_mixed_outputs_are_written_where_they_are_not_the_defaults() -> None:
    weighting = Weighting.from_value({**ENSEMBLE, "prior": [1, 3], "floor": 0.01})
    assert weighting.prior == (1.0, 3.0)
    assert weighting.to_dict() == {**ENSEMBLE, "prior": [1.0, 3.0]}
    assert Weighting.from_value(weighting.to_dict()) == weighting

from __future__ import annotations

import pytest

from cocktail_hub.errors import RecipeError, ScoringError
from cocktail_hub.recipe import ResolvedRecipe
from cocktail_hub.search.sweep_axis import Goal, axis_of, read_goal

SHA = "a" * 40


def recipe(*weights: float, **keys) -> ResolvedRecipe:
    names = ("org/base", "org/tuned", "me/other")
    ingredients = [
        {"model": name, "revision": SHA, "weight": weight} for name, weight in zip(names, weights, strict=False)
    ]
    return ResolvedRecipe.from_dict({"ingredients": ingredients} | keys)


def arithmetic(*weights: float, **keys) -> ResolvedRecipe:
    return recipe(*weights, method="task_arithmetic", base={"model": "org/origin", "revision": SHA}, **keys)


def test_in_an_average_the_others_divide_the_rest_as_they_did():
    axis = axis_of(recipe(0.5, 0.3, 0.2), "tuned")
    assert (axis.over, axis.index) == ("org/tuned", 1)
    assert axis.recipe_at(0.5).weights == pytest.approx((0.5 * 0.5 / 0.7, 0.5, 0.5 * 0.2 / 0.7))
    assert axis.recipe_at(1.0).weights == (0.0, 1.0, 0.0)
    assert axis.shares_at(0.0).tolist() == pytest.approx([0.5 / 0.7, 0, 0.2 / 0.7])


def test_others_without_a_weight_divide_the_rest_equally():
    assert axis_of(recipe(1.0, 0.0, 0.0), "1").recipe_at(0.5).weights == (0.5, 0.25, 0.25)


def test_of_two_ingredients_the_second_goes_from_nothing_to_all():
    axis = axis_of(recipe(0.5, 0.5), None)
    assert axis.over == "org/tuned"
    assert axis.recipe_at(0.25).weights == (0.75, 0.25)


def test_lambda_scales_what_is_added_to_the_base():
    axis = axis_of(arithmetic(1.0, 0.5), None)
    assert axis.over == "lambda"
    assert axis.recipe_at(0.25).parameters == {"lambda": 0.25}
    assert axis.shares_at(0.25).tolist() == [1 - 0.375, 0.25, 0.125]
    assert axis_of(arithmetic(1.0, 1.0, normalize=True), None).shares_at(1.0).tolist() == [0, 0.5, 0.5]


def test_a_task_vector_s_weight_leaves_the_others_alone():
    axis = axis_of(arithmetic(1.0, 0.5), "2")
    assert axis.recipe_at(0.0).weights == (1.0, 0.0)
    assert axis.shares_at(1.0).tolist() == [-1.0, 1.0, 1.0]


def test_an_anchor_has_its_share_changed():
    mixed = recipe(0.5, 0.3, 0.2, evidence={"anchor": {"model": "org/base", "share": 0.5}})
    for over in (None, "anchor"):
        axis = axis_of(mixed, over)
        assert axis.recipe_at(0.0).weights == pytest.approx((0, 0.6, 0.4))


@pytest.mark.parametrize(("over", "words"), [
    (None, "The recipe does not say which of its numbers to change"),
    ("lambda", "'lambda' does not say which of its numbers to change"),
    ("4", "'4' does not say"),
    ("anchor", "Name one as `over`: org/base, org/tuned, me/other"),
])  # fmt: skip
def test_a_number_that_is_not_there_lists_those_that_are(over, words):
    with pytest.raises(RecipeError, match=words):
        axis_of(recipe(0.5, 0.3, 0.2), over)


def test_methods_that_are_no_weighted_sum_are_refused():
    with pytest.raises(RecipeError, match="A mix with method 'slerp' has no predictable curve"):
        axis_of(recipe(0.5, 0.5, method="slerp"), None)
    layered = recipe(0.5, 0.5, layers=[{"match": ".*", "weights": [0.5, 0.5]}])
    with pytest.raises(RecipeError, match="A mix with `layers` has no predictable curve"):
        axis_of(layered, None)


ENDS = ({"target": 50.0, "general": 60.0}, {"target": 70.0, "general": 55.0})


@pytest.mark.parametrize(("text", "meets"), [
    ("general >= start - 0.5", [True, False]),
    ("general>=base-0.4", [False, False]),
    ("general >= 59.5", [True, False]),
    ("general >= end + 4.5", [True, False]),
    ("general <= start", [True, True]),
    ("general >= start", [False, False]),
])  # fmt: skip
def test_conditions_compare_with_a_number_or_an_end_of_the_curve(text, meets):
    goal = read_goal(["target", "general"], None, [text])
    assert goal.maximize == "target"
    rows = ({"target": 0.0, "general": value} for value in (59.5, 50.0))
    assert [goal.meets(row, ENDS) for row in rows] == meets


def test_the_first_examples_without_a_condition_are_maximized():
    assert read_goal(["a", "b"], None, ["a >= 1"]).maximize == "b"
    assert read_goal(["a", "b"], None, ["a >= 1", "b >= 1"]).maximize == "a"
    assert read_goal(["a", "b"], "b", []) == Goal(maximize="b", asked=True)


@pytest.mark.parametrize(("maximize", "choose", "words"), [
    (None, ["general"], "The condition 'general' cannot be read"),
    (None, ["general >= "], "cannot be read"),
    (None, ["general > 3"], "cannot be read"),
    (None, ["generl >= 3"], "There are no examples called 'generl'. Did you mean 'general'"),
    ("tarjet", [], "There are no examples called 'tarjet'. Did you mean 'target'"),
])  # fmt: skip
def test_a_goal_that_cannot_be_read_says_so(maximize, choose, words):
    with pytest.raises(ScoringError, match=words):
        read_goal(["target", "general"], maximize, choose)

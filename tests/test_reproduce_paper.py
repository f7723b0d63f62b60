"""The script for the paper's tables, from ids on a Hub to tables, with tiny models in the places of the paper's."""

from __future__ import annotations

import json
from pathlib import Path

import models
import pytest
import yaml

from cocktail_hub.evaluation import harnesses
from cocktail_hub.search import tasks

pytestmark = pytest.mark.whole

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
TEXTS = ("where is the pod", "the cat sat on", "is it")
OPTIONS = ("the mat", "no", "yes", "a dog")
FLAN = [
    {"task_name": name, "query": text, "answers": ["1"], "options": list(OPTIONS[:2])}
    for name in ("ag_news", "rte", "boolq")
    for text in TEXTS
]
MMLU = [
    {"query": text, "choices": list(OPTIONS), "answer": place, "subject": subject}
    for subject in ("virology", "law")
    for place, text in enumerate(TEXTS)
]
PASSAGES = [
    {"query": "where is the cat", "pos": ["the cat sat on the mat"], "neg": ["a dog ran"]},
    {"query": "who ran", "pos": ["a dog ran in the park"], "neg": ["the cat sat"]},
]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    return __import__("reproduce_paper")


@pytest.fixture
def arguments(tmp_path, monkeypatch):
    """Everything that the script is given; mteb gives numbers without being there."""
    monkeypatch.setenv("COCKTAIL_HUB_CACHE", str(tmp_path / "cocktail"))
    monkeypatch.setenv("HF_TOKEN", models.TOKEN)
    for path, rows in (("icl/icl/test.json", FLAN), ("qa/mmlu/test.json", MMLU), ("qa/mmlu/dev.json", MMLU)):
        (tmp_path / "data" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / path).write_text("".join(json.dumps(row) + "\n" for row in rows))
    paper = yaml.safe_load((EXPERIMENTS / "paper.yaml").read_text())
    for kind, family in (("llm", "llama"), ("embedder", "bert")):
        base, fine_tuned = models.published(family).ids
        paper[kind] |= {"base": base, "fine_tuned": fine_tuned, "others": []}
    (tmp_path / "paper.yaml").write_text(yaml.safe_dump(paper))
    answers = [{"input": text, "output": "the mat"} for text in TEXTS]
    (tmp_path / "llm.json").write_text(json.dumps({"ag_news": answers}))
    (tmp_path / "embedder.json").write_text(json.dumps(dict.fromkeys(("HotpotQA", "NQ", "SciFact"), PASSAGES)))
    monkeypatch.setitem(harnesses.LISTS, "retrieval15", ("HotpotQA", "NQ", "SciFact"))
    monkeypatch.setitem(harnesses.LISTS, "retrieval12", ("NQ", "SciFact"))
    monkeypatch.setattr(tasks, "require", lambda package, extra: "0")
    numbers = {"HotpotQA": 0.9, "NQ": 0.2, "SciFact": 0.4}
    monkeypatch.setattr(
        tasks, "mteb_columns", lambda name, model, as_paper: {f"nDCG@10:{name}": {"value": [numbers[name]] * 3}}
    )
    files = {"data": "data", "paper": "paper.yaml", "llm-examples": "llm.json", "embedder-examples": "embedder.json"}
    given = [part for name, file in files.items() for part in (f"--{name}", str(tmp_path / file))]
    return [*given, "--out", str(tmp_path / "out")]


def test_the_four_tables_are_made_from_ids_on_the_hub(script, arguments, tmp_path):
    script.main(arguments)
    tables = {name: (tmp_path / "out" / f"{name}.md").read_text().splitlines() for name in script.TABLES}
    rows = {name: [line.split(" | ")[0].strip("| ") for line in lines[4:]] for name, lines in tables.items()}
    assert rows == {
        "forgetting-llm": ["base", "fine-tuned", "mix of 2", "mix of 2 by examples"],
        "forgetting-embedder": ["base", "fine-tuned", "mix of 2", "mix of 2 by examples"],
        "new-llm": ["base", "base, 5 shots", "mix of 2 by examples"],
        "new-embedder": ["base", "mix of 2 by examples"],
    }
    assert tables["forgetting-embedder"][2:5] == [
        "| model | target | others | other tasks |",
        "|---|---|---|---|",
        "| base | 90.0 | 30.0 | 2 |",
    ]
    assert tables["new-embedder"][4:] == ["| base | 30.0 | 2 |", "| mix of 2 by examples | 30.0 | 2 |"]
    found = json.loads((tmp_path / "out" / "forgetting-llm.json").read_text())
    assert {task for row in found.values() for task in row} == {"ag_news", "rte", "boolq"}
    assert set(json.loads((tmp_path / "out" / "new-llm.json").read_text())["base"]) == {"virology", "law"}


def test_a_table_that_is_there_is_made_again_without_a_model(script, arguments, tmp_path, monkeypatch):
    script.main([*arguments, "--tables", "new-llm"])
    first = (tmp_path / "out" / "new-llm.md").read_text()
    monkeypatch.setattr(tasks, "answer", None)
    script.main([*arguments, "--tables", "new-llm"])
    assert (tmp_path / "out" / "new-llm.md").read_text() == first


def test_mixes_are_those_of_the_paper(script, arguments, tmp_path):
    papers = yaml.safe_load((EXPERIMENTS / "paper.yaml").read_text())
    examples = {"ag_news": [{"input": "a", "output": "b"}]}
    _, _, two, many = script.cells_of("forgetting-llm", papers, tmp_path / "data", examples)
    assert [one["weight"] for one in two.source["ingredients"]] == [0.7, 0.3]
    assert many.source["anchor"] == {"model": "Shitao/llama2-ag-news", "share": 0.5}
    assert many.source["weighting"] == {"rule": "softmax", "temperature": 5.0, "examples": examples["ag_news"]}
    *_, last = script.cells_of("new-llm", papers, tmp_path / "data", {})
    assert last.suite == "mmlu57:law"
    assert last.source["weighting"]["examples"][1]["output"] == "B"
    assert last.source["weighting"]["examples"][1]["input"].endswith("D. a dog\nAnswer:")


def test_examples_that_are_missing_are_asked_for(script, arguments):
    without = arguments[: arguments.index("--llm-examples")]
    with pytest.raises(SystemExit, match="forgetting-llm needs --llm-examples"):
        script.main(without)

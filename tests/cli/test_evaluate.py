from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_helpers import run

from cocktail_hub.search import plot

pytestmark = pytest.mark.whole

PASSAGES = [
    {"query": "where is the cat", "pos": ["the cat sat on the mat"], "neg": ["a dog ran"]},
    {"query": "who ran", "pos": ["a dog ran in the park"], "neg": ["the cat sat"]},
]


@pytest.fixture
def test_set(tmp_path: Path) -> Path:
    path = tmp_path / "target.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in PASSAGES))
    return path


def test_conclusions_come_first_and_then_the_tables(recipe, test_set, fresh_cache):
    result = run("eval", recipe, "--examples", f"general={test_set}", "--examples", test_set)
    assert result.exit_code == 0, result.output
    conclusions, general, target = result.stdout.strip().split("\n\n")
    assert all(line.startswith("The mix ") for line in conclusions.splitlines())
    assert general.startswith("general: 2 examples of target.jsonl  ")
    assert target.startswith("target: 2 examples of target.jsonl  ")


def test_everything_is_in_the_json(recipe, test_set, fresh_cache):
    result = run("eval", recipe, "--examples", test_set, "--json")
    found = json.loads(result.stdout)
    assert len(found["conclusions"]) == 3
    assert found["results"][0]["metric"] == "nDCG@10"


def test_a_plot_is_drawn(recipe, test_set, fresh_cache, tmp_path):
    pytest.importorskip("matplotlib")
    result = run("eval", recipe, "--examples", test_set, "--plot", tmp_path / "plot.png")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert "Drawn to" in result.stderr


def test_options_reach_the_models(recipe, test_set, fresh_cache, monkeypatch):
    given: dict = {}
    monkeypatch.setattr(
        "cocktail_hub.pipeline.measurement.evaluate", lambda *sources, **more: given.update(more, sources=sources)
    )
    more = ("--tasks", "mmlu57", "--tasks", "flan30:rte", "--data", "folder", "--shots", "5")
    arguments = (
        *more,
        "--max-length",
        "9",
        "--batch-size",
        "2",
        "--chat-template",
        "--no-generation",
        "--revision",
        "dev",
    )
    run("eval", "a", "b", "--examples", test_set, *arguments, "--scoring-device", "cpu")
    assert given["sources"] == ("a", "b")
    assert (given["tasks"], given["data"], given["shots"]) == (("mmlu57", "flan30:rte"), "folder", 5)
    assert given["reading"] == {"max_length": 9, "batch_size": 2, "chat_template": True}
    assert given["generated"] is False
    assert given["revision"] == "dev"
    assert given["options"].scoring_device == "cpu"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Missing argument 'SOURCE...'"),
        (("a",), "Give --examples FILE, or --tasks NAME."),
        (("a", "--examples", "target="), "'target=' names no file. Write it like target=test.jsonl."),
        (("a", "--examples", "x/t.jsonl", "--examples", "y/t.jsonl"), "Two sets of examples have the same name"),
        (("a", "--examples", "t.jsonl", "--plot", "gone/plot.png"), "There is no folder 'gone'"),
    ],
)
def test_what_is_missing_is_said(arguments, message):
    result = run("eval", *arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_without_matplotlib_nothing_is_measured_for_a_plot(recipe, test_set, monkeypatch):
    monkeypatch.setattr(plot, "find_spec", lambda name: None)
    result = run("eval", recipe, "--examples", test_set, "--plot", "plot.png")
    assert result.exit_code == 1
    assert "It is needed to draw plots" in result.output

"""`cocktail demo`: its parts on small things, and once the whole of it on the real models."""

from __future__ import annotations

import csv
import itertools
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from cocktail_hub.cli import main
from cocktail_hub.cli.demo import models, questions
from cocktail_hub.cli.demo.questions import Question, Score
from cocktail_hub.errors import MissingExtraError

pytestmark = pytest.mark.whole


class Table:
    """An embedder that looks every text up."""

    def __init__(self, **vectors: Sequence[float]) -> None:
        self._vectors = vectors

    def encode(self, texts: list[str], *, show_progress_bar: bool) -> np.ndarray:
        assert not show_progress_bar
        return np.array([self._vectors[text] for text in texts], dtype=np.float32)


def test_scores_count_ranks_among_the_answers_of_all_sets() -> None:
    model = Table(q1=(1, 0), q2=(0, 1), q3=(3, 4), a1=(2, 0), a2=(1, 1), a3=(0, 5))
    one = [Question(question="q1", answer="a1"), Question(question="q2", answer="a2")]
    other = [Question(question="q3", answer="a1")]
    found = questions.score(model, {"one": one, "other": other})
    assert found == {"one": Score(top1=1.0, mrr=1.0), "other": Score(top1=0.0, mrr=0.5)}
    third = [*other, Question(question="q3", answer="a3")]  # a2 is nearest to q3, then a3, then a1
    assert questions.score(model, {"one": one, "other": third})["other"] == Score(top1=0.0, mrr=(1 / 3 + 1 / 2) / 2)


def test_both_sets_hold_forty_questions_with_an_answer_of_their_own() -> None:
    sets = questions.read_questions()
    assert {name: len(items) for name, items in sets.items()} == {"general": 40, "sre": 40}
    items = [item for found in sets.values() for item in found]
    assert len({item.answer for item in items}) == len({item.question for item in items}) == 80
    assert not [item for item in items if item.answer.lower() in item.question.lower()]


def test_the_plot_and_its_numbers_are_the_same_every_time(tmp_path: Path) -> None:
    score = Score(top1=0.5, mrr=2 / 3)
    curve = {0.0: {"general": score, "sre": Score(top1=0.0, mrr=0.125)}, 1.0: {"general": score, "sre": score}}
    from cocktail_hub.cli.demo import story

    for name in ("a", "b"):
        story.draw(curve, tmp_path / f"{name}.png")
    story.write_numbers(curve, tmp_path / "numbers.csv")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "numbers.csv").read_text(encoding="utf-8").splitlines() == [
        "weight,general_top1,general_mrr,sre_top1,sre_mrr",
        "0.0,0.500,0.667,0.000,0.125",
        "1.0,0.500,0.667,0.500,0.667",
    ]


def test_without_the_extra_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=re.escape('pip install ".[demo]"')):
        models.BASE.locate()
    done = CliRunner().invoke(main, ["demo"])
    assert (done.exit_code, done.stdout) == (1, "")
    assert "have two real models for the demo" in done.stderr


def test_models_are_found_without_running_their_packages_or_the_hubs_client() -> None:
    code = (
        "import sys; from cocktail_hub.cli.demo.models import BASE, FINE_TUNE; BASE.locate(), FINE_TUNE.locate();"
        "print([m for m in (BASE.package, FINE_TUNE.package, 'huggingface_hub') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert (models.FINE_TUNE.locate() / "model.safetensors").is_file()


def test_an_output_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = CliRunner().invoke(main, ["demo", "-o", str(tmp_path / "file")])
    assert (done.exit_code, done.stdout) == (1, "")
    assert "File exists" in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="a shell script")
def test_a_demo_that_stops_early_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho one line\nexit 3\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    done = CliRunner().invoke(main, ["demo", "-o", str(tmp_path / "out")])
    assert (done.exit_code, done.stdout) == (1, "one line\n")
    assert "stopped early, with exit code 3" in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_it_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-u", "-m", "cocktail_hub.cli.demo", str(tmp_path / "out")]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    (tmp_path / "out").mkdir()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline().startswith("Two real models")
        child.send_signal(number)
        _, said = child.communicate(timeout=60)
    assert (child.returncode, said) == (130, "")
    assert [path.name for path in tmp_path.rglob("*")] == ["out"]


def _table(said: str, head: str) -> dict[str, list[float]]:
    """Rows of the table with this head: first cell -> its numbers."""
    body = said.partition(f" {head}general right  general MRR  sre right  sre MRR\n")[2]
    rows = itertools.takewhile(lambda line: line.count(" %") == 2, body.splitlines())
    return {first: [float(cell) for cell in rest if cell != "%"] for first, *rest in map(str.split, rows)}


@pytest.mark.real
@pytest.mark.slow
def test_the_whole_demo(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    environment = os.environ | {"TMPDIR": str(tmp_path / "tmp")}
    command = [sys.executable, "-m", "cocktail_hub.cli", "demo", "-o", str(tmp_path / "out")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    said = done.stdout

    assert "An ordinary transformers.BertModel, 22.7 million parameters." in said
    assert "Downloaded 182 MB of weights" in said
    assert said.count("the same, bit for bit") == 4
    assert "| base_model_relation: merge" in said
    assert "Weights downloaded: 0 bytes. Merged: nothing." in said
    assert "With local_files_only=True: 0 requests." in said
    assert len(said.partition("With models of your own")[2].strip().splitlines()) == 5

    kinds, curve = _table(said, " " * 10), _table(said, "weight  ")
    base, fine_tuned, mixed = (kinds[name] for name in ("base", "fine-tuned", "mix"))
    assert curve["0.0"] == base
    assert curve["1.0"] == fine_tuned
    assert curve["0.5"] == mixed
    assert base == pytest.approx([65.0, 0.758, 37.5, 0.500], abs=2.6)
    assert fine_tuned == pytest.approx([37.5, 0.540, 45.0, 0.563], abs=2.6)
    assert mixed == pytest.approx([65.0, 0.751, 57.5, 0.657], abs=2.6)

    with (tmp_path / "out" / "tradeoff.csv").open(encoding="utf-8") as file:
        assert [row["weight"] for row in csv.DictReader(file)] == list(curve)
    assert (tmp_path / "out" / "tradeoff.png").read_bytes().startswith(b"\x89PNG")
    assert list((tmp_path / "tmp").iterdir()) == []

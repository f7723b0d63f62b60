from __future__ import annotations

import importlib.util

import pytest

from cocktail_hub.errors import MissingExtraError
from cocktail_hub.evaluation.intervals import Figure
from cocktail_hub.search import plot
from cocktail_hub.search.evaluate import Evaluation, ExamplesResult
from cocktail_hub.search.plot import draw_evaluation, draw_evidence, require_plotting

MODELS = {name: {"MRR": Figure(value=50.0, low=45.0, high=55.0, count=99)} for name in ("The mix", "acme/a", "acme/b")}
FOUND = Evaluation(
    results=tuple(
        ExamplesResult(name=name, source="s", count=99, models=MODELS, comparisons=()) for name in ("target", "general")
    )
)


@pytest.mark.whole
@pytest.mark.parametrize(("suffix", "begins"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_a_plot_is_written_in_the_format_of_its_suffix(suffix, begins, tmp_path):
    pytest.importorskip("matplotlib")
    file = tmp_path / f"plot.{suffix}"
    draw_evaluation(FOUND, file)
    assert file.read_bytes().startswith(begins)


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(
        plot, "find_spec", lambda name: None if name == "matplotlib" else importlib.util.find_spec(name)
    )
    with pytest.raises(MissingExtraError, match=r"'matplotlib' is not installed(.|\n)*\[plot\]"):
        require_plotting()


WEIGHTS = [{"model": "org/a", "weight": 0.25, "loss": 1.5}, {"model": "/data/b$1", "weight": 0.75, "value": 61.0}]
POINT = {"value": 50.0, "interval": [45.0, 55.0]}
CURVE = {"examples": "target", "metric": "MRR", "predicted": [POINT] * 3, "measured": {"0": POINT, "0.5": POINT}}
SWEEP = {"over": "org/tuned", "positions": [0.0, 0.5, 1.0], "knee": 0.5, "curves": [CURVE, CURVE]}


@pytest.mark.whole
@pytest.mark.parametrize("evidence", [{"ingredients": WEIGHTS}, SWEEP, SWEEP | {"ingredients": WEIGHTS}])
def test_weights_and_curves_of_the_evidence_are_drawn_the_same_every_time(evidence, tmp_path):
    pytest.importorskip("matplotlib")
    files = [tmp_path / "one.png", tmp_path / "two.png"]
    for file in files:
        draw_evidence(evidence, file)
    assert files[0].read_bytes().startswith(b"\x89PNG")
    assert files[0].read_bytes() == files[1].read_bytes()
    assert b"matplotlib" not in files[0].read_bytes()
    assert files[0].stat().st_size < 100_000

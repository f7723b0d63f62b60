from __future__ import annotations

import importlib.util

import pytest

from cocktail_hub.errors import MissingExtraError
from cocktail_hub.evaluation.intervals import Figure
from cocktail_hub.search import plot
from cocktail_hub.search.evaluate import Evaluation, ExamplesResult
from cocktail_hub.search.plot import draw_evaluation, require_plotting

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

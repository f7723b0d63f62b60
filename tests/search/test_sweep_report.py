from __future__ import annotations

import pytest

from cocktail_hub.errors import MissingExtraError
from cocktail_hub.evaluation.intervals import Figure
from cocktail_hub.recipe import ResolvedRecipe
from cocktail_hub.search import plot
from cocktail_hub.search.sweep_report import Curve, Sweep


def figure(value: float, spread: float = 2.0) -> Figure:
    return Figure(value=value, low=value - spread, high=value + spread, count=100)


def curve(name: str, values: list[float], over_start: float, over_end: float, **keys) -> Curve:
    return Curve(
        name=name,
        metric=keys.pop("metric", "nDCG@10"),
        higher=keys.pop("higher", True),
        predicted=tuple(map(figure, values)),
        measured={place: figure(value + 0.5) for place, value in enumerate(values)},
        over_start=figure(over_start),
        over_end=figure(over_end),
    )


def found(*curves: Curve) -> Sweep:
    ingredients = [{"model": name, "revision": "a" * 40, "weight": 0.5} for name in ("org/base", "org/tuned")]
    return Sweep(
        over="org/tuned",
        positions=(0.0, 0.5, 1.0),
        curves=curves,
        knee=1,
        chosen=1,
        digests={one.name: "d" * 64 for one in curves},
        mix=ResolvedRecipe.from_dict({"ingredients": ingredients}),
    )


TARGET = curve("target", [50.0, 60.0, 62.0], 10.0, -1.5)
GENERAL = curve("general", [55.0, 56.0, 49.0], 1.0, 7.0)
LOSS = curve("target", [2.0, 1.0, 1.5], -1.0, -5.0, metric="loss", higher=False)


def test_the_table_shows_the_metric_that_decides_with_intervals_and_says_what_follows():
    assert str(found(TARGET, LOSS, GENERAL)) == (
        "                    target, nDCG@10    target, nDCG@10    general, nDCG@10   general, nDCG@10\n"
        "org/tuned           predicted          measured           predicted          measured\n"
        "0                   50.0 [48.0, 52.0]  50.5 [48.5, 52.5]  55.0 [53.0, 57.0]  55.5 [53.5, 57.5]\n"
        "0.5 (knee, chosen)  60.0 [58.0, 62.0]  60.5 [58.5, 62.5]  56.0 [54.0, 58.0]  56.5 [54.5, 58.5]\n"
        "1                   62.0 [60.0, 64.0]  62.5 [60.5, 64.5]  49.0 [47.0, 51.0]  49.5 [47.5, 51.5]\n"
        "target: 0.5 against 0: 10.0 [8.0, 12.0] nDCG@10, better\n"
        "target: 0.5 against 1: -1.5 [-3.5, 0.5] nDCG@10, not told apart\n"
        "general: 0.5 against 0: 1.0 [-1.0, 3.0] nDCG@10, not told apart\n"
        "general: 0.5 against 1: 7.0 [5.0, 9.0] nDCG@10, better"
    )


def test_a_lower_loss_is_better():
    assert found(LOSS).sentences[1] == "target: 0.5 against 1: -5.0 [-7.0, -3.0] loss, better"


def test_the_evidence_has_the_curves_that_decided_and_json_has_all():
    result = found(TARGET, LOSS, GENERAL)
    assert [one["metric"] for one in result.to_dict()["curves"]] == ["nDCG@10", "loss", "nDCG@10"]
    assert [one["metric"] for one in result.recipe.evidence["curves"]] == ["nDCG@10", "nDCG@10"]
    assert result.recipe.evidence["curves"][0]["measured"]["0.5"]["interval"] == (58.5, 62.5)
    assert result.recipe.weights == (0.5, 0.5)
    assert TARGET.error == 0.5


@pytest.mark.whole
def test_curves_are_drawn(tmp_path):
    found(TARGET, GENERAL).plot(tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_drawing_without_matplotlib_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(plot, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match="needed to draw plots"):
        found(TARGET).plot(tmp_path / "curve.png")

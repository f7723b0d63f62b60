from __future__ import annotations

import sys

import pytest
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from cocktail_hub.hub import progress
from cocktail_hub.hub.progress import bar


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> None:
    """As they are without `HF_HUB_DISABLE_PROGRESS_BARS`, which the client has read already."""
    monkeypatch.setattr(sys.modules[are_progress_bars_disabled.__module__], "HF_HUB_DISABLE_PROGRESS_BARS", None)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in a list of one."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "time", lambda: now[0])
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    return now


@pytest.mark.usefixtures("bars")
def test_a_bar_shows_what_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    with bar("merge", 2_000_000) as advance:
        advance(500_000)
        advance(1_500_000)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("\rmerge:   0%")
    assert "2.00M/2.00M" in err


@pytest.mark.usefixtures("bars")
def test_a_delayed_bar_does_not_appear_for_shorter_work(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with bar("merge", 100, unit="%", delay=1.0) as advance:
        clock[0] += 0.9
        advance(100)
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("bars")
def test_a_bar_that_comes_late_counts_from_the_start(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with bar("merge", 100, unit="%", delay=1.0) as advance:
        clock[0] += 0.5
        advance(10)
        clock[0] += 0.5
        advance(20)
        assert "30/100 [00:01<00:02, 30.00%/s]" in capsys.readouterr().err
        clock[0] += 2.0
        advance(30)
    assert "60/100 [00:03<00:02, 20.00%/s]" in capsys.readouterr().err


@pytest.mark.usefixtures("bars")
def test_no_bar_appears_where_the_hubs_bars_are_disabled(capsys: pytest.CaptureFixture[str]) -> None:
    disable_progress_bars("cocktail_hub")
    try:
        with bar("merge", 100) as advance:
            advance(100)
    finally:
        enable_progress_bars("cocktail_hub")
    assert capsys.readouterr().err == ""

from __future__ import annotations

import pytest
from cli_helpers import loaded_by, run


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cocktail_hub.cli.ui.find_spec", lambda _: None)
    done = run("ui")
    assert done.exit_code == 1
    assert "The package 'gradio' is not installed." in done.output
    assert "cocktail-hub[ui]" in done.output or "[ui]" in done.output


@pytest.mark.whole
def test_help_loads_nothing_heavy() -> None:
    shown, loaded = loaded_by("ui", "--help")
    assert "Only this machine can open the page" in shown
    assert loaded == set()


@pytest.mark.parametrize("port", ["0", "70000", "x"])
def test_a_port_out_of_range_is_wrong_usage(port: str) -> None:
    assert run("ui", "--port", port).exit_code == 2

"""Files of strangers end in a mix or in one of our errors, within some seconds and some memory, and nothing runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hostile_inputs import CPU, MEMORY

pytestmark = [
    pytest.mark.whole,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX"),
]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("hostile")
    script = Path(__file__).with_name("hostile_inputs.py")
    done = subprocess.run([sys.executable, script, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not Path(f"{folder / 'base'}.touched").exists()
    return {line["name"]: line for line in map(json.loads, done.stdout.splitlines())}


def test_nothing_ends_in_a_traceback_or_never(results: dict[str, dict[str, Any]]) -> None:
    assert {name: found["ended"] for name, found in results.items() if found["ended"] not in ("mixed", "refused")} == {}
    assert len(results) > 200


def test_nothing_costs_more_than_it_may(results: dict[str, dict[str, Any]]) -> None:
    dear = {name: found for name, found in results.items() if found["cpu"] > CPU or found["memory"] > MEMORY}
    assert dear == {}


def test_nothing_that_is_said_moves_the_cursor_turns_a_line_around_or_has_a_token(
    results: dict[str, dict[str, Any]],
) -> None:
    said = "".join(found["said"] for found in results.values())
    assert not {"\x1b", "\u202e", "\x07", "\x7f"}.intersection(said)
    assert "xxxxxxxxxx" not in said.replace("x" * 60, "")


def test_most_are_refused(results: dict[str, dict[str, Any]]) -> None:
    mixed = [name for name, found in results.items() if found["ended"] == "mixed"]
    assert len(mixed) < len(results) / 3, mixed

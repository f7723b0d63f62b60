"""Whatever a file holds, reading it ends in a value or in one of our errors, soon and in little memory.

`make fuzz` searches for `FUZZ_SECONDS`; otherwise some seconds go to all kinds of files together. What once went wrong
is kept in `tests/corpus`, a folder for each kind, and tried in every run.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parsers import PARSERS, parse

from cocktail_hub.errors import CocktailError

CORPUS = sorted(path for path in (Path(__file__).parent / "corpus").glob("*/*") if path.is_file())
CPU, MEMORY = 10, 500 << 20
"""Seconds and bytes that reading one file may take."""
SECONDS = float(os.environ.get("FUZZ_SECONDS", "5"))
ODD = st.sampled_from(
    (
        *(None, True, False, 0, 1, -1, 1.5, 10**30, 2**63, -(2**63) - 1, 10**400, float("inf"), float("nan"), -0.0),
        *("", " ", "a", "\0", "\x1b[31m", "\u202e", "../../x", "/etc/passwd", "a" * 3000, "1e400", "{", "*" * 40),
        *("((a|b)+)+", "\\", "(", "[", "base", "first", "union", "\ud800", "me/x", "2020-13-45", "nan", "\n- x"),
        *([], {}, [[]], [1], ["a"], {"a": 1}, {"": ""}, [{}], {"0": None}, {"type": "Sequence"}, [None, None]),
    )
)
PIECES = (b"\n\x08\n\x01a\x15\0\0\0\0", b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02", b"\x1a\x02\n\0", b"\xff" * 9)
"""Of sentencepiece models: two tokens, a normaliser, and the beginning of a long number."""
JSON = st.recursive(
    ODD, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value, as the keys that lead to it."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, inner in inside for found in places(inner, (*path, key)))]


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy of a JSON value with another value at a place, where it has that place."""
    if not path:
        return new
    if isinstance(value, dict):
        return {**value, path[0]: replaced(value.get(path[0]), path[1:], new)}
    if isinstance(value, list) and isinstance(path[0], int):
        return [replaced(inner, path[1:], new) if i == path[0] else inner for i, inner in enumerate(value)]
    return value


@st.composite
def files(draw: st.DrawFn, kind: str) -> bytes:
    """A file of a kind with some values replaced, and now and then some bytes."""
    if kind == "pieces":
        return b"".join(draw(st.lists(st.binary(max_size=3) | st.sampled_from(PIECES))))
    value = seed = draw(st.sampled_from(PARSERS[kind][1]))
    for path in draw(st.lists(st.sampled_from(places(seed)[1:]), max_size=3)):
        value = replaced(value, path, draw(JSON))
    if draw(st.booleans()) and kind in ("recipe", "card"):
        with_json = json.loads(json.dumps(value))
        data = yaml.safe_dump(with_json, allow_unicode=False, sort_keys=False).encode(errors="replace")
    else:
        data = json.dumps(value).encode()
    if kind == "card":
        data = b"---\n" + data + b"\n---\nx"
    for _ in range(draw(st.integers(0, 5)) // 3):
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.binary(max_size=4)) + data[at + draw(st.integers(0, 4)) :]
    return data


def peak() -> int:
    resource = pytest.importorskip("resource", reason="limits of POSIX")
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * 1024


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_once_went_wrong_does_not_go_wrong_again(path: Path, tmp_path: Path) -> None:
    parse(path.parent.name, path.read_bytes(), tmp_path)


@pytest.mark.parametrize("kind", PARSERS)
def test_what_such_files_hold_is_read(kind: str, tmp_path: Path) -> None:
    read, contents = PARSERS[kind]
    for content in contents:
        with suppress(CocktailError) if kind == "recipe" else nullcontext():  # mergekit cannot say all that ours can
            read(json.dumps(content).encode(), tmp_path)


@pytest.mark.fuzz
@pytest.mark.timeout(0)
@pytest.mark.parametrize("kind", PARSERS)
def test_reading_ends_in_a_value_or_in_one_of_our_errors(kind: str, tmp_path: Path) -> None:
    @settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(data=files(kind) | st.binary(max_size=200))
    def search(data: bytes) -> None:
        began, before = time.process_time(), peak()
        parse(kind, data, tmp_path)
        assert time.process_time() - began < CPU
        assert peak() - before < MEMORY

    end = time.monotonic() + SECONDS / len(PARSERS)
    search()
    while time.monotonic() < end:
        search()

"""Answers as values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cocktail_hub.testing.http_error import HttpError
from cocktail_hub.testing.reply import error_reply, file_reply

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("wanted", "status", "span", "said"),
    [
        ("", 200, (0, 10), None),
        ("bytes=0-0", 206, (0, 1), "bytes 0-0/10"),
        ("bytes=2-5", 206, (2, 6), "bytes 2-5/10"),
        ("bytes=7-", 206, (7, 10), "bytes 7-9/10"),
        ("bytes=-3", 206, (7, 10), "bytes 7-9/10"),
        ("bytes=-99", 206, (0, 10), "bytes 0-9/10"),
        ("bytes=8-99", 206, (8, 10), "bytes 8-9/10"),
        ("bytes=0-1,4-5", 200, (0, 10), None),
        ("lines=1-2", 200, (0, 10), None),
        ("bytes=10-", 416, None, "bytes */10"),
        ("bytes=5-2", 416, None, "bytes */10"),
    ],
)
def test_a_range_is_cut_out_of_the_file(
    tmp_path: Path, wanted: str, status: int, span: tuple[int, int] | None, said: str | None
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(10))
    reply = file_reply(path, wanted, {})
    assert (reply.status, reply.headers.get("Content-Range")) == (status, said)
    assert reply.size == (span[1] - span[0] if span else 0)
    assert span is None or (reply.body.start, reply.body.stop) == span


def test_an_error_says_in_its_headers_what_it_is() -> None:
    reply = error_reply(HttpError(404, "Not\nhere: \u00e9", code="EntryNotFound", headers={"X-Repo-Commit": "abc"}))
    assert reply.status == 404
    assert reply.headers["X-Error-Code"] == "EntryNotFound"
    assert reply.headers["X-Error-Message"] == "Not here: ?"
    assert reply.headers["X-Repo-Commit"] == "abc"
    assert reply.body == b'{"error": "Not\\nhere: \\u00e9"}'

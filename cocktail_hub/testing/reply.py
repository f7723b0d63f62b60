"""Reply: a whole answer as a value; the server alone writes it to the wire."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cocktail_hub.testing.http_error import HttpError

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePart:
    """Bytes `start:stop` of a file, streamed from disk."""

    path: Path
    """The file."""
    start: int
    """First byte."""
    stop: int
    """One past the last byte."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """Status, headers and body of one answer."""

    status: int = 200
    """HTTP status."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Besides Content-Length, which follows from the body."""
    body: bytes | FilePart = b""
    """Bytes at hand, or a part of a file."""

    @property
    def size(self) -> int:
        """Bytes in the body."""
        return len(self.body) if isinstance(self.body, bytes) else self.body.stop - self.body.start


def json_reply(value: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    """Answer with `value` as JSON."""
    body = json.dumps(value).encode()
    return Reply(
        status=status, body=body, headers={"Content-Type": "application/json; charset=utf-8", **(headers or {})}
    )


def redirect(status: int, location: str, headers: Mapping[str, str]) -> Reply:
    """Send the client to `location`."""
    return Reply(status=status, headers={"Location": location, **headers})


def error_reply(error: HttpError) -> Reply:
    """Answer with the error as JSON, and in the headers from which the client picks its exception."""
    headers = dict(error.headers)
    if error.code:
        headers["X-Error-Code"] = error.code
    if error.message:
        headers["X-Error-Message"] = " ".join(error.message.encode("ascii", "replace").decode().split())
    return json_reply({"error": error.message}, status=error.status, headers=headers)


def file_reply(path: Path, wanted: str, headers: Mapping[str, str]) -> Reply:
    """Answer with a file, or with the part of it that the `Range` header `wanted` names ("" for all of it)."""
    size = path.stat().st_size
    headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", **headers}
    span = _span(wanted, size)
    if span is None:
        return Reply(headers=headers, body=FilePart(path=path, start=0, stop=size))
    start, stop = span
    if start >= stop:
        return Reply(status=416, headers={**headers, "Content-Range": f"bytes */{size}"})
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    return Reply(status=206, headers=headers, body=FilePart(path=path, start=start, stop=stop))


def flipped(reply: Reply, place: int) -> Reply:
    """The same answer with one bit of a byte of its body changed."""
    body = reply.body
    if isinstance(body, FilePart):
        body = body.path.read_bytes()[body.start : body.stop]
    return replace(reply, body=b"%b%c%b" % (body[:place], body[place] ^ 1, body[place + 1 :]))


def _span(wanted: str, size: int) -> tuple[int, int] | None:
    """Turn "bytes=a-b", "bytes=a-" or "bytes=-n" into start and stop; None for all (no or several ranges)."""
    found = _RANGE.fullmatch(wanted.replace(" ", ""))
    if found is None or not any(found.groups()):
        return None
    first, last = found.groups()
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(int(last) + 1, size) if last else size

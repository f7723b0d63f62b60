"""Request bodies, as they come off the wire."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cocktail_hub.testing.blobs import PIECE
from cocktail_hub.testing.body import RequestBody

_CHUNKED = {"transfer-encoding": "chunked"}


def test_a_body_ends_where_its_length_says() -> None:
    wire = io.BytesIO(b"bodyGET /next")
    assert RequestBody(wire, {"content-length": "4"}).read() == b"body"
    assert wire.read() == b"GET /next"


def test_no_length_is_no_body() -> None:
    assert RequestBody(io.BytesIO(b"GET /next"), {}).read() == b""


def test_a_chunked_body_ends_after_its_trailers() -> None:
    wire = io.BytesIO(b"4;note=x\r\nbody\r\n2\r\n!!\r\n0\r\nChecksum: x\r\n\r\nGET /next")
    assert RequestBody(wire, _CHUNKED).read() == b"body!!"
    assert wire.read() == b"GET /next"


def test_a_long_body_comes_in_pieces() -> None:
    body = RequestBody(io.BytesIO(b"x" * (2 * PIECE + 1)), {"content-length": str(2 * PIECE + 1)})
    assert [len(piece) for piece in body.pieces()] == [PIECE, PIECE, 1]


def test_a_client_that_goes_away_is_noticed() -> None:
    with pytest.raises(ConnectionResetError, match="with 6 bytes still to come"):
        RequestBody(io.BytesIO(b"body"), {"content-length": "10"}).read()


@given(st.lists(st.binary(min_size=1, max_size=9), max_size=9))
def test_lines_do_not_depend_on_where_chunks_end(chunks: list[bytes]) -> None:
    wire = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    lines = list(RequestBody(io.BytesIO(wire), _CHUNKED).lines())
    assert lines == b"".join(chunks).removesuffix(b"\n").split(b"\n") or not any(chunks)


def test_draining_leaves_the_next_request() -> None:
    wire = io.BytesIO(b"bodyGET /next")
    RequestBody(wire, {"content-length": "4"}).drain()
    assert wire.read() == b"GET /next"

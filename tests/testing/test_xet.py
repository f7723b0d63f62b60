"""The server side of Xet, on files described by hand. The real client drives it in `client/`."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from cocktail_hub.testing.http_error import HttpError
from cocktail_hub.testing.xet import XetStore

if TYPE_CHECKING:
    from pathlib import Path

_FILE, _XORB, _SHA256 = (word * 4 for word in ("00000000000000f1", "00000000000000a1", "0000000000000051"))


def _name(hexadecimal: str) -> bytes:
    return struct.pack("<4Q", *(int(hexadecimal[index : index + 16], 16) for index in range(0, 64, 16)))


def _xorb(*sizes: int) -> bytes:
    """Chunks that claim to be packed to `sizes` bytes, and the footer."""
    chunks = (struct.pack("<B", 0) + size.to_bytes(3, "little") + bytes(4) + b"x" * size for size in sizes)
    return b"".join(chunks) + b"XETBLOB" + bytes(40)


def _shard(*terms: tuple[int, int, int]) -> bytes:
    """One file, of terms (size, first chunk, last chunk + 1) of one xorb, with verification and sha256."""
    header = _name(_FILE) + struct.pack("<IIQ", 1 << 31 | 1 << 30, len(terms), 0)
    body = b"".join(_name(_XORB) + struct.pack("<4I", 0, *term) for term in terms)
    return bytes(48) + header + body + bytes(48) * len(terms) + _name(_SHA256) + bytes(16) + b"\xff" * 32 + bytes(16)


@pytest.fixture
def store(tmp_path: Path) -> XetStore:
    """A file of three terms of 100 bytes each; the first and the third share chunks."""
    store = XetStore(tmp_path)
    assert store.add_xorb(_XORB, [_xorb(10, 20, 30, 40)])
    store.add_shard(_shard((100, 0, 2), (100, 3, 4), (100, 1, 3)))
    return store


def test_a_file_is_known_by_both_names(store: XetStore, tmp_path: Path) -> None:
    for known in (store, XetStore(tmp_path)):
        file = known.file(_SHA256)
        assert (file.hash, file.size, len(file.terms)) == (_FILE, 300, 3)
        assert known.file("0" * 64) is None


def test_a_xorb_is_kept_once(store: XetStore) -> None:
    assert not store.add_xorb(_XORB, [b"something else"])
    assert store.xorb(_XORB).read_bytes() == _xorb(10, 20, 30, 40)


def test_ranges_of_a_xorb_that_overlap_are_fetched_as_one(store: XetStore) -> None:
    answer = store.reconstruction(_FILE, "http://cdn", 0, None)
    assert answer["offset_into_first_range"] == 0
    assert [term["range"] for term in answer["terms"]] == [
        {"start": 0, "end": 2},
        {"start": 3, "end": 4},
        {"start": 1, "end": 3},
    ]
    packed = (8 + 10) + (8 + 20) + (8 + 30) + (8 + 40)
    assert answer["fetch_info"] == {
        _XORB: [
            {
                "range": {"start": 0, "end": 4},
                "url": f"http://cdn/{_XORB}",
                "url_range": {"start": 0, "end": packed - 1},
            }
        ]
    }


def test_a_range_of_a_file_needs_only_the_terms_that_hold_it(store: XetStore) -> None:
    answer = store.reconstruction(_FILE, "http://cdn", 150, 200)
    assert answer["offset_into_first_range"] == 50
    assert [term["range"] for term in answer["terms"]] == [{"start": 3, "end": 4}]
    first = (8 + 10) + (8 + 20) + (8 + 30)
    assert answer["fetch_info"][_XORB][0]["url_range"] == {"start": first, "end": first + 8 + 40 - 1}
    across = store.reconstruction(_FILE, "http://cdn", 199, 201)
    assert (across["offset_into_first_range"], len(across["terms"])) == (99, 2)


def test_what_is_not_there_is_an_error_of_the_client(store: XetStore, tmp_path: Path) -> None:
    with pytest.raises(HttpError, match="No Xet file"):
        store.reconstruction("0" * 64, "http://cdn", 0, None)
    with pytest.raises(HttpError, match="300 bytes, 300 is behind its end"):
        store.reconstruction(_FILE, "http://cdn", 300, None)
    with pytest.raises(HttpError, match="No xorb"):
        store.xorb("0" * 64)
    with pytest.raises(HttpError, match="which was not uploaded"):
        XetStore(tmp_path / "empty").add_shard(_shard((100, 0, 2)))

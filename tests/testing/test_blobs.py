"""Bodies on disk."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from cocktail_hub.testing.blobs import BlobStore
from cocktail_hub.testing.http_error import HttpError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_ABC = hashlib.sha256(b"abc").hexdigest()


def _files(root: Path) -> list[str]:
    return [path.name for path in root.rglob("*") if path.is_file()]


def test_a_body_is_named_by_its_sha256(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    assert store.add([b"a", b"bc"]) == _ABC
    assert store.path(_ABC).read_bytes() == b"abc"
    assert (store.size(_ABC), store.size("0" * 64)) == (3, None)
    assert _ABC in BlobStore(tmp_path)


def test_a_body_that_is_not_the_announced_one_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(HttpError, match=f"has sha256 {_ABC}, but {'0' * 64} was announced"):
        BlobStore(tmp_path).add([b"abc"], expected="0" * 64)
    assert _files(tmp_path) == []


def test_half_a_body_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield b"a"
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        BlobStore(tmp_path).add(broken())
    assert _files(tmp_path) == []


def test_a_file_made_in_the_store_is_checked_before_it_is_taken_over(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    for body in (b"abd", b"abc"):
        file = store.new_file()
        file.write_bytes(body)
        if body == b"abd":
            with pytest.raises(HttpError, match="announced"):
                store.adopt(file, expected=_ABC)
        else:
            store.adopt(file, expected=_ABC)
    assert _files(tmp_path) == [_ABC]

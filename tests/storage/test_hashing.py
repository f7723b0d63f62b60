"""Two kinds of hash of a file."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest
import xxhash

from cocktail_hub.storage.hashing import HASHES, hash_of, sha256_of

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 21) + 7])
def test_a_file_is_hashed_whatever_its_size(tmp_path: Path, size: int) -> None:
    path, content = tmp_path / "file", bytes(range(251)) * (size // 251 + 1)
    path.write_bytes(content[:size])
    assert hash_of(path) == xxhash.xxh3_128(content[:size]).hexdigest()
    assert sha256_of(path) == hashlib.sha256(content[:size]).hexdigest()


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="md5"):
        hash_of(tmp_path / "file", "md5")
    assert sorted(HASHES) == ["sha256", "xxh128"]

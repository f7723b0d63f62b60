"""Hash files: XXH3 tells whether something changed, sha256 is how the Hub names contents."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import xxhash

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

QUICK = "xxh128"
"""The hash (https://xxhash.com) of what only this machine compares: it is as quick as reading."""
HASHES: dict[str, Callable[[], Any]] = {QUICK: xxhash.xxh3_128, "sha256": hashlib.sha256}
"""Kind -> a new hash, as hashlib has it. sha256 takes ten times the time of the other."""
_CHUNK = 1 << 20


def hash_of(path: Path, kind: str = QUICK) -> str:
    """Hash of a file's content, as hex; `kind` is a key of `HASHES`. Raises OSError."""
    hasher, chunk = HASHES[kind](), memoryview(bytearray(_CHUNK))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(chunk):
            hasher.update(chunk[:count])
    digest: str = hasher.hexdigest()
    return digest


def sha256_of(path: Path) -> str:
    """Sha256 of a file's content, as hex. Raises OSError."""
    return hash_of(path, "sha256")

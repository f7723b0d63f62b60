"""Digest of a local folder: over the names and contents of files, each read once as long as it does not change."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

from cocktail_hub.errors import SourceError
from cocktail_hub.storage.cache import Cache
from cocktail_hub.storage.disk import HASHES, QUICK, hash_of, write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from cocktail_hub.checkpoint.files import LocalFiles

WORTH_NOTING = 1 << 20
"""Digests of files from this size, in bytes, are kept; smaller ones are hashed each time."""
NOTE_AGE = 90 * 86_400.0
"""Seconds that a digest is kept at least, used or not: making it again costs one reading."""
SETTLED_AGE = 2.0
"""Seconds since its last change after which a file's time tells it from the next change."""
TIMES_TELL = os.name != "nt"
"""Whether a file has a time of change that no program can set back. On Windows it is the time of creation; there every
file is read each time."""


def digest_of(files: LocalFiles, names: Iterable[str], kind: str = QUICK) -> str:
    """`<kind>:<hex digits>` over the names and contents of some files of a folder.

    Args:
        files: the folder.
        names: posix paths inside it.
        kind: a key of `HASHES`; sha256 stands in early recipes.

    Raises:
        SourceError: one of them is not there, cannot be read, or is a link that leaves the folder.
    """
    ordered = sorted(names)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        hashes = list(pool.map(lambda name: _file_digest(files, name, kind), ordered))
    listing = HASHES[kind]()
    listing.update(json.dumps(list(zip(ordered, hashes, strict=True)), separators=(",", ":")).encode())
    return f"{kind}:{listing.hexdigest()}"


def _file_digest(files: LocalFiles, name: str, kind: str) -> str:
    path = files.path(name)
    try:
        return _known_digest(path, kind)
    except OSError as error:
        raise SourceError(
            f"Cannot read '{name}' of '{files.name}': {error.strerror or error}.\n"
            "A local folder is named by a digest of its files, so all of them have to be read.\n"
            "Check the file's rights and its disk."
        ) from error


def _known_digest(path: Path, kind: str) -> str:
    """The digest of a file, from its note or from its content."""
    began, before = time.time(), path.stat()
    if before.st_size < WORTH_NOTING or not TIMES_TELL:
        return hash_of(path, kind)
    note = _note(path, before, kind)
    if known := _read(note, kind):
        return known
    digest = hash_of(path, kind)
    settled = began - max(before.st_mtime, before.st_ctime) > SETTLED_AGE
    if settled and _note(path, path.stat(), kind) == note:
        with suppress(OSError):  # a note that cannot be kept costs time, nothing else
            write_atomically(note, digest, sync=False)
    return digest


def _note(path: Path, status: os.stat_result, kind: str) -> Path:
    """Where the digest of a file in this state is kept.

    Whatever changes the content changes one of the times, but for a program that goes on writing through a memory map.
    """
    state = (kind, str(path.resolve()), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    return Cache().root / "digests" / hashlib.sha256(repr(state).encode(errors="surrogateescape")).hexdigest()


def _read(note: Path, kind: str) -> str | None:
    try:
        known = note.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return None
    digits = len(HASHES[kind]().hexdigest())
    return known if re.fullmatch(f"[0-9a-f]{{{digits}}}", known) else None  # a crash can leave zeros


def prune_notes(older_than: float = NOTE_AGE) -> int:
    """Forget the digests of files that were noted more than `older_than` seconds ago; return how many."""
    gone = 0
    with suppress(OSError):  # there are none, or others see to them at this moment
        for note in (Cache().root / "digests").iterdir():
            if time.time() - note.stat().st_mtime > older_than:
                note.unlink(missing_ok=True)
                gone += 1
    return gone

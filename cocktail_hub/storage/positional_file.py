"""Reads and writes at an offset that many threads may do at once, on every system."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from typing import TYPE_CHECKING

from cocktail_hub.storage.closing import Closing
from cocktail_hub.storage.open_files import keep_spare

if TYPE_CHECKING:
    from pathlib import Path


HAS_POSITIONAL_IO = hasattr(os, "preadv") and hasattr(os, "pwrite")
"""Whether the system reads and writes at an offset in one call. Windows does not: there a lock guards a seek."""

AHEAD_BYTES = 16 << 20
"""How far ahead of a reader the system is asked to read. Several files are read in turn, a little of each, which the
system's own guesses do not foresee: from a disk, without asking, a merge took twice as long."""

_BINARY = getattr(os, "O_BINARY", 0)
_CLOSE_ON_EXEC = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOINHERIT", 0)


class PositionalFile(Closing):
    """An open file without a position: each call says where it reads or writes."""

    __slots__ = ("_asked", "_at_once", "_lock", "fd", "path")

    def __init__(self, path: Path, *, write: bool = False, create: bool = True) -> None:
        """Open a file to read, or one to `write` and read: a new one, or with `create=False` what is there."""
        flags = (os.O_RDWR | (os.O_CREAT | os.O_TRUNC if create else 0)) if write else os.O_RDONLY
        self.fd = -1
        self.path = path
        """Where the file lies."""
        self.fd = _opened(path, flags | _BINARY | _CLOSE_ON_EXEC)
        """Descriptor; -1 once closed."""
        self._at_once = HAS_POSITIONAL_IO
        self._lock = threading.Lock()
        self._asked = 0  # up to where the system was asked to read ahead

    def read_into(self, out: memoryview, offset: int) -> int:
        """Fill `out` (bytes) from `offset`; return how many bytes there were, fewer only at the end of the file."""
        done = 0
        while done < len(out):
            count = self._read_some(out[done:] if done else out, offset + done)
            if count == 0:
                break
            done += count
        return done

    def ask_ahead(self, offset: int) -> None:
        """Tell the system that what follows `offset` will be read soon, where it can be told."""
        left = self._asked - offset
        if AHEAD_BYTES // 2 <= left <= 2 * AHEAD_BYTES or not hasattr(os, "posix_fadvise"):
            return
        start = self._asked if 0 <= left < AHEAD_BYTES // 2 else offset
        self._asked = start + AHEAD_BYTES
        with contextlib.suppress(OSError):  # advice: a file system may have no use for it
            os.posix_fadvise(self.fd, start, AHEAD_BYTES, os.POSIX_FADV_WILLNEED)

    def write_from(self, data: memoryview | bytes, offset: int) -> None:
        """Write all of `data` at `offset`. Raises OSError, such as ENOSPC."""
        view = memoryview(data)
        done = 0
        while done < len(view):
            done += self._write_some(view[done:] if done else view, offset + done)

    def _read_some(self, out: memoryview, offset: int) -> int:
        if self._at_once:
            return os.preadv(self.fd, [out], offset)
        with self._lock:
            os.lseek(self.fd, offset, os.SEEK_SET)
            data = os.read(self.fd, len(out))
        out[: len(data)] = data
        return len(data)

    def _write_some(self, data: memoryview, offset: int) -> int:
        if self._at_once:
            return os.pwrite(self.fd, data, offset)
        with self._lock:
            os.lseek(self.fd, offset, os.SEEK_SET)
            return os.write(self.fd, data)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __del__(self) -> None:
        self.close()  # of a model that was opened before another one could not be


def _opened(path: Path, flags: int) -> int:
    """Open a file, and see to it that more can be opened after it."""
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        keep_spare(0)
        descriptor = os.open(path, flags, 0o666)
    keep_spare(descriptor)
    return descriptor

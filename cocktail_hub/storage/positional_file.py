"""Files that many threads read and write at offsets, and the limit on how many of them may be open."""

from __future__ import annotations

import errno
import os
import threading
from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

HAS_POSITIONAL_IO = hasattr(os, "preadv") and hasattr(os, "pwrite")
"""Whether the system reads and writes at an offset in one call. Windows does not: a lock guards seek and read there."""
AHEAD_BYTES = 16 << 20
"""Read-ahead, in bytes. A merge reads a little of each of several files in turn, a pattern that the system does not
recognise as sequential: without these hints, a merge from a disk took twice as long."""
SPARE = 128
"""Descriptors kept free for files that are opened for a moment."""
_FLAGS = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOINHERIT", 0)


class PositionalFile(AbstractContextManager["PositionalFile"]):
    """An open file without a current position: every read and write names its offset. Safe for many threads."""

    def __init__(self, path: Path, *, write: bool = False, create: bool = True) -> None:
        """Open a file for reading, or with `write` for both: an empty one, or with `create=False` the existing one."""
        flags = (os.O_RDWR | (os.O_CREAT | os.O_TRUNC if create else 0)) if write else os.O_RDONLY
        self.fd = -1
        """Descriptor; -1 when closed."""
        self.path = path
        try:
            self.fd = os.open(path, flags | _FLAGS, 0o666)
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
            keep_spare(0)
            self.fd = os.open(path, flags | _FLAGS, 0o666)
        keep_spare(self.fd)
        self._lock = threading.Lock()
        self._hinted = 0  # end of the range that the system was asked to read ahead

    def read_into(self, out: memoryview, offset: int) -> int:
        """Fill `out` (bytes) from `offset`. Returns the bytes read, fewer than `out` holds only at the end of file."""
        done = 0
        while done < len(out):
            count = self._read_some(out[done:] if done else out, offset + done)
            if count == 0:
                break
            done += count
        return done

    def ask_ahead(self, offset: int) -> None:
        """Hint to the system, where it takes hints, that the bytes after `offset` will be read soon."""
        left = self._hinted - offset
        if AHEAD_BYTES // 2 <= left <= 2 * AHEAD_BYTES or not hasattr(os, "posix_fadvise"):
            return
        start = self._hinted if 0 <= left < AHEAD_BYTES // 2 else offset
        self._hinted = start + AHEAD_BYTES
        with suppress(OSError):  # some file systems take no hints
            os.posix_fadvise(self.fd, start, AHEAD_BYTES, os.POSIX_FADV_WILLNEED)

    def write_from(self, data: memoryview | bytes, offset: int) -> None:
        """Write all of `data` at `offset`. Raises OSError, such as ENOSPC."""
        view = memoryview(data)
        done = 0
        while done < len(view):
            done += self._write_some(view[done:] if done else view, offset + done)

    def _read_some(self, out: memoryview, offset: int) -> int:
        if HAS_POSITIONAL_IO:
            return os.preadv(self.fd, [out], offset)
        with self._lock:
            os.lseek(self.fd, offset, os.SEEK_SET)
            data = os.read(self.fd, len(out))
        out[: len(data)] = data
        return len(data)

    def _write_some(self, data: memoryview, offset: int) -> int:
        if HAS_POSITIONAL_IO:
            return os.pwrite(self.fd, data, offset)
        with self._lock:
            os.lseek(self.fd, offset, os.SEEK_SET)
            return os.write(self.fd, data)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()  # a merge that fails to open its third model never closes the first two


def keep_spare(number: int) -> None:
    """Raise this process's limit on open files when fewer than `SPARE` descriptors are left.

    Systems give a new file the lowest free number, so a number near the limit means that few are left.

    Args:
        number: descriptor of the file that was just opened; 0 if it could not be opened.
    """
    try:
        import resource
    except ImportError:  # Windows allows thousands of open files
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or 0 < number < soft - SPARE:
        return
    wanted = max(2 * soft, number + 2 * SPARE)
    new = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if new > soft:
        with suppress(OSError, ValueError):  # macOS has another, undocumented limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (new, hard))


def too_many_files(error: BaseException, what: str) -> str | None:
    """The message for "too many open files", beginning with `what` failed; `None` for every other error."""
    if not isinstance(error, OSError) or error.errno != errno.EMFILE:
        return None
    return (
        f"{what}: this process has reached the limit on open files.\n"
        "A mix keeps the weight files of all its models open at the same time.\n"
        "Raise the limit (`ulimit -n 8192`, or ask the system's administrator), then run the same command again: "
        "finished shards are kept."
    )

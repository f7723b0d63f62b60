"""Make sure that files and their names survive a power cut, as far as the system says when a disk has them."""

from __future__ import annotations

import errno
import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_SYNC_DATA: Callable[[int], None] | None = getattr(os, "fdatasync", None)
"""Brings a file to disk without its times, which change with every write; not every system has that."""
_NOT_FOR_FOLDERS = frozenset({errno.EINVAL, errno.ENOTSUP, errno.ENOSYS})


def sync_file(path: Path) -> None:
    """Make sure that a file survives a power cut."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Make sure that the names in a folder survive a power cut, where the system has a way to say so."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some shared and mounted folders know files only
        if error.errno not in _NOT_FOR_FOLDERS:
            raise
    finally:
        os.close(descriptor)


def sync_names(folder: Path) -> None:
    """The same for the names in a folder and in all that it holds."""
    for inner in (path for path in folder.rglob("*") if path.is_dir()):
        sync_folder(inner)
    sync_folder(folder)


def sync_tree(folder: Path) -> None:
    """The same for a folder with all that it holds."""
    for path in (path for path in folder.rglob("*") if path.is_file()):
        sync_file(path)
    sync_names(folder)


class BackgroundSync:
    """Brings a file to disk while it is still written, so that little is left to wait for at the end.

    Advice and `sync_file_range` would not do: disks keep what they are given until somebody waits for it. All this is
    to save time: what fails to begin is left to the last sync.
    """

    def __init__(self, fd: int) -> None:
        """`fd`: of the file, open until `close`."""
        self._fd = fd
        self._changed = threading.Condition()
        self._asked = self._closed = False
        self._failure: OSError | None = None
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Bring what is written by now to disk; if a sync is running, once that has ended. Does not wait."""
        if _SYNC_DATA is None:
            return
        with self._changed:
            self._asked = True
            self._changed.notify()
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="early sync", daemon=True)
            with suppress(RuntimeError):  # the system starts no more threads
                thread.start()
                self._thread = thread

    def close(self) -> OSError | None:
        """End, after the sync that is running. What failed is told now: the system says so once, never again."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
        return self._failure

    def _run(self) -> None:
        assert _SYNC_DATA is not None  # noqa: S101 - for the type checker
        try:
            while self._next():
                _SYNC_DATA(self._fd)
        except OSError as error:
            self._failure = error

    def _next(self) -> bool:
        """Wait until there is something to do; tell whether there is, before the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._asked or self._closed)
            self._asked = False
            return not self._closed

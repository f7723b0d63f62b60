"""Make sure that files and their names survive a power cut, as far as the system says when a disk has them."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

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

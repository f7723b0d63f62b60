"""Is there room on the disk? Asked before the first byte is downloaded; and what the system says if there is none."""

from __future__ import annotations

import errno
import os
import shutil
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from cocktail_hub.errors import DiskSpaceError

if TYPE_CHECKING:
    from collections.abc import Iterable

FULL = frozenset({errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)})
"""Numbers of the errors by which a system says that a disk, a quota or a file is full."""
FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
"""Numbers of those by which it says that one may not write."""


def require_free_space(needs: Iterable[tuple[Path, int, str]]) -> None:
    """Refuse to start what cannot be finished. Needs on the same disk are added up.

    Args:
        needs: folder that will be written to, bytes, and what they are for; a folder need not exist yet.

    Raises:
        DiskSpaceError: a disk has less room than is needed; says how much is missing and for what.
    """
    by_disk: dict[int, list[tuple[Path, int, str]]] = defaultdict(list)
    for folder, nbytes, purpose in needs:
        place = _existing(folder)
        by_disk[place.stat().st_dev].append((place, nbytes, purpose))
    for wanted in by_disk.values():
        place, total = wanted[0][0], sum(nbytes for _, nbytes, _ in wanted)
        free = shutil.disk_usage(place).free
        if total > free:
            listing = " and ".join(f"{nbytes:,} bytes for {purpose}" for _, nbytes, purpose in wanted if nbytes)
            raise DiskSpaceError(
                f"The disk of '{place}' has {free:,} bytes free, but the mix needs {total:,}: {listing}.\n"
                "It would fail on the way, so it was not started.\n"
                "Free some space, or set HF_HOME, COCKTAIL_HUB_CACHE or the output folder to a larger disk."
            )


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder; 0 if it is not there. An unfinished file counts as far as it is on the disk."""
    return sum(_size(Path(place, name)) for place, _, names in os.walk(folder) for name in names)


def _size(path: Path) -> int:
    try:
        status = path.stat()
    except FileNotFoundError:  # going away at this moment
        return 0
    written = 512 * getattr(status, "st_blocks", status.st_size)
    return min(status.st_size, written) if path.suffix == ".incomplete" else status.st_size


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    absolute = folder.absolute()
    return next(place for place in (absolute, *absolute.parents) if place.exists())

"""Errors of the disk while a mix is written, translated in one place: what is wrong, why it matters, how to fix it."""

from __future__ import annotations

import errno
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cocktail_hub.errors import CocktailError, DiskSpaceError, MergeError
from cocktail_hub.storage.disk import FULL
from cocktail_hub.storage.positional_file import too_many_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@contextmanager
def disk_errors(folder: Path, needed: int | Callable[[], int] = 0) -> Iterator[None]:
    """Translate an OSError that is raised while files are written below `folder`.

    `needed`: bytes of weights still to be written, or a function that counts them once the disk is full.

    Raises:
        DiskSpaceError: the disk or a quota is full.
        MergeError: the folder cannot be written for another reason.
    """
    try:
        yield
    except CocktailError:  # some are OSErrors, and are translated already
        raise
    except OSError as error:
        raise _translated(error, folder, needed if isinstance(needed, int) else needed()) from error


def _translated(error: OSError, folder: Path, needed: int) -> MergeError:
    if error.errno == errno.EFBIG:
        return MergeError(
            f"'{folder}' takes no file that large: {error}.\n"
            "Its file system, or a limit of this shell (`ulimit -f`), allows smaller files only.\n"
            "Cut the mix into smaller files (`--max-shard-size 2GB`, `MixOptions(max_shard_size='2GB')`), or write to "
            "another disk."
        )
    if error.errno in FULL:
        wanted = f"the mix needs {needed:,} more" if needed else "the small files beside the weights need some more"
        return DiskSpaceError(
            f"The disk of '{folder}' has {shutil.disk_usage(folder).free:,} bytes free, but {wanted}.\n"
            "A mix is written next to its ingredients, which stay as they are.\n"
            "Free some space or write to another disk, then run the same command again: finished shards are kept."
        )
    return MergeError(
        too_many_files(error, f"'{folder}' cannot be written to")
        or f"Writing to '{folder}' failed: {error}.\n"
        "The mix cannot be finished; its finished shards are kept.\n"
        "Check the folder and its disk, then run the same command again."
    )

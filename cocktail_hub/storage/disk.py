"""Files on disk: free space, hashes, atomic writes, and syncs that make files survive a power cut."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
from collections import defaultdict
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from cocktail_hub.errors import CocktailError, DiskSpaceError, MergeError, SourceError
from cocktail_hub.storage.positional_file import too_many_files

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

FULL = frozenset({errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)})
"""errno values for a full disk, an exhausted quota and a file that is too large for its disk."""
FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
"""errno values for missing write permission."""
LARGEST_SMALL_FILE = 1 << 27
"""Of files that are read into memory, in bytes. The largest vocabularies have a third of it."""
LARGEST_SETTINGS = 1 << 24
"""Of configs and other JSON that is parsed, in bytes."""
QUICK = "xxh128"
"""XXH3-128 (https://xxhash.com), for what only this machine compares: it is as fast as reading the file."""
HASHES: dict[str, Callable[[], Any]] = {QUICK: xxhash.xxh3_128, "sha256": hashlib.sha256}
"""Name -> constructor, as in hashlib. sha256, by which the Hub names contents, takes ten times as long."""

_SYNC_DATA: Callable[[int], None] | None = getattr(os, "fdatasync", None)
"""Syncs a file's content without its timestamps, which change with every write. Not every system has it."""
_NO_FOLDER_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.ENOSYS})


def require_free_space(needs: Iterable[tuple[Path, int, str]]) -> None:
    """Raise DiskSpaceError unless the disks can hold `needs`. Needs on the same disk are added up.

    Args:
        needs: folder to write to (it need not exist yet), bytes, and what they are for.
    """
    by_disk: dict[int, list[tuple[Path, int, str]]] = defaultdict(list)
    for folder, nbytes, purpose in needs:
        absolute = folder.absolute()
        existing = next(path for path in (absolute, *absolute.parents) if path.exists())
        by_disk[existing.stat().st_dev].append((existing, nbytes, purpose))
    for wanted in by_disk.values():
        total, free = sum(nbytes for _, nbytes, _ in wanted), shutil.disk_usage(wanted[0][0]).free
        if total > free:
            listing = " and ".join(f"{nbytes:,} bytes for {purpose}" for _, nbytes, purpose in wanted if nbytes)
            raise DiskSpaceError(
                f"The disk of '{wanted[0][0]}' has {free:,} bytes free, but the mix needs {total:,}: {listing}.\n"
                "The mix would run out of space, so it was not started.\n"
                "Free some space, or set HF_HOME, COCKTAIL_HUB_CACHE or the output folder to a larger disk."
            )


def size_of(folder: Path) -> int:
    """Total bytes of the files below a folder; 0 if it does not exist.

    An `.incomplete` file may be sparse and counts only the blocks that are allocated.
    """
    total = 0
    for parent, _, names in os.walk(folder):
        for path in (Path(parent, name) for name in names):
            with suppress(FileNotFoundError):  # removed by another process since it was listed
                status = path.stat()
                allocated = 512 * getattr(status, "st_blocks", status.st_size)
                total += min(status.st_size, allocated) if path.suffix == ".incomplete" else status.st_size
    return total


def hash_of(path: Path, kind: str = QUICK) -> str:
    """Hash of a file's content, as hex; `kind` is a key of `HASHES`. Raises OSError."""
    hasher, chunk = HASHES[kind](), memoryview(bytearray(1 << 20))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(chunk):
            hasher.update(chunk[:count])
    digest: str = hasher.hexdigest()
    return digest


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, as hex. Raises OSError."""
    return hash_of(path, "sha256")


def write_atomically(path: Path, data: str | bytes, *, sync: bool) -> None:
    """Write a file in one step: readers see the old content or the new content, never a part of it. Raises OSError.

    Args:
        path: the file; missing folders are created.
        data: its content; text is written as UTF-8.
        sync: wait until the file is on disk, so that it also survives a power cut.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if sync:
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Sync the names in a folder (created, renamed, removed files) to disk, where the system can do that."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:  # network file systems often sync files only
            raise
    finally:
        os.close(descriptor)


def sync_tree(folder: Path, *, synced: Collection[str] = ()) -> None:
    """Sync a folder and everything below it to disk, except the files at `synced`, posix paths inside it."""
    for path in folder.rglob("*"):
        if path.is_dir():
            sync_folder(path)
        elif path.relative_to(folder).as_posix() not in synced:
            with path.open("rb+") as file:
                os.fsync(file.fileno())
    sync_folder(folder)


class BackgroundSync:
    """Syncs a file while it is still being written, so that the final sync has little left to wait for.

    `sync_file_range` and other advice would not help: disks keep data in their own cache until somebody waits for it.
    This only saves time: a sync that cannot start is left to the final one.
    """

    def __init__(self, fd: int) -> None:
        """`fd` must stay open until `close` returns."""
        self._fd = fd
        self._pool = ThreadPoolExecutor(1, "background sync")
        self._syncs: list[Future[None]] = []

    def begin(self) -> None:
        """Start to sync what has been written so far, after the sync that is running, if any. Returns at once."""
        queued = bool(self._syncs) and not (self._syncs[-1].running() or self._syncs[-1].done())
        if _SYNC_DATA is not None and not queued:
            with suppress(RuntimeError):  # the system cannot start another thread
                self._syncs.append(self._pool.submit(_SYNC_DATA, self._fd))

    def close(self) -> OSError | None:
        """Wait for the running sync. Returns the first failure, which the system reports once: later syncs succeed."""
        self._pool.shutdown(cancel_futures=True)
        failures = (sync.exception() for sync in self._syncs if not sync.cancelled())
        return next((failure for failure in failures if isinstance(failure, OSError)), None)


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


def require_small(path: str, model: str, size: int, most: int = LARGEST_SMALL_FILE) -> None:
    """Raise SourceError if a file, of `size` bytes, is too large to be read into memory."""
    if size > most:
        raise SourceError(
            f"'{path}' of '{model}' has {size:,} bytes.\n"
            f"Such a file is read into memory, and no real one has more than {most:,} bytes.\n"
            "Look whether something else was saved under this name, and replace or remove it."
        )

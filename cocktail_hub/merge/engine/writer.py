"""Write one shard: beside its final name, hashed on the way, synced to disk, then renamed."""

from __future__ import annotations

import os
import shutil
import threading
from typing import TYPE_CHECKING

from cocktail_hub.storage.disk import HASHES, QUICK, BackgroundSync, sync_folder
from cocktail_hub.storage.positional_file import PositionalFile

if TYPE_CHECKING:
    from pathlib import Path

SUFFIX = ".incomplete"
"""Added to the final name until the file is complete and on disk."""
HASH_BYTES = 1 << 20
"""Bytes hashed at a time, read back soon after they were written, from memory."""
NOTIFY_BYTES = 4 << 20
"""Bytes written after which the hasher is woken: it takes the interpreter's lock from those who write."""
SYNC_BYTES = 32 << 20
"""Bytes after which the disk is set to work."""


class ShardWriter:
    """One output file. Threads write it in any order; a thread of its own hashes what is complete from the start.

    Call `seal` and `publish` for a file under its final name, or `abort` for none.
    """

    def __init__(self, path: Path, header: bytes, nbytes: int, kind: str = QUICK) -> None:
        """Create the file beside `path`, `nbytes` long with its header; `kind` of hash. Raises OSError."""
        self._path = path
        self.part = path.with_name(path.name + SUFFIX)
        """Where the file lies until it is published."""
        self._nbytes = nbytes
        self._file = PositionalFile(self.part, write=True)
        self._early = BackgroundSync(self._file.fd)
        self._written: dict[int, int] = {}  # start -> stop of stretches that the hash has not reached
        self._changed = threading.Condition()
        self._left, self._unseen = nbytes, 0  # bytes not written; written since the hasher was last told
        self._stopped = False
        self._hash = HASHES[kind]()
        self._failure: OSError | None = None
        self._hasher = threading.Thread(target=self._follow, name=f"hash {path.name}", daemon=True)
        self._hasher.start()
        try:
            os.truncate(self.part, nbytes)
            self.write(0, header)
        except BaseException:
            self.abort()
            raise

    def write(self, offset: int, data: memoryview | bytes) -> None:
        """Write a stretch. Many threads may; stretches do not overlap. Raises OSError, such as ENOSPC."""
        self._file.write_from(data, offset)
        self.note(offset, len(data))

    def note(self, offset: int, count: int) -> None:
        """Take note of a stretch that was written to `part` by another process."""
        if count:
            with self._changed:
                self._written[offset] = offset + count
                self._left -= count
                self._unseen += count
                if self._unseen >= NOTIFY_BYTES or not self._left:
                    self._unseen = 0
                    self._changed.notify()

    def seal(self) -> str:
        """Wait until all is written and hashed, sync the file to disk, and return its hash in hex. Raises OSError."""
        self._hasher.join()
        if failure := self._early.close() or self._failure:
            raise failure
        os.fsync(self._file.fd)
        self._file.close()
        digest: str = self._hash.hexdigest()
        return digest

    def publish(self) -> None:
        """Give the sealed file its final name. Raises OSError."""
        self.part.replace(self._path)
        sync_folder(self._path.parent)

    def abort(self) -> None:
        """Stop and remove what was written."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._hasher.join()
        self._early.close()
        self._file.close()
        self.part.unlink(missing_ok=True)

    def _follow(self) -> None:
        """Hash the file from its start, as far as it is written without a gap."""
        view = memoryview(bytearray(HASH_BYTES))
        done = synced = 0
        try:
            while done < self._nbytes:
                reached = self._wait_beyond(done)
                if reached is None:
                    return
                while done < reached and not self._stopped:
                    count = self._file.read_into(view[: min(HASH_BYTES, reached - done)], done)
                    if count == 0:
                        self._failure = OSError(f"'{self.part}' was cut short while it was written")
                        return
                    self._hash.update(view[:count])
                    done += count
                    if done - synced >= SYNC_BYTES:
                        self._early.begin()
                        synced = done
        except OSError as error:
            self._failure = error

    def _wait_beyond(self, done: int) -> int | None:
        """Return up to where the file is written without a gap, beyond `done`; `None` when there will be no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or done in self._written)
            if self._stopped:
                return None
            while done in self._written:
                done = self._written.pop(done)
            return done


def free_bytes(folder: Path) -> int:
    """Return the bytes that may still be written to the disk of a folder."""
    return shutil.disk_usage(folder).free

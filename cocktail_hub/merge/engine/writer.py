"""Write one shard: beside its final name, hashed on the way, synced to disk, then renamed."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from cocktail_hub.merge.engine.journal import incomplete
from cocktail_hub.storage.disk import HASHES, QUICK, BackgroundSync, sync_folder
from cocktail_hub.storage.positional_file import PositionalFile

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HASH_BYTES = 1 << 20
"""Bytes hashed at a time, read back from memory soon after they were written."""
NOTIFY_BYTES = 4 << 20
"""Bytes written after which the hasher is woken: it takes the interpreter's lock from those who write."""
SYNC_BYTES = 32 << 20
"""Bytes after which a sync in the background begins."""


class ShardWriter:
    """One output file. Threads write it in any order; a thread of its own hashes what is complete from the start.

    Call `seal` and `publish` for a file under its final name, or `abort` for none.
    """

    def __init__(
        self,
        path: Path,
        header: bytes,
        nbytes: int,
        kind: str = QUICK,
        on_write: Callable[[int], object] | None = None,
    ) -> None:
        """Create the file beside its final `path`.

        Args:
            path: final name.
            header: first bytes, written at once.
            nbytes: size of the file, header included.
            kind: of hash, a key of `HASHES`.
            on_write: called with the bytes of every write, by the thread that writes.

        Raises:
            OSError: the file cannot be created or written.
        """
        self._final = path
        self.path = incomplete(path)
        """Where the file is until it is published."""
        self._nbytes = nbytes
        self._on_write = on_write
        self._file = PositionalFile(self.path, write=True)
        self._early = BackgroundSync(self._file.fd)
        self._written: dict[int, int] = {}  # start -> stop of byte ranges that are not hashed
        self._changed = threading.Condition()
        self._left, self._unseen = nbytes, 0  # bytes not written; written since the hasher was woken
        self._stopped = False
        self._hash = HASHES[kind]()
        self._failure: OSError | None = None
        self._hasher = threading.Thread(target=self._follow, name=f"hash {path.name}", daemon=True)
        self._hasher.start()
        try:
            os.truncate(self.path, nbytes)
            self.write(0, header)
        except BaseException:
            self.abort()
            raise

    def write(self, offset: int, data: memoryview | bytes) -> None:
        """Write a byte range. Many threads may; ranges do not overlap. Raises OSError, such as ENOSPC."""
        self._file.write_from(data, offset)
        self.note(offset, len(data))

    def note(self, offset: int, count: int) -> None:
        """Note a byte range that was written to `path`, here or by another process."""
        if count:
            with self._changed:
                self._written[offset] = offset + count
                self._left -= count
                self._unseen += count
                if self._unseen >= NOTIFY_BYTES or not self._left:
                    self._unseen = 0
                    self._changed.notify()
            if self._on_write is not None:
                self._on_write(count)

    def seal(self) -> str:
        """Wait until all is written and hashed, sync the file to disk, and return its hash in hex. Raises OSError."""
        self._hasher.join()
        if failure := self._early.close() or self._failure:
            raise failure
        os.fsync(self._file.fd)
        self._file.close()
        return str(self._hash.hexdigest())

    def publish(self) -> None:
        """Give the sealed file its final name. Raises OSError."""
        self.path.replace(self._final)
        sync_folder(self._final.parent)

    def abort(self) -> None:
        """Stop and remove what was written."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._hasher.join()
        self._early.close()
        self._file.close()
        self.path.unlink(missing_ok=True)

    def _follow(self) -> None:
        """Hash the file from its start, as far as it is written without a gap."""
        view = memoryview(bytearray(HASH_BYTES))
        done = synced = 0
        try:
            while done < self._nbytes:
                reached = self._wait_beyond(done)
                while done < reached and not self._stopped:
                    count = self._file.read_into(view[: min(HASH_BYTES, reached - done)], done)
                    if count == 0:
                        self._failure = OSError(f"'{self.path}' was cut short while it was written")
                        return
                    self._hash.update(view[:count])
                    done += count
                    if done - synced >= SYNC_BYTES:
                        self._early.begin()
                        synced = done
                if self._stopped:
                    return
        except OSError as error:
            self._failure = error

    def _wait_beyond(self, done: int) -> int:
        """Return up to where the file is written without a gap, once that is beyond `done` or the writer is stopped."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or done in self._written)
            while done in self._written:
                done = self._written.pop(done)
            return done

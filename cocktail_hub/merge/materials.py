"""What a mix is made of: files from the Hub, whose bytes are compared with the hash that the Hub states of them."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cocktail_hub.checkpoint.files import FileState
from cocktail_hub.compat.check import places
from cocktail_hub.hub.client import HubFiles
from cocktail_hub.resolve.resolve import file_digest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from concurrent.futures import Future

    from cocktail_hub.compat.check import Model
    from cocktail_hub.hub.ranges import ByteRange
    from cocktail_hub.storage.positional_file import PositionalFile

READERS = 2
"""Files read at a time: more are no faster on most disks, and a merge needs the processors, too."""
LARGEST_GAP = 1 << 26
"""Bytes between two parts of a file that are fetched for its hash alone: what no mix needs, and its header."""
BLOCK = 1 << 20
"""Bytes hashed at a time."""


class MaterialsCheck:
    """Compares the files of models on the Hub: whole ones in threads beside the merge, unless that was done before.

    Of a file that is fetched in parts, the bytes are hashed as they come, as long as they come in order and once.
    """

    def __init__(
        self, models: Sequence[Model], recorded: Mapping[str, Mapping[str, str | None]], *, anew: bool = False
    ) -> None:
        """Begin with the files that are on this machine.

        Args:
            models: whose files.
            recorded: what the recipe says of the files, as `wait` returns it.
            anew: read also what was compared before.
        """
        needed = {place.files: place.model_files.needed for place in places(models)}
        wanted = [(files, sorted(paths)) for files, paths in needed.items() if isinstance(files, HubFiles)]
        self._recorded, self._anew = recorded, anew
        self._pool = ThreadPoolExecutor(READERS, "check")
        self._checks = {(files, path): self._begin(files, path) for files, paths in wanted for path in paths}
        self._parts: dict[tuple[HubFiles, str], Hashed] = {}

    def _begin(self, files: HubFiles, path: str) -> Future[str] | None:
        recorded = self._recorded.get(f"{files.name}@{files.commit}", {}).get(path) or ""
        if files.cached(path) is None:
            return None
        return self._pool.submit(check_file, files, path, recorded, self._anew)

    @property
    def state(self) -> str:
        """What changes when one of the files is replaced."""
        local = (files.cached(path) for files, path in self._checks)
        found = [str(FileState.at(path)) for path in local if path]
        return hashlib.sha256("".join(found).encode()).hexdigest()

    def pass_on(self, parts: Sequence[ByteRange], target: PositionalFile) -> None:
        """Hash parts of files that were fetched into a local one. Those of a file come in its order."""
        view = memoryview(bytearray(BLOCK))
        for part in parts:
            hashed = self._parts.setdefault((part.files, part.path), Hashed())
            hashed.in_order &= 0 <= part.start - hashed.stop <= LARGEST_GAP
            if hashed.in_order:
                hashed.add(part.files.read_range(part.path, hashed.stop, part.start))
            while hashed.in_order and hashed.stop < part.stop:
                block = view[: part.stop - hashed.stop]
                target.read_into(block, part.offset + hashed.stop - part.start)
                hashed.add(block)

    def wait(self) -> dict[str, dict[str, str | None]]:
        """Return `org/name@commit` -> file -> its sha256; `None` where not all of it was read, in order.

        Raises:
            SourceError: a file is not what the Hub states.
        """
        found: dict[str, dict[str, str | None]] = {}
        for (files, path), begun in self._checks.items():
            listed = found.setdefault(f"{files.name}@{files.commit}", {})
            listed[path] = None
            if check := begun or self._begin(files, path):
                listed[path] = check.result()
            elif (hashed := self._parts.get((files, path))) and hashed.in_order:
                gap = files.sizes[path] - hashed.stop
                if gap <= LARGEST_GAP:
                    hashed.add(files.read_range(path, hashed.stop, files.sizes[path]))
                    listed[path] = sha256 = hashed.sha256.hexdigest()
                    files.require_stated(path, sha256)
        return found

    def close(self) -> None:
        """Begin no further file."""
        self._pool.shutdown(wait=False, cancel_futures=True)


@dataclass
class Hashed:
    """The beginning of a file, hashed."""

    sha256: Any = field(default_factory=hashlib.sha256)
    """The hash of `stop` bytes."""
    stop: int = 0
    """Bytes that were hashed."""
    in_order: bool = True
    """Whether all parts came in order so far."""

    def add(self, data: memoryview | bytes) -> None:
        """Hash the next bytes."""
        self.sha256.update(data)
        self.stop += len(data)


def check_file(files: HubFiles, path: str, recorded: str, anew: bool) -> str:
    """Return the sha256 of a file, `recorded` if given. Raises SourceError if it is not what the Hub states."""
    sha256 = file_digest(files.path(path), "sha256", anew=anew, blob=True)
    files.require_stated(path, sha256, recorded=recorded)
    return sha256

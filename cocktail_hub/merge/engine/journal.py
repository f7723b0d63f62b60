"""Which shards of a plan are finished: the memory of a merge that was killed."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, NamedTuple

from cocktail_hub.merge.engine.writer import SUFFIX
from cocktail_hub.storage.cache import JOURNAL
from cocktail_hub.storage.disk import sync_folder

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cocktail_hub.merge.plan import MergePlan


def working_files(plan: MergePlan) -> set[str]:
    """Return the paths, below the folder of a merge, that a killed run may have left to go on with."""
    shards = {shard.path for shard in plan.shards}
    return {JOURNAL, *shards, *(path + SUFFIX for path in shards)}


class Entry(NamedTuple):
    """A finished shard."""

    size: int
    """Bytes of the file."""
    digest: str
    """XXH3-128 of the file, in hex."""


class Journal:
    """The finished shards of one plan in one folder.

    A shard is entered when its file is complete and on disk, before it gets its final name: so there is no moment at
    which a kill would lose it.
    """

    def __init__(self, folder: Path, plan: MergePlan) -> None:
        """Read what is there, forget what another plan has entered, and give finished files their final name.

        Raises:
            OSError: the folder cannot be written.
        """
        self._folder = folder
        self._digest = plan.digest
        self._path = folder / JOURNAL
        known = self._read()
        self.finished: dict[str, Entry] = {}
        """Path of a finished shard -> size and digest."""
        for shard in plan.shards:
            entry = known.get(shard.path)
            if entry is not None and entry.size == shard.nbytes and _settle(folder / shard.path, entry.size):
                self.finished[shard.path] = entry
            else:
                _part(folder / shard.path).unlink(missing_ok=True)
        self._save()

    def record(self, path: str, entry: Entry) -> None:
        """Enter a finished shard. Raises OSError."""
        self.finished[path] = entry
        self._save()

    def remove(self) -> None:
        """Forget everything: the merge is complete."""
        self._path.unlink(missing_ok=True)

    def _read(self) -> Mapping[str, Entry]:
        try:
            saved = json.loads(self._path.read_text(encoding="utf-8"))
            known = {path: Entry(*entry) for path, entry in saved["finished"].items()}
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return {}  # none, or not one of ours: nothing is known to be finished
        return known if saved.get("plan") == self._digest else {}

    def _save(self) -> None:
        """Replace the journal in one step."""
        part = _part(self._path)
        with part.open("w", encoding="utf-8") as file:
            json.dump({"plan": self._digest, "finished": self.finished}, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self._path)
        sync_folder(self._folder)


def _part(path: Path) -> Path:
    return path.with_name(path.name + SUFFIX)


def _settle(path: Path, size: int) -> bool:
    """Tell whether a shard that was entered is there, under its final name from now on."""
    part = _part(path)
    if part.is_file() and part.stat().st_size == size:
        part.replace(path)
        sync_folder(path.parent)
    return path.is_file() and path.stat().st_size == size

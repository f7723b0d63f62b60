"""The journal of a merge: which shards of its plan are finished, on this machine or on the Hub."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from cocktail_hub.storage.cache import JOURNAL
from cocktail_hub.storage.disk import sync_folder

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cocktail_hub.merge.plan import MergePlan, ShardPlan

INCOMPLETE = ".incomplete"
"""Added to the final name of a file until it is complete and on disk."""


def working_files(plan: MergePlan) -> set[str]:
    """Return the paths, below the folder of a merge, that a killed run may have left for the next one."""
    shards = {shard.path for shard in plan.shards}
    return {JOURNAL, *shards, *(path + INCOMPLETE for path in shards)}


class Entry(NamedTuple):
    """A finished shard."""

    size: int
    """Bytes of the file."""
    digest: str
    """Hash of the file in hex: XXH3-128, or sha256 for a shard that is uploaded."""
    uploaded: bool = False
    """Whether the Hub has the file, so that it is no longer kept here."""


class Journal:
    """The finished shards of one plan in one folder.

    A shard is recorded when its file is complete and on disk, before it gets its final name: a kill at any moment
    loses no finished shard.
    """

    def __init__(self, folder: Path, plan: MergePlan, made_from: str = "") -> None:
        """Make the plan's folders, read the journal unless it is of another plan, and rename what is finished.

        `made_from`: which files the models are; a journal of other ones counts as that of another plan.

        Raises:
            OSError: the folder cannot be written.
        """
        self._folder, self._plan, self._path = folder, plan, folder / JOURNAL
        self._identity = f"{plan.digest} {made_from}".rstrip()
        self.finished: dict[str, Entry] = {}
        """Path of a finished shard -> its entry."""
        self.materials: Mapping[str, Mapping[str, str | None]] = {}
        """What all of them are made of, as `MergeReport` has it; empty until that is known."""
        folder.mkdir(parents=True, exist_ok=True)
        known: Mapping[str, Entry] = {}
        with suppress(FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):  # none, or damaged
            saved = json.loads(self._path.read_text(encoding="utf-8"))
            if saved["plan"] == self._identity:
                known = {path: Entry(*entry) for path, entry in saved["finished"].items()}
                self.materials = saved["materials"]
        for shard in plan.shards:
            entry, path = known.get(shard.path), folder / shard.path
            path.parent.mkdir(parents=True, exist_ok=True)
            if entry and entry.size == shard.nbytes and (entry.uploaded or _adopt(path, entry.size)):
                self.finished[shard.path] = entry
            else:
                incomplete(path).unlink(missing_ok=True)
        self._save()

    @property
    def missing(self) -> list[ShardPlan]:
        """The shards that are not finished, in the plan's order."""
        return [shard for shard in self._plan.shards if shard.path not in self.finished]

    def record(self, path: str, entry: Entry) -> None:
        """Record a finished shard. Raises OSError."""
        self.finished[path] = entry
        self._save()

    def conclude(self, materials: Mapping[str, Mapping[str, str | None]]) -> None:
        """Record what the shards, which are all finished, are made of. Raises OSError."""
        self.materials = materials
        self._save()

    def remove(self) -> None:
        """Delete the journal of a complete merge."""
        self._path.unlink(missing_ok=True)

    def _save(self) -> None:
        """Replace the journal in one step."""
        part = incomplete(self._path)
        with part.open("w", encoding="utf-8") as file:
            json.dump({"plan": self._identity, "finished": self.finished, "materials": self.materials}, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self._path)
        sync_folder(self._folder)


def incomplete(path: Path) -> Path:
    """Return where a file is written until it is complete."""
    return path.with_name(path.name + INCOMPLETE)


def _adopt(path: Path, size: int) -> bool:
    """Give a recorded shard its final name if it has not got it yet; tell whether the file is there."""
    part = incomplete(path)
    if part.is_file() and part.stat().st_size == size:
        with suppress(FileNotFoundError):  # a worker on a cluster, whose driver was killed, does it, too
            part.replace(path)
        sync_folder(path.parent)
    return path.is_file() and path.stat().st_size == size

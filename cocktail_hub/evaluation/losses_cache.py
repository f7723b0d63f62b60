"""Losses on disk, so that adding one ingredient costs one scoring."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cocktail_hub.evaluation.losses import Losses
from cocktail_hub.storage.disk import write_atomically

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class LossesCache:
    """A folder of JSON files, one per key, that processes can share."""

    root: Path
    """Created on the first write."""

    def get(self, key: str, *, name: str) -> Losses | None:
        """The losses under a key, with the ingredient called `name`; `None` without a file or if it is damaged."""
        try:
            data = json.loads(self._path(key).read_text(encoding="utf-8"))
            return replace(Losses.from_dict(data["losses"]), name=name) if data["key"] == key else None
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def put(self, key: str, losses: Losses) -> Path:
        """Write losses under a key, and return the file."""
        path = self._path(key)
        write_atomically(path, json.dumps({"key": key, "losses": losses.to_dict()}, indent=1), sync=False)
        return path

    def _path(self, key: str) -> Path:
        return self.root / key[:2] / f"{key}.json"

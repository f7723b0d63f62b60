"""Losses on disk, so that adding one ingredient costs one scoring."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cocktail_hub.evaluation.losses import Losses


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
        write_json(path := self._path(key), {"key": key, "losses": losses.to_dict()})
        return path

    def _path(self, key: str) -> Path:
        return self.root / key[:2] / f"{key}.json"


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all; its folder is created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=1)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise

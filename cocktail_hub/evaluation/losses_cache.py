"""Losses on disk, so that adding one ingredient costs one scoring."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cocktail_hub.evaluation.losses import Losses
from cocktail_hub.storage.disk import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

    from cocktail_hub.evaluation.examples import Examples
    from cocktail_hub.evaluation.settings import ScoringSettings


def losses_key(ingredient: str, examples: Examples, settings: ScoringSettings, *, tokenizer: str = "") -> str:
    """Name the losses of one ingredient by everything that decides them.

    Args:
        ingredient: what pins the weights, e.g. `org/model@<40 hex>` or a content digest.
        examples: the examples.
        settings: the settings; device and (without `compat`) batch size do not count.
        tokenizer: what pins the tokenizer, when it is not the ingredient's own.

    Returns:
        64 hex digits.
    """
    parts = {
        "ingredient": ingredient,
        "tokenizer": tokenizer or ingredient,
        "examples": examples.digest,
        "settings": settings.digest,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class LossesCache:
    """A folder of JSON files, one per key. Safe to share between processes: files appear whole or not at all."""

    root: Path
    """The folder; made when it is first written to."""

    def get(self, key: str, *, name: str) -> Losses | None:
        """The losses under a key, with the ingredient called `name`; `None` when there are none.

        A damaged file counts as none: the losses are then computed and written again.
        """
        try:
            data = json.loads(self._path(key).read_text(encoding="utf-8"))
            if data["key"] != key:
                return None
            return replace(Losses.from_dict(data["losses"]), name=name)
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def put(self, key: str, losses: Losses) -> Path:
        """Write losses under a key, whole or not at all. Returns the file."""
        path = self._path(key)
        data = json.dumps({"key": key, "losses": losses.to_dict()}, indent=1)
        write_atomically(path, data, sync=True)
        return path

    def _path(self, key: str) -> Path:
        return self.root / key[:2] / f"{key}.json"

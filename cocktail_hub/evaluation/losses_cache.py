"""Losses on disk, so that adding one ingredient costs one scoring."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np

from cocktail_hub.evaluation.losses import Losses
from cocktail_hub.evaluation.outputs import digest_of
from cocktail_hub.storage.disk import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

    from cocktail_hub.evaluation.outputs import Outputs


@dataclass(frozen=True, slots=True)
class LossesCache:
    """A folder that processes can share: per key a JSON file, and a NumPy file beside it if there are outputs."""

    root: Path
    """Created on the first write."""

    def get(self, key: str, *, name: str) -> Losses | None:
        """The losses under a key, with the ingredient called `name`; `None` without a file or if it is damaged."""
        try:
            data = json.loads(self._path(key).read_text(encoding="utf-8"))
            if data["key"] != key:
                return None
            outputs: Outputs = {}
            if "outputs" in data:
                content = io.BytesIO(self._path(key).with_suffix(".npz").read_bytes())
                with np.load(content, allow_pickle=False) as file:
                    outputs = dict(file)
                if digest_of(outputs) != data["outputs"]:
                    return None
            return replace(Losses.from_dict(data["losses"]), name=name, outputs=outputs)
        except (FileNotFoundError, ValueError, KeyError, TypeError, EOFError, BadZipFile):
            return None

    def put(self, key: str, losses: Losses) -> Path:
        """Write losses under a key, and return the file."""
        path, data = self._path(key), {"key": key, "losses": losses.to_dict()}
        if losses.outputs:
            buffer = io.BytesIO()
            np.savez(buffer, allow_pickle=False, **losses.outputs)
            write_atomically(path.with_suffix(".npz"), buffer.getvalue(), sync=False)
            data["outputs"] = digest_of(losses.outputs)
        write_atomically(path, json.dumps(data, indent=1), sync=False)
        return path

    def _path(self, key: str) -> Path:
        return self.root / key[:2] / f"{key}.json"

"""Which weight files the Hub has already: the memory of a publication that was interrupted."""

from __future__ import annotations

import json
import os
import threading
from typing import TYPE_CHECKING

from cocktail_hub.hub import Uploaded
from cocktail_hub.storage.disk import sync_folder

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

JOURNAL = "sent.json"
"""Name of the journal in its folder."""


class SentJournal:
    """The weight files of one plan that were sent to one repo, and those that only wait for it. For many threads."""

    def __init__(self, folder: Path, plan: str) -> None:
        """Read what is there, unless it belongs to another plan.

        Args:
            folder: where the journal is.
            plan: digest of the plan.
        """
        self._path = folder / JOURNAL
        self._plan = plan
        self._lock = threading.Lock()
        self._sent, self._merged = self._read()

    @property
    def sent(self) -> Mapping[str, Uploaded]:
        """Path of every file that the Hub has -> size and digest."""
        with self._lock:
            return dict(self._sent)

    def merged(self, path: str, file: Path) -> str | None:
        """Digest of a file that is on this machine, complete, and was not sent yet; `None` if there is none."""
        with self._lock:
            return self._merged.get(path) if file.is_file() else None

    def record_merged(self, path: str, sha256: str) -> None:
        """Enter a file that is complete on this machine. Raises OSError."""
        with self._lock:
            self._merged[path] = sha256
            self._save()

    def record_sent(self, path: str, uploaded: Uploaded) -> None:
        """Enter a file that the Hub has. Raises OSError."""
        with self._lock:
            self._merged.pop(path, None)
            self._sent[path] = uploaded
            self._save()

    def _read(self) -> tuple[dict[str, Uploaded], dict[str, str]]:
        try:
            saved = json.loads(self._path.read_text(encoding="utf-8"))
            if saved["plan"] == self._plan:
                sent = {path: Uploaded(size=size, sha256=sha256) for path, (size, sha256) in saved["sent"].items()}
                return sent, dict(saved["merged"])
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            pass  # none, or spoilt by a power cut: nothing is known
        return {}, {}

    def _save(self) -> None:
        """Replace the journal in one step."""
        part = self._path.with_name(f"{self._path.name}.incomplete")
        sent = {path: (uploaded.size, uploaded.sha256) for path, uploaded in self._sent.items()}
        with part.open("w", encoding="utf-8") as file:
            json.dump({"plan": self._plan, "sent": sent, "merged": self._merged}, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self._path)
        sync_folder(self._path.parent)

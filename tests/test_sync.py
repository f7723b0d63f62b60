from __future__ import annotations

import os
from typing import TYPE_CHECKING

from cocktail_hub.sync import sync_tree

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_every_file_and_every_folder_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "in" / "deep" / "b").write_bytes(b"b")
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    sync_tree(tmp_path)
    files = [tmp_path / "a", tmp_path / "in" / "deep" / "b"]
    folders = [] if os.name == "nt" else [tmp_path, tmp_path / "in", tmp_path / "in" / "deep"]
    assert sorted(synced) == sorted(path.stat().st_ino for path in (*files, *folders))

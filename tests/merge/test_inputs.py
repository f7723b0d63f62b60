"""Where the nodes of a cluster put what they fetch; `test_low_disk.py` has the rest."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from cocktail_hub.merge.inputs import ShardInputs

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signal that only asks")
def test_a_node_fetches_to_its_own_disk_and_sweeps_what_its_dead_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TMPDIR", raising=False)
    inputs = ShardInputs(components=(), models=(), scratch=tmp_path / "shared", node_local=True)
    assert inputs.fresh_path().parent == tmp_path / "shared"
    monkeypatch.setenv("TMPDIR", str(tmp_path / "own"))
    folder, node = inputs.fresh_path().parent, platform.node()
    assert folder == tmp_path / "own" / "cocktail_hub"
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = [f"window-{node}-{dead.pid}-{digit * 32}" for digit in "ab"]
    (folder / left[0]).write_bytes(b"x")
    (folder / left[1]).mkdir()
    kept = {
        f"window-{node}-{os.getpid()}-{'a' * 32}",
        f"window-{node}-{dead.pid}-{os.getpid()}-{'a' * 32}",  # of a node whose name begins with that of this one
        f"window-other-{dead.pid}-{'a' * 32}",
    }
    for name in kept:
        (folder / name).write_bytes(b"x")
    inputs.fresh_path()
    assert {path.name for path in folder.iterdir()} == kept

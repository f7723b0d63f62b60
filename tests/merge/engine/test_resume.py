"""What is left when a merge is killed, interrupted, or out of disk, and what the next run makes of it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from merge_helpers import digests, mix, plan, save_all

from cocktail_hub.errors import DiskSpaceError, MergeError
from cocktail_hub.merge.engine.journal import JOURNAL
from cocktail_hub.storage.disk import hash_of
from cocktail_hub.storage.positional_file import PositionalFile

pytestmark = pytest.mark.whole

OPTIONS: dict[str, Any] = {"weights": [0.7, 0.3], "max_shard_size": 3000}

SLOW_MERGE = """
    import sys, time
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    from merge_helpers import mix
    root = Path({root!r})
    print("ready", flush=True)
    mix([root / "m0", root / "m1"], root / "out", **{options!r}, threads=2, on_progress=lambda _: time.sleep({pause}))
"""


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
    models = [{f"t{i:02}": torch.randn(700, generator=generator) for i in range(12)} for generator in generators]
    return save_all(tmp_path, models)


def start_merge(root: Path, pause: float) -> subprocess.Popen[str]:
    """Begin a slow merge in a process of its own; returns when it has loaded everything."""
    here = str(Path(__file__).parents[2])
    code = textwrap.dedent(SLOW_MERGE).format(tests=here, root=str(root), options=OPTIONS, pause=pause)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


def finished(out: Path) -> dict[str, int]:
    """Finished shards -> when they were last written."""
    return {path.name: path.stat().st_mtime_ns for path in out.glob("*.safetensors")}


def wait_for_shards(out: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(finished(out)) < count and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(finished(out)) >= count


def test_a_killed_merge_is_finished_without_doing_finished_shards_again(tmp_path: Path, folders: list[Path]) -> None:
    made, out = plan(folders, **OPTIONS), tmp_path / "out"
    process = start_merge(tmp_path, pause=0.05)
    wait_for_shards(out, 2)
    process.kill()
    process.communicate()
    kept = finished(out)
    assert 2 <= len(kept) < len(made.shards)
    assert (out / JOURNAL).is_file()
    assert not (out / "model.safetensors.index.json").exists()  # without it nothing loads the folder

    seen: list[int] = []
    report = mix(folders, out, **OPTIONS, on_progress=seen.append)
    assert report.bytes_written < made.output_bytes
    assert sum(seen) == made.output_bytes
    assert {name: finished(out)[name] for name in kept} == kept
    mix(folders, tmp_path / "fresh", **OPTIONS)
    assert digests(out) == digests(tmp_path / "fresh")
    assert report.digests == {path.name: hash_of(path) for path in out.glob("*.safetensors")}


@pytest.mark.slow
def test_a_merge_killed_at_any_moment_leaves_only_whole_files(tmp_path: Path, folders: list[Path]) -> None:
    out = tmp_path / "out"
    mix(folders, tmp_path / "fresh", **OPTIONS)
    fresh = digests(tmp_path / "fresh")
    for attempt in range(5):
        process = start_merge(tmp_path, pause=0.02)
        time.sleep(0.08 * attempt)
        process.kill()
        process.communicate()
        left = digests(out) if out.exists() else {}
        assert {name: left[name] for name in left if name in fresh}.items() <= fresh.items()
    mix(folders, out, **OPTIONS)
    assert digests(out) == fresh


@pytest.mark.skipif(os.name == "nt", reason="SIGINT cannot be sent to one process on Windows")
def test_an_interrupt_stops_promptly_and_keeps_finished_shards(tmp_path: Path, folders: list[Path]) -> None:
    out = tmp_path / "out"
    process = start_merge(tmp_path, pause=0.05)
    wait_for_shards(out, 2)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, errors = process.communicate(timeout=30)
    assert time.monotonic() - began < 5
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert list(out.glob("*.incomplete")) == []
    assert (out / JOURNAL).is_file()


def test_no_thread_is_left_behind(tmp_path: Path, folders: list[Path]) -> None:
    def fail(_: int) -> None:
        raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        mix(folders, tmp_path / "out", **OPTIONS, on_progress=fail)
    mix(folders, tmp_path / "out", **OPTIONS)
    assert threading.active_count() == before


def test_a_disk_that_runs_full_keeps_finished_shards(
    tmp_path: Path, folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, out = plan(folders, **OPTIONS), tmp_path / "out"
    whole, room = PositionalFile.write_from, [made.output_bytes // 2]

    def limited(file: PositionalFile, data: memoryview, offset: int) -> None:
        room[0] -= len(data)
        if room[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        whole(file, data, offset)

    with monkeypatch.context() as patched:
        patched.setattr(PositionalFile, "write_from", limited)
        with pytest.raises(DiskSpaceError, match="finished shards are kept") as caught:
            mix(folders, out, **OPTIONS)
    kept = finished(out)
    left = sum(shard.nbytes for shard in made.shards if shard.path not in kept)
    assert f"but the mix needs {left:,} more" in str(caught.value)
    assert 1 <= len(kept) < len(made.shards)
    assert list(out.glob("*.safetensors.incomplete")) == []

    mix(folders, out, **OPTIONS)
    assert {name: finished(out)[name] for name in kept} == kept
    mix(folders, tmp_path / "fresh", **OPTIONS)
    assert digests(out) == digests(tmp_path / "fresh")


def test_a_disk_that_is_full_when_a_shard_is_synced_is_an_error(
    tmp_path: Path, folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """File systems over a network may say so only then."""
    sync, calls = os.fsync, [0]

    def full(descriptor: int) -> None:
        calls[0] += 1
        if calls[0] > 12:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(DiskSpaceError):
            mix(folders, tmp_path / "out", **OPTIONS)
    assert list((tmp_path / "out").glob("*.safetensors.incomplete")) == []
    mix(folders, tmp_path / "out", **OPTIONS)
    mix(folders, tmp_path / "fresh", **OPTIONS)
    assert digests(tmp_path / "out") == digests(tmp_path / "fresh")


def test_a_disk_that_cannot_be_written_is_an_error(
    tmp_path: Path, folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(file: PositionalFile, data: memoryview, offset: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(PositionalFile, "write_from", broken)
    with pytest.raises(MergeError, match=r"Writing to '.*out' failed: .*Input/output error"):
        mix(folders, tmp_path / "out", **OPTIONS)


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path, folders: list[Path]) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(MergeError, match="Writing to '"):
        mix(folders, tmp_path / "out", **OPTIONS)


def test_another_plan_starts_over_in_the_same_folder(tmp_path: Path, folders: list[Path]) -> None:
    out = tmp_path / "out"

    def stop(_: int) -> None:
        if len(finished(out)) >= 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mix(folders, out, **OPTIONS, on_progress=stop)
    other = OPTIONS | {"weights": [0.2, 0.8]}
    mix(folders, out, **other)
    mix(folders, tmp_path / "fresh", **other)
    assert digests(out) == digests(tmp_path / "fresh")

from __future__ import annotations

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
import xxhash

from cocktail_hub.merge.engine import writer as writer_module
from cocktail_hub.merge.engine.writer import HASH_BYTES, ShardWriter
from cocktail_hub.storage import disk as sync
from cocktail_hub.storage.disk import HASHES, sync_folder
from cocktail_hub.storage.positional_file import PositionalFile

if TYPE_CHECKING:
    from pathlib import Path


def test_a_file_gets_its_name_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    writer = ShardWriter(path, b"head", 10)
    writer.write(7, b"end")
    writer.write(4, b"mid")
    assert [found.name for found in tmp_path.iterdir()] == ["model.safetensors.incomplete"]
    digest = writer.seal()
    assert not path.exists()
    writer.publish()
    assert path.read_bytes() == b"headmidend"
    assert digest == xxhash.xxh3_128(b"headmidend").hexdigest()
    assert [found.name for found in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("kind", sorted(HASHES))
def test_threads_write_in_any_order(tmp_path: Path, kind: str) -> None:
    content = os.urandom(5 * HASH_BYTES + 12345)
    step = 70_001
    writer = ShardWriter(tmp_path / "x", content[:100], len(content), kind)
    starts = list(range(100, len(content), step))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda start: writer.write(start, content[start : start + step]), reversed(starts)))
    assert writer.seal() == HASHES[kind](content).hexdigest()
    writer.publish()
    assert (tmp_path / "x").read_bytes() == content


def test_an_aborted_file_leaves_nothing(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path / "x", b"head", 100)
    writer.abort()
    assert list(tmp_path.iterdir()) == []


def test_a_finished_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"old")
    writer = ShardWriter(tmp_path / "x", b"new", 3)
    writer.seal()
    writer.publish()
    assert (tmp_path / "x").read_bytes() == b"new"


def test_a_full_disk_is_raised_where_it_is_met(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: PositionalFile, data: memoryview, offset: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    writer = ShardWriter(tmp_path / "x", b"head", 10)
    with monkeypatch.context() as patched:
        patched.setattr(PositionalFile, "write_from", full)
        with pytest.raises(OSError, match="No space left"):
            writer.write(4, b"x")
    writer.abort()
    assert list(tmp_path.iterdir()) == []


def test_a_failure_to_create_the_file_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: PositionalFile, data: memoryview, offset: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(PositionalFile, "write_from", full)
    with pytest.raises(OSError, match="No space left"):
        ShardWriter(tmp_path / "x", b"head", 10)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_to_read_back_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(file: PositionalFile, out: memoryview, offset: int) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(PositionalFile, "read_into", broken)
    writer = ShardWriter(tmp_path / "x", b"head", 4)
    with pytest.raises(OSError, match="Input/output error"):
        writer.seal()
    writer.abort()


def test_a_file_cut_short_while_it_is_written_is_noticed(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path / "x", b"head", 4 * HASH_BYTES)
    os.truncate(tmp_path / "x.incomplete", 10)
    with writer._changed:
        writer._written[4] = 4 * HASH_BYTES
        writer._changed.notify()
    with pytest.raises(OSError, match="was cut short while it was written"):
        writer.seal()
    writer.abort()


def test_folders_are_left_alone_where_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "name", "nt")
    sync_folder("no such folder")


def test_the_disk_works_while_a_file_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first half is brought to disk before the second is written."""
    synced = threading.Event()
    monkeypatch.setattr(sync, "_SYNC_DATA", lambda _: synced.set())
    monkeypatch.setattr(writer_module, "SYNC_BYTES", 4)
    monkeypatch.setattr(writer_module, "NOTIFY_BYTES", 1)
    writer = ShardWriter(tmp_path / "x", b"head", 8)
    assert synced.wait(60)
    writer.write(4, b"tail")
    writer.seal()
    writer.publish()
    assert (tmp_path / "x").read_bytes() == b"headtail"


def test_a_small_file_is_synced_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(sync, "_SYNC_DATA", synced.append)
    writer = ShardWriter(tmp_path / "x", b"head", 4)
    writer.seal()
    assert synced == []


@pytest.mark.parametrize("end", ["seal", "abort"])
def test_a_disk_that_fails_before_the_end_fails_the_file(
    end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = threading.Event()

    def fail(_: int) -> None:
        failed.set()
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(sync, "_SYNC_DATA", fail)
    monkeypatch.setattr(writer_module, "SYNC_BYTES", 1)
    writer = ShardWriter(tmp_path / "x", b"head", 4)
    assert failed.wait(60)
    if end == "seal":
        with pytest.raises(OSError, match="Input/output error"):
            writer.seal()
    writer.abort()
    assert list(tmp_path.iterdir()) == []

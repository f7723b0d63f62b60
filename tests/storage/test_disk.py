from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import xxhash

from cocktail_hub.errors import DiskSpaceError
from cocktail_hub.storage import disk
from cocktail_hub.storage.disk import (
    HASHES,
    BackgroundSync,
    hash_of,
    require_free_space,
    sha256_of,
    size_of,
    sync_tree,
    write_atomically,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

# -- free space ----------------------------------------------------------------------------------------------------


def test_needs_that_fit_are_accepted_even_for_missing_folders(tmp_path: Path) -> None:
    require_free_space([(tmp_path / "a" / "b", 1, "the mix"), (tmp_path, 0, "the downloads")])
    assert list(tmp_path.iterdir()) == []


def test_needs_on_one_disk_are_added_up_and_listed(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    most = int(free * 0.75)
    require_free_space([(tmp_path, most, "the downloads")])
    words = f"{most:,} bytes for the downloads and {most:,} bytes for the mix"
    with pytest.raises(DiskSpaceError, match=re.escape(words)):
        require_free_space([(tmp_path, most, "the downloads"), (tmp_path / "new", most, "the mix")])


def test_size_of_counts_every_file_below(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(b"12345")
    (tmp_path / "y").write_bytes(b"123")
    assert size_of(tmp_path) == 8
    assert size_of(tmp_path / "none") == 0


@pytest.mark.skipif(os.name == "nt", reason="Windows does not report allocated blocks")
def test_an_unfinished_file_counts_what_is_written(tmp_path: Path) -> None:
    with (tmp_path / "model.safetensors.incomplete").open("wb") as file:
        file.truncate(1 << 20)
    assert size_of(tmp_path) == 0


# -- hashes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 21) + 7])
def test_a_file_of_any_size_is_hashed(tmp_path: Path, size: int) -> None:
    path, content = tmp_path / "file", bytes(range(251)) * (size // 251 + 1)
    path.write_bytes(content[:size])
    assert hash_of(path) == xxhash.xxh3_128(content[:size]).hexdigest()
    assert sha256_of(path) == hashlib.sha256(content[:size]).hexdigest()


def test_an_unknown_hash_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="md5"):
        hash_of(tmp_path / "file", "md5")
    assert sorted(HASHES) == ["sha256", "xxh128"]


# -- atomic writes -------------------------------------------------------------------------------------------------


def test_a_write_replaces_the_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    for sync, data in ((False, "old"), (True, "ä"), (False, b"bytes")):
        write_atomically(tmp_path / "new" / "file", data, sync=sync)
        assert (tmp_path / "new" / "file").read_bytes() == (data.encode() if isinstance(data, str) else data)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file"]


def test_a_write_that_fails_keeps_the_old_content_and_leaves_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write_atomically(tmp_path / "file", "old", sync=False)
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "file", "new", sync=True)
    assert (tmp_path / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# -- syncs ---------------------------------------------------------------------------------------------------------


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


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Descriptors that were synced, on a system with fdatasync."""
    found: list[int] = []
    monkeypatch.setattr(disk, "_SYNC_DATA", found.append)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="not every system has fdatasync")
def test_this_system_syncs_files_in_the_background(fd: int) -> None:
    assert disk._SYNC_DATA is os.fdatasync
    sync = BackgroundSync(fd)
    os.write(fd, b"abc")
    sync.begin()
    assert sync.close() is None


def test_a_file_is_synced_without_waiting(fd: int, monkeypatch: pytest.MonkeyPatch, calls: list[int]) -> None:
    """`begin` does not wait; further calls during a sync lead to one more sync after it."""
    begun, go_on = threading.Event(), threading.Event()

    def slowly(descriptor: int) -> None:
        calls.append(descriptor)
        begun.set()
        assert go_on.wait(60)

    monkeypatch.setattr(disk, "_SYNC_DATA", slowly)
    sync = BackgroundSync(fd)
    sync.begin()
    assert begun.wait(60)
    begun.clear()
    sync.begin()
    sync.begin()
    assert calls == [fd]
    go_on.set()
    assert begun.wait(60)
    assert sync.close() is None
    assert calls == [fd, fd]


def test_close_waits_for_the_running_sync(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, ended = threading.Event(), threading.Event()

    def slowly(_: int) -> None:
        begun.set()
        time.sleep(0.2)
        ended.set()

    monkeypatch.setattr(disk, "_SYNC_DATA", slowly)
    sync = BackgroundSync(fd)
    sync.begin()
    assert begun.wait(60)
    sync.close()
    assert ended.is_set()


def test_a_failed_sync_is_reported_at_the_end(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system reports a failure once; the final fsync would succeed."""
    failed = threading.Event()

    def fail(_: int) -> None:
        failed.set()
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(disk, "_SYNC_DATA", fail)
    sync = BackgroundSync(fd)
    sync.begin()
    assert failed.wait(60)
    for _ in range(2):
        failure = sync.close()
        assert failure is not None
        assert failure.errno == errno.EIO


def test_a_system_without_fdatasync_leaves_it_to_the_final_sync(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "_SYNC_DATA", None)
    before = threading.active_count()
    sync = BackgroundSync(fd)
    sync.begin()
    assert threading.active_count() == before
    assert sync.close() is None


def test_a_system_out_of_threads_leaves_it_to_the_final_sync(
    fd: int, monkeypatch: pytest.MonkeyPatch, calls: list[int]
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    sync = BackgroundSync(fd)
    sync.begin()
    sync.begin()
    assert sync.close() is None
    assert calls == []

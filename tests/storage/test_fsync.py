from __future__ import annotations

import errno
import os
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from cocktail_hub.storage import fsync as sync
from cocktail_hub.storage.fsync import BackgroundSync, sync_tree

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


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
    """Files that were brought to disk, on a system that knows how."""
    found: list[int] = []
    monkeypatch.setattr(sync, "_SYNC_DATA", found.append)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="not every system has fdatasync")
def test_this_system_brings_files_to_disk_early(fd: int) -> None:
    assert sync._SYNC_DATA is os.fdatasync
    early = BackgroundSync(fd)
    os.write(fd, b"abc")
    early.begin()
    assert early.close() is None


def test_a_file_is_brought_to_disk_aside(fd: int, monkeypatch: pytest.MonkeyPatch, calls: list[int]) -> None:
    """Whoever asks does not wait, and what is asked for in the meantime is done once, after that."""
    begun, go_on = threading.Event(), threading.Event()

    def slowly(descriptor: int) -> None:
        calls.append(descriptor)
        begun.set()
        assert go_on.wait(60)

    monkeypatch.setattr(sync, "_SYNC_DATA", slowly)
    early = BackgroundSync(fd)
    early.begin()
    assert begun.wait(60)
    begun.clear()
    early.begin()
    early.begin()
    assert calls == [fd]
    go_on.set()
    assert begun.wait(60)
    assert early.close() is None
    assert calls == [fd, fd]


def test_the_file_may_be_closed_once_a_running_sync_has_ended(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, ended = threading.Event(), threading.Event()

    def slowly(_: int) -> None:
        begun.set()
        time.sleep(0.2)
        ended.set()

    monkeypatch.setattr(sync, "_SYNC_DATA", slowly)
    early = BackgroundSync(fd)
    early.begin()
    assert begun.wait(60)
    early.close()
    assert ended.is_set()


def test_a_disk_that_fails_early_is_told_of_at_the_end(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system tells a failure once; a last fsync would find nothing wrong."""
    failed = threading.Event()

    def fail(_: int) -> None:
        failed.set()
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(sync, "_SYNC_DATA", fail)
    early = BackgroundSync(fd)
    early.begin()
    assert failed.wait(60)
    for _ in range(2):
        failure = early.close()
        assert failure is not None
        assert failure.errno == errno.EIO


def test_a_system_without_fdatasync_waits_at_the_end(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync, "_SYNC_DATA", None)
    before = threading.active_count()
    early = BackgroundSync(fd)
    early.begin()
    assert threading.active_count() == before
    assert early.close() is None


def test_a_system_that_starts_no_more_threads_waits_at_the_end(
    fd: int, monkeypatch: pytest.MonkeyPatch, calls: list[int]
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    early = BackgroundSync(fd)
    early.begin()
    early.begin()
    assert early.close() is None
    assert calls == []

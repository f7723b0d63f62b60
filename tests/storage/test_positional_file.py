from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from cocktail_hub.storage import positional_file as positional
from cocktail_hub.storage.positional_file import PositionalFile

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(params=["at once", "seek under a lock"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every test with positional calls and with the fallback for systems without them."""
    if request.param == "at once" and not positional.HAS_POSITIONAL_IO:
        pytest.skip("this system has no reads and writes at an offset")
    if request.param != "at once":
        monkeypatch.setattr(positional, "HAS_POSITIONAL_IO", False)
        monkeypatch.delattr(os, "preadv", raising=False)
        monkeypatch.delattr(os, "pwrite", raising=False)


def test_bytes_are_read_at_an_offset(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    with PositionalFile(tmp_path / "a") as file:
        out = bytearray(4)
        assert file.read_into(memoryview(out), 3) == 4
        assert out == b"3456"
        assert file.read_into(memoryview(out), 8) == 2
        assert out == b"8956"
        assert file.read_into(memoryview(out), 99) == 0


def test_bytes_are_written_at_an_offset_in_any_order(tmp_path: Path) -> None:
    with PositionalFile(tmp_path / "a", write=True) as file:
        file.write_from(b"world", 5)
        file.write_from(memoryview(b"hello"), 0)
    assert (tmp_path / "a").read_bytes() == b"helloworld"


def test_old_content_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"something longer")
    with PositionalFile(tmp_path / "a", write=True) as file:
        file.write_from(b"new", 0)
    assert (tmp_path / "a").read_bytes() == b"new"


def test_many_threads_can_read_and_write_one_file(tmp_path: Path) -> None:
    block, count = 1000, 200

    def put(file: PositionalFile, index: int) -> None:
        file.write_from(bytes([index % 251]) * block, index * block)

    def get(file: PositionalFile, index: int) -> bool:
        out = bytearray(block)
        file.read_into(memoryview(out), index * block)
        return out == bytes([index % 251]) * block

    with PositionalFile(tmp_path / "a", write=True) as file, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda index: put(file, index), range(count)))
        assert all(pool.map(lambda index: get(file, index), range(count)))


def test_a_short_read_of_the_system_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(bytes(range(100)))
    with PositionalFile(tmp_path / "a") as file:
        whole = file._read_some
        monkeypatch.setattr(PositionalFile, "_read_some", lambda self, out, offset: whole(out[:7], offset))
        out = bytearray(50)
        assert file.read_into(memoryview(out), 10) == 50
        assert out == bytes(range(10, 60))


def test_a_short_write_of_the_system_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with PositionalFile(tmp_path / "a", write=True) as file:
        whole = file._write_some
        monkeypatch.setattr(PositionalFile, "_write_some", lambda self, data, offset: whole(data[:7], offset))
        file.write_from(bytes(range(100)), 0)
    assert (tmp_path / "a").read_bytes() == bytes(range(100))


def test_a_file_is_closed_once(tmp_path: Path) -> None:
    file = PositionalFile(tmp_path / "a", write=True)
    file.close()
    file.close()
    with pytest.raises(OSError):
        file.write_from(b"x", 0)


def test_read_ahead_is_requested_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda fd, start, size, kind: asked.append((start, size)), raising=False)
    monkeypatch.setattr(os, "POSIX_FADV_WILLNEED", 3, raising=False)
    monkeypatch.setattr(positional, "AHEAD_BYTES", 100)
    with PositionalFile(tmp_path / "a", write=True) as file:
        for offset in range(10, 200, 10):
            file.ask_ahead(offset)
        assert asked == [(10, 100), (110, 100), (210, 100)]
        file.ask_ahead(20)  # from the start once more
        file.ask_ahead(30)
        assert asked[3:] == [(20, 100)]


def test_a_system_without_read_ahead_hints_gets_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "posix_fadvise", raising=False)
    with PositionalFile(tmp_path / "a", write=True) as file:
        file.ask_ahead(10)


def test_a_file_system_may_refuse_read_ahead_hints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "posix_fadvise", refuse, raising=False)
    monkeypatch.setattr(os, "POSIX_FADV_WILLNEED", 3, raising=False)
    with PositionalFile(tmp_path / "a", write=True) as file:
        file.ask_ahead(10)


def test_a_file_that_was_not_closed_is_closed_with_its_last_reference(tmp_path: Path) -> None:
    """A merge that could not open its third model leaves two open."""
    (tmp_path / "file").write_bytes(b"abc")
    descriptor = PositionalFile(tmp_path / "file").fd
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)

from __future__ import annotations

import errno
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from cocktail_hub.errors import DiskSpaceError, MergeError, SourceError
from cocktail_hub.storage.disk import FULL, disk_errors

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("code", sorted(FULL - {errno.EFBIG}))
def test_a_full_disk_or_quota_says_how_much_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1234}))
    for needed in (56789, lambda: 56789):
        with pytest.raises(DiskSpaceError) as caught, disk_errors(tmp_path, needed):
            raise OSError(code, os.strerror(code))
        assert str(caught.value).startswith(
            f"The disk of '{tmp_path}' has 1,234 bytes free, but the mix needs 56,789 more.\n"
        )


def test_a_disk_that_has_room_for_the_weights_alone_says_so(tmp_path: Path) -> None:
    with (
        pytest.raises(DiskSpaceError, match="the small files beside the weights need some more"),
        disk_errors(tmp_path),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_file_that_is_too_large_is_not_called_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(MergeError) as caught, disk_errors(tmp_path, 5):
        raise OSError(errno.EFBIG, "File too large")
    assert type(caught.value) is MergeError
    assert str(caught.value) == (
        f"'{tmp_path}' takes no file that large: [Errno {errno.EFBIG}] File too large.\n"
        "Its file system, or a limit of this shell (`ulimit -f`), allows smaller files only.\n"
        "Cut the mix into smaller files (`--max-shard-size 2GB`, `MixOptions(max_shard_size='2GB')`), or write to "
        "another disk."
    )


def test_any_other_error_of_the_disk_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(MergeError, match=r"Writing to '.*' failed: .*Input/output error"), disk_errors(tmp_path):
        raise OSError(errno.EIO, "Input/output error")


def test_our_own_errors_pass_through(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="a model"), disk_errors(tmp_path):
        raise SourceError("a model")

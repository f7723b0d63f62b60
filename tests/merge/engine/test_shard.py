from __future__ import annotations

import errno
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from merge_helpers import digests, mix, model, opened, plan, save_all

from cocktail_hub.errors import DiskSpaceError, MergeError
from cocktail_hub.merge.engine import shard as shard_module
from cocktail_hub.merge.engine.shard import Progress, disk_full, merge_shard, write_errors
from cocktail_hub.storage.disk import FULL, HASHES, hash_of

if TYPE_CHECKING:
    from pathlib import Path


def test_shards_can_be_made_one_by_one_in_any_order(tmp_path: Path) -> None:
    folders = save_all(tmp_path, [model(0), model(1)])
    options = {"weights": [0.7, 0.3], "max_shard_size": 5000}
    made = plan(folders, **options)
    out = tmp_path / "out"
    out.mkdir()
    with ExitStack() as stack:
        sources = opened(stack, folders)
        for index in reversed(range(len(made.shards))):
            kind = sorted(HASHES)[index % 2]
            done = merge_shard(made, index, sources, out, threads=1, kind=kind)
            assert done.digest == hash_of(out / made.shards[index].path, kind)
            assert done.bytes_read == made.shards[index].input_bytes
    mix(folders, tmp_path / "whole", **options)
    whole = {name: digest for name, digest in digests(tmp_path / "whole").items() if "index" not in name}
    assert digests(out) == whole


def test_a_shard_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(writer: object) -> str:
        raise OSError(28, "No space left on device")

    folders = save_all(tmp_path, [model(0), model(1)])
    made = plan(folders, weights=[0.7, 0.3])
    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr(shard_module.ShardWriter, "seal", full)
    with ExitStack() as stack, pytest.raises(DiskSpaceError):
        merge_shard(made, 0, opened(stack, folders), out)
    assert list(out.iterdir()) == []


def test_a_full_disk_says_how_much_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_module, "free_bytes", lambda _: 1234)
    message = str(disk_full(tmp_path, 56789))
    assert f"The disk of '{tmp_path}' has 1,234 bytes free, but the mix needs 56,789 more." in message


@pytest.mark.parametrize("code", sorted(FULL - {errno.EFBIG}))
def test_a_disk_or_a_quota_that_is_full_is_called_so(tmp_path: Path, code: int) -> None:
    with pytest.raises(DiskSpaceError, match=r"bytes free, but the mix needs 5 more"), write_errors(tmp_path, 5):
        raise OSError(code, os.strerror(code))


def test_a_file_that_is_too_large_is_not_called_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(MergeError) as caught, write_errors(tmp_path, 5):
        raise OSError(errno.EFBIG, "File too large")
    assert type(caught.value) is MergeError
    assert str(caught.value) == (
        f"'{tmp_path}' takes no file that large: [Errno {errno.EFBIG}] File too large.\n"
        "Its file system, or a limit of this shell (`ulimit -f`), allows smaller files only.\n"
        "Cut the mix into smaller files (`--max-shard-size 2GB`, `MixOptions(max_shard_size='2GB')`), or write to "
        "another disk."
    )


def test_a_disk_that_has_room_for_the_weights_alone_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_module, "free_bytes", lambda _: 0)
    message = str(disk_full(tmp_path, 0))
    assert "has 0 bytes free, but the small files beside the weights need some more." in message


def test_progress_without_a_listener_is_silent() -> None:
    Progress().add(3)

"""Is there room on the disk?"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from cocktail_hub.errors import DiskSpaceError
from cocktail_hub.storage.disk_space import require_free_space, size_of


def test_what_fits_is_let_through_even_into_folders_that_are_not_there_yet(tmp_path: Path) -> None:
    require_free_space([(tmp_path / "a" / "b", 1, "the mix"), (tmp_path, 0, "the downloads")])
    assert list(tmp_path.iterdir()) == []


def test_needs_on_one_disk_are_added_up_and_named(tmp_path: Path) -> None:
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


@pytest.mark.skipif(os.name == "nt", reason="Windows does not tell what a file takes")
def test_an_unfinished_file_counts_as_far_as_it_is_written(tmp_path: Path) -> None:
    with (tmp_path / "model.safetensors.incomplete").open("wb") as file:
        file.truncate(1 << 20)
    assert size_of(tmp_path) == 0

"""Which tensors of the models a shard needs, and where they are put; `publishing/test_streaming.py` reads them."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file

from cocktail_hub.checkpoint.conversion.align import align
from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.checkpoint.header import read_header
from cocktail_hub.checkpoint.weight_files import read_weight_files
from cocktail_hub.hub.ranges import ByteRange
from cocktail_hub.merge.inputs import PREFIX, ShardInputs, needed_tensors, place_tensors, tied_tensors

if TYPE_CHECKING:
    from pathlib import Path

    from cocktail_hub.checkpoint.conversion.tensor_mapping import TensorMapping


def mapping_of(folder: Path) -> TensorMapping:
    """A checkpoint of four tensors of 16 bytes, in the order of their names."""
    save_file({name: torch.zeros(4) for name in "abcd"}, folder / "model.safetensors", {"format": "pt"})
    (found,) = align([read_weight_files(LocalFiles(folder))], [{}])
    return found


def test_plain_and_cut_tensors_name_their_sources(tmp_path: Path) -> None:
    plain = mapping_of(tmp_path)
    assert needed_tensors(plain, ["a", "c"]) == {"a", "c"}
    cut = replace(plain, ranges={"a": (("b", 0, 2), ("d", 0, 2))}, equal=(("c", "d"),))
    assert needed_tensors(cut, ["a", "c"]) == {"b", "c", "d"}
    assert tied_tensors(cut) == {"c", "d"}


def test_adjacent_tensors_are_one_byte_range_and_placed_without_gaps(tmp_path: Path) -> None:
    mapping_of(tmp_path)
    files = LocalFiles(tmp_path)
    slots = {name: slot for name, slot in read_header(files, "model.safetensors").tensors.items() if name != "c"}
    begin = slots["a"].start
    placed, ranges = place_tensors(files, "file", slots, offset=100)
    assert ranges == [
        ByteRange(files=files, path="file", start=begin, stop=begin + 32, offset=100),
        ByteRange(files=files, path="file", start=begin + 48, stop=begin + 64, offset=132),
    ]
    assert [(slot.start, slot.stop) for slot in placed.values()] == [(100, 116), (116, 132), (132, 148)]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signal that only asks")
def test_a_node_fetches_to_its_own_disk_and_removes_what_its_killed_processes_left(
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
    left = [f"{PREFIX}{node}-{dead.pid}-{digit * 32}" for digit in "ab"]
    (folder / left[0]).write_bytes(b"x")
    (folder / left[1]).mkdir()
    kept = {
        f"{PREFIX}{node}-{os.getpid()}-{'a' * 32}",
        f"{PREFIX}{node}-{dead.pid}-{os.getpid()}-{'a' * 32}",  # of a node whose name begins with that of this one
        f"{PREFIX}other-{dead.pid}-{'a' * 32}",
    }
    for name in kept:
        (folder / name).write_bytes(b"x")
    inputs.fresh_path()
    assert {path.name for path in folder.iterdir()} == kept

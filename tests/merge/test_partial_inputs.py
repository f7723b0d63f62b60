"""Which bytes of an ingredient one output file takes, and where they go."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

from cocktail_hub.checkpoint.conversion.align import align
from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.checkpoint.weight_files import read_weight_files
from cocktail_hub.merge.partial_inputs import (
    Headers,
    Move,
    Shelf,
    needed_tensors,
    own_weight_files,
    tied_tensors,
)

if TYPE_CHECKING:
    from pathlib import Path

    from cocktail_hub.checkpoint.conversion.tensor_mapping import TensorMapping


def view(folder: Path) -> TensorMapping:
    """A checkpoint of four tensors of 16 bytes, in the order of their names."""
    folder.mkdir(exist_ok=True)
    save_file({name: torch.zeros(4) for name in "abcd"}, folder / "model.safetensors", {"format": "pt"})
    (found,) = align([read_weight_files(LocalFiles(folder))], [{}])
    return found


def test_plain_and_cut_tensors_name_their_sources(tmp_path: Path) -> None:
    plain = view(tmp_path)
    assert needed_tensors(plain, ["a", "c"]) == {"a", "c"}
    cut = replace(plain, ranges={"a": (("b", 0, 2), ("d", 0, 2))}, equal=(("c", "d"),))
    assert needed_tensors(cut, ["a", "c"]) == {"b", "c", "d"}
    assert tied_tensors(cut) == {"c", "d"}


def test_neighbours_are_brought_in_one_go_and_placed_without_gaps(tmp_path: Path) -> None:
    layout = own_weight_files(view(tmp_path))
    headers = Headers(LocalFiles(tmp_path))
    slots = headers.slots(layout, {"a", "b", "d"})["model.safetensors"]
    assert list(slots) == ["a", "b", "d"]
    begin = slots["a"].start
    shelf = Shelf()
    placed, moves = shelf.put("model.safetensors", slots)
    assert moves == [
        Move(path="model.safetensors", start=begin, stop=begin + 32, offset=0),
        Move(path="model.safetensors", start=begin + 48, stop=begin + 64, offset=32),
    ]
    assert [(slot.start, slot.stop) for slot in placed.values()] == [(0, 16), (16, 32), (32, 48)]
    assert shelf.nbytes == 48
    placed, moves = shelf.put("another", {"c": slots["b"]})
    assert (placed["c"].start, moves[0].offset) == (48, 48)

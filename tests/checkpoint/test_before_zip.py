"""What only the old format can have; what both have is in `test_pickled.py`."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cocktail_hub.checkpoint.before_zip import SIGNATURE_BYTES, is_before_zip, load_skeleton, map_tensors, storage_id
from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.checkpoint.pickled import read_pickle_specs
from cocktail_hub.errors import CheckpointError

FILE = "pytorch_model.bin"


def saved(folder: Path, state: dict[str, torch.Tensor]) -> LocalFiles:
    torch.save(state, folder / FILE, _use_new_zipfile_serialization=False)
    return LocalFiles(folder)


def test_tensors_lie_where_the_skeleton_says(tmp_path):
    matrix = torch.arange(6.0).reshape(2, 3)
    path = saved(tmp_path, {"a": torch.ones(3), "b": matrix, "c": matrix[:, 1]}).root / FILE
    with path.open("rb") as stream:
        content, starts = load_skeleton(stream, path.stat().st_size)
    assert {tensor.device.type for tensor in content.values()} == {"meta"}
    assert storage_id(content["b"]) == storage_id(content["c"]) != storage_id(content["a"])
    for name, numbers in (("a", [1.0] * 3), ("b", [0.0, 1.0, 2.0, 3.0, 4.0, 5.0])):
        start = starts[storage_id(content[name])]
        assert np.frombuffer(path.read_bytes()[start : start + 4 * len(numbers)], "<f4").tolist() == numbers
    assert map_tensors(path, content, starts)["c"].view("<f4").tolist() == [1.0, 4.0]


def test_the_format_is_told_by_its_first_bytes(tmp_path):
    state = {"weight": torch.ones(2)}
    assert is_before_zip((saved(tmp_path, state).root / FILE).read_bytes())
    torch.save(state, tmp_path / FILE)
    assert not is_before_zip((tmp_path / FILE).read_bytes()[:SIGNATURE_BYTES])
    assert not is_before_zip(b"")


def test_a_shape_beyond_the_data_is_damage(tmp_path):
    files = saved(tmp_path, {"weight": torch.ones(5, 7)})
    damage = (tmp_path / FILE).read_bytes().replace(b"K\x05K\x07\x86", b"K\x09K\x07\x86")  # the shape (9, 7)
    (tmp_path / FILE).write_bytes(damage)
    with pytest.raises(CheckpointError, match=r"damaged or incomplete \(a tensor is larger than its data\)"):
        read_pickle_specs(files, FILE)


def test_a_file_of_a_big_endian_machine_is_refused(tmp_path):
    files = saved(tmp_path, {"weight": torch.ones(5)})
    data = (tmp_path / FILE).read_bytes()
    at = data.index(b"\x88", data.index(b"little_endian"))  # True
    (tmp_path / FILE).write_bytes(data[:at] + b"\x89" + data[at + 1 :])
    with pytest.raises(CheckpointError, match="it was saved on a big-endian machine"):
        read_pickle_specs(files, FILE)


def test_names_are_not_read_without_end(tmp_path, monkeypatch):
    files = saved(tmp_path, {"x" * 600_000: torch.ones(2)})
    monkeypatch.setattr("cocktail_hub.checkpoint.pickled.MAX_PICKLE_BYTES", 300_000)
    with pytest.raises(CheckpointError, match="its names and shapes take more than 300,000 bytes"):
        read_pickle_specs(files, FILE)

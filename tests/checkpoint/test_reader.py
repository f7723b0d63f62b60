from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from cocktail_hub.checkpoint import reader as source_module
from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.checkpoint.reader import SafetensorsReader, byte_reader, byte_view, open_weights
from cocktail_hub.checkpoint.weight_files import read_weight_files
from cocktail_hub.errors import CheckpointError
from cocktail_hub.storage.positional_file import PositionalFile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TENSORS = {
    "wide": torch.arange(10, dtype=torch.float64),
    "half": torch.arange(12).bfloat16().reshape(3, 4),
    "scalar": torch.tensor(3),
    "empty": torch.zeros(0, 5),
    "flags": torch.tensor([True, False, True]),
    "tiny": torch.arange(4).to(torch.float8_e4m3fn),
    "more": torch.arange(7).bfloat16(),
}


@pytest.fixture
def source(tmp_path: Path) -> Iterator[SafetensorsReader]:
    save_file(TENSORS, tmp_path / "model.safetensors")
    with closing(open_weights(read_weight_files(LocalFiles(tmp_path, name="org/m")), tmp_path)) as opened:
        yield opened


@pytest.mark.parametrize("name", TENSORS)
def test_a_tensor_is_read_whole(source: SafetensorsReader, name: str) -> None:
    expected = TENSORS[name].flatten()
    out = torch.empty_like(expected)
    source.read(name, 0, len(expected), out)
    assert torch.equal(out.view(torch.uint8), expected.view(torch.uint8))


@pytest.mark.parametrize(("start", "stop"), [(0, 12), (0, 1), (5, 9), (11, 12), (7, 7)])
def test_a_part_of_a_tensor_is_read(source: SafetensorsReader, start: int, stop: int) -> None:
    out = torch.empty(stop - start, dtype=torch.bfloat16)
    source.read("half", start, stop, out)
    assert out.tolist() == list(range(start, stop))


@given(st.lists(st.tuples(st.sampled_from(["half", "more"]), st.integers(0, 7), st.integers(0, 7)), max_size=8))
@settings(max_examples=50, deadline=None)
def test_ranges_fill_the_buffer_in_their_order(
    tmp_path_factory: pytest.TempPathFactory, ranges: list[tuple[str, int, int]]
) -> None:
    folder = tmp_path_factory.mktemp("m")
    save_file(TENSORS, folder / "model.safetensors")
    ranges = [(name, min(a, b), max(a, b)) for name, a, b in ranges]
    expected = torch.cat([torch.zeros(0).bfloat16(), *(TENSORS[n].flatten()[a:b] for n, a, b in ranges)])
    out = torch.empty_like(expected)
    with closing(open_weights(read_weight_files(LocalFiles(folder)), folder)) as source:
        source.read_bytes(ranges, byte_view(out))
    assert torch.equal(out, expected)


def test_adjacent_ranges_of_a_file_are_one_read(source: SafetensorsReader, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    whole = PositionalFile.read_into
    monkeypatch.setattr(
        PositionalFile, "read_into", lambda file, out, offset: reads.append(len(out)) or whole(file, out, offset)
    )
    names = [name for name in source.specs if name in ("half", "more")]
    ranges = [(name, 0, source.specs[name].numel) for name in names]
    source.read_bytes(ranges, byte_view(torch.empty(19, dtype=torch.bfloat16)))
    assert reads == [38]


def test_any_other_reader_is_read_range_by_range(source: SafetensorsReader) -> None:
    class Plain:
        name = "plain"
        specs = source.specs

        def read(self, tensor: str, start: int, stop: int, out: torch.Tensor) -> None:
            source.read(tensor, start, stop, out)

        def close(self) -> None: ...

    out = torch.empty(5, dtype=torch.bfloat16)
    byte_reader(Plain())([("half", 1, 3), ("half", 2, 2), ("more", 0, 3)], byte_view(out))
    assert out.tolist() == [1, 2, 0, 1, 2]


def test_reading_beyond_a_tensor_is_an_error(source: SafetensorsReader) -> None:
    with pytest.raises(IndexError, match="'half' has no elements 10:13"):
        source.read("half", 10, 13, torch.empty(3, dtype=torch.bfloat16))
    with pytest.raises(IndexError):
        source.read("half", -1, 1, torch.empty(2, dtype=torch.bfloat16))


def test_a_buffer_of_another_size_is_an_error(source: SafetensorsReader) -> None:
    with pytest.raises(ValueError, match="The ranges have 4 bytes, `out` has 10"):
        source.read("half", 0, 2, torch.empty(5, dtype=torch.bfloat16))
    with pytest.raises(ValueError, match="The ranges have 4 bytes, `out` has 2"):
        source.read("half", 0, 2, torch.empty(1, dtype=torch.bfloat16))


def test_many_threads_read_at_once(source: SafetensorsReader) -> None:
    def check(index: int) -> bool:
        start = index % 10
        out = torch.empty(2, dtype=torch.bfloat16)
        source.read("half", start, start + 2, out)
        return out.tolist() == [start, start + 1]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(check, range(500)))


def test_a_file_cut_short_after_it_was_opened_is_an_error(source: SafetensorsReader, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    os.truncate(path, path.stat().st_size - 20)
    last = list(source.specs)[-1]
    spec = source.specs[last]
    out = torch.empty(spec.numel, dtype=TENSORS[last].dtype)
    with pytest.raises(CheckpointError, match=r"'model.safetensors' of 'org/m' ends at byte \d+, but") as caught:
        source.read(last, 0, spec.numel, out)
    assert caught.value.model == "org/m"


def test_a_disk_that_cannot_be_read_is_an_error(source: SafetensorsReader, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(file: PositionalFile, out: memoryview, offset: int) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(PositionalFile, "read_into", fail)
    with pytest.raises(CheckpointError, match=r"Reading 'model.safetensors' of 'org/m' failed at byte .*Input/output"):
        source.read("half", 0, 1, torch.empty(1, dtype=torch.bfloat16))


def test_unchanged_files_pass(source: SafetensorsReader) -> None:
    source.check_unchanged()


def _rewrite(path: Path) -> None:
    path.write_bytes(path.read_bytes())


def _touch(path: Path) -> None:
    os.utime(path, ns=(1, 1))


def _replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.replace(path)


def _grow(path: Path) -> None:
    stamp = path.stat()
    with path.open("ab") as file:
        file.write(b"x")
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))


def _remove(path: Path) -> None:
    path.unlink()


@pytest.mark.skipif(os.name == "nt", reason="an open file cannot be replaced on Windows")
@pytest.mark.parametrize("change", [_rewrite, _touch, _replace, _grow, _remove])
def test_a_file_that_changes_is_noticed(source: SafetensorsReader, tmp_path: Path, change: object) -> None:
    os.utime(tmp_path / "model.safetensors", ns=(2, 2))
    with closing(open_weights(read_weight_files(LocalFiles(tmp_path, name="org/m")), tmp_path)) as opened:
        change(tmp_path / "model.safetensors")
        with pytest.raises(CheckpointError, match=r"'model.safetensors' of 'org/m' changed while it was being mixed"):
            opened.check_unchanged()


@pytest.mark.parametrize(("file", "save"), [("model.safetensors", save_file), ("pytorch_model.bin", torch.save)])
def test_files_other_than_those_that_were_checked_are_refused(tmp_path: Path, file: str, save: Any) -> None:
    save({"a": torch.zeros(2)}, tmp_path / file)
    weights = read_weight_files(LocalFiles(tmp_path, name="org/m"))
    save({"a": torch.zeros(3)}, tmp_path / file)
    with pytest.raises(CheckpointError, match=re.escape("not those that were checked: 'a' differs")):
        open_weights(weights, tmp_path)


def test_packed_tensors_can_be_seen_but_not_read(tmp_path: Path) -> None:
    from cocktail_hub.checkpoint.header import TensorSpec, render_header

    spec = TensorSpec((4,), "F4")
    (tmp_path / "model.safetensors").write_bytes(render_header({"q": spec}) + bytes(2))
    with closing(open_weights(read_weight_files(LocalFiles(tmp_path)), tmp_path)) as opened:
        assert opened.specs == {"q": spec}
        with pytest.raises(CheckpointError, match=r"'q' of .* has sub-byte elements"):
            opened.read("q", 0, 4, torch.empty(2, dtype=torch.uint8))


def test_closing_twice_is_harmless(source: SafetensorsReader) -> None:
    source.close()
    source.close()


def test_bytes_are_seen_through_a_tensor() -> None:
    tensor = torch.zeros(2, dtype=torch.bfloat16)
    source_module.byte_view(tensor)[:] = b"\x80\x3f\x00\x40"
    assert tensor.tolist() == [1.0, 2.0]

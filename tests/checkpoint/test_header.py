from __future__ import annotations

import json
import re
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save

from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.checkpoint.header import MAX_HEADER_BYTES, TensorSpec, parse_header, read_header, render_header
from cocktail_hub.errors import CheckpointError
from cocktail_hub.methods.dtypes import BITS

if TYPE_CHECKING:
    from pathlib import Path

    from cocktail_hub.checkpoint.header import Header


def entry(start: int, stop: int, *, dtype: Any = "U8", shape: Any = None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [stop - start] if shape is None else shape, "data_offsets": [start, stop]}


def parse(entries: object, data: int = 0, text: str | None = None) -> Header:
    raw = (json.dumps(entries) if text is None else text).encode()
    return parse_header(raw, size=8 + len(raw) + data, path="model.safetensors", model="org/m")


def read(folder: Path, content: bytes) -> Header:
    (folder / "model.safetensors").write_bytes(content)
    return read_header(LocalFiles(folder, name="org/m"), "model.safetensors")


def test_a_file_of_the_safetensors_library_is_read(tmp_path: Path) -> None:
    header = read(tmp_path, save({"b": torch.zeros(2, 3), "a": torch.zeros(5).bfloat16()}, {"format": "pt"}))
    assert header.metadata == {"format": "pt"}
    assert {name: slot.spec for name, slot in header.tensors.items()} == {
        "b": TensorSpec((2, 3), "F32"),
        "a": TensorSpec((5,), "BF16"),
    }
    assert header.tensors["b"].stop == header.tensors["a"].start
    assert header.tensors["a"].stop == (tmp_path / "model.safetensors").stat().st_size


def test_a_header_longer_than_one_read_is_read(tmp_path: Path) -> None:
    tensors = {f"layer.{i}.with.a.long.name": torch.zeros(1) for i in range(3000)}
    header = read(tmp_path, save(tensors))
    assert header.tensors.keys() == tensors.keys()


def test_tensors_come_in_the_order_of_the_data() -> None:
    header = parse({"late": entry(3, 5), "empty": entry(3, 3), "early": entry(0, 3)}, data=5)
    assert list(header.tensors) == ["early", "empty", "late"]


def test_a_file_without_tensors_is_valid() -> None:
    assert parse({"__metadata__": {"a": "b"}}).tensors == {}


@pytest.mark.parametrize(
    ("entries", "data", "message"),
    [
        ({"a": entry(0, 4)}, 3, "its tensors end at byte 72, but the file has 71 bytes: it is truncated"),
        ({"a": entry(0, 4)}, 5, "its tensors end at byte 72, but the file has 73 bytes"),
        ({"a": entry(0, 4), "b": entry(2, 6)}, 6, "before the previous tensor's end at"),
        ({"a": entry(0, 4), "b": entry(6, 8)}, 8, "before 'b', belong to no tensor"),
        ({"a": entry(1, 4)}, 4, "before 'a', belong to no tensor"),
        ({"a": entry(4, 0, shape=[4])}, 4, "'a' has the offsets [4, 0], which are not a range"),
        ({"a": entry(0, 4, shape=[5])}, 4, "'a' needs 5 bytes for U8 [5], but its offsets span [0, 4]"),
        ({"a": entry(0, 4, shape=[-4])}, 4, "'a' has the shape [-4], which is not a list of sizes"),
        ({"a": entry(0, 4, shape=[True, 4])}, 4, "which is not a list of sizes"),
        ({"a": entry(0, 4, shape=4)}, 4, "which is not a list of sizes"),
        ({"a": entry(0, 4, dtype="I9")}, 4, "'a' has the unknown dtype 'I9'"),
        ({"a": entry(0, 4, dtype=["F32"])}, 4, "'a' has the unknown dtype"),
        ({"a": entry(0, 4) | {"data_offsets": [0, 4.0]}}, 4, "which are not a range"),
        ({"a": entry(0, 4) | {"data_offsets": [0, 2, 4]}}, 4, "which are not a range"),
        ({"a": {"dtype": "U8", "shape": [4]}}, 4, "the entry of 'a' lacks dtype, shape or data_offsets"),
        ({"a": 7}, 0, "the entry of 'a' lacks"),
        ({"__metadata__": {"a": 1}}, 0, "its `__metadata__` is not a map of strings"),
        ([], 0, "it is not a JSON object"),
    ],
)
def test_a_damaged_header_is_refused_with_numbers(entries: object, data: int, message: str) -> None:
    with pytest.raises(CheckpointError, match=re.escape(message)) as caught:
        parse(entries, data)
    assert caught.value.model == "org/m"
    assert "'model.safetensors' of 'org/m' is not a readable safetensors file" in str(caught.value)


def test_a_duplicate_name_is_refused() -> None:
    one = json.dumps(entry(0, 1))
    with pytest.raises(CheckpointError, match="its header has 'a' twice"):
        parse(None, data=1, text=f'{{"a": {one}, "a": {one}}}')


@pytest.mark.parametrize("text", ["{", "", '{"a": NaN}', "[" * 100_000])
def test_text_that_is_not_json_is_refused(text: str) -> None:
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        parse(None, text=text)


def test_bytes_that_are_not_text_are_refused() -> None:
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        parse_header(b"\xff\xfe{}", size=12, path="x", model="m")


@pytest.mark.parametrize("length", [MAX_HEADER_BYTES + 1, 2**63, 2**64 - 1])
def test_a_huge_length_is_refused_before_anything_is_allocated(tmp_path: Path, length: int) -> None:
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=f"its header claims {length} bytes"):
        read(tmp_path, length.to_bytes(8, "little") + b"{}")
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_a_length_beyond_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="its header ends at byte 108, but the file has 10 bytes"):
        read(tmp_path, (100).to_bytes(8, "little") + b"{}")


def test_a_huge_shape_is_refused_before_anything_is_allocated() -> None:
    with pytest.raises(CheckpointError, match="needs 4000000000000000000000000 bytes"):
        parse({"a": entry(0, 4, dtype="F32", shape=[10**12, 10**12])}, data=4)


def test_headers_that_would_take_long_or_fill_the_screen_are_refused() -> None:
    entry = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    twice = "{" + ",".join(f'"a{number % 50_000}":{entry}' for number in range(100_000)) + "}"
    for text, words in (
        (twice, "its header has 'a0' twice"),
        (f'{{"{"x" * 2000}":{entry}}}', "a name in it has 2,000 characters, more than the limit 1,000"),
        ('{"a":{"dtype":"F32","shape":[' + ",".join("1" * 65) + '],"data_offsets":[0,4]}}', "which is not a list"),
        ('{"a":{"dtype":"F32","shape":[9999999999999999999],"data_offsets":[0,4]}}', "which is not a list of sizes"),
    ):
        with pytest.raises(CheckpointError, match=words):
            parse_header(text.encode(), size=100, path="model.safetensors", model="m")


@pytest.mark.parametrize("size", range(8))
def test_a_file_too_short_for_a_length_is_refused(tmp_path: Path, size: int) -> None:
    with pytest.raises(CheckpointError, match=f"it has {size} bytes, fewer than the 8"):
        read(tmp_path, bytes(size))


@given(cut=st.integers(min_value=0, max_value=200))
def test_a_file_cut_anywhere_is_refused(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    whole = save({"a": torch.arange(10), "b": torch.zeros(3)})
    folder = tmp_path_factory.mktemp("cut")
    if cut < len(whole):
        with pytest.raises(CheckpointError, match="not a readable safetensors file"):
            read(folder, whole[:cut])


names = st.text(min_size=1, max_size=12).filter(lambda name: name != "__metadata__")
specs = st.builds(
    TensorSpec,
    st.lists(st.integers(0, 5), max_size=3).map(tuple),
    st.sampled_from([dtype for dtype in sorted(BITS) if BITS[dtype] % 8 == 0]),
)


@given(st.dictionaries(names, specs, max_size=5), st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2))
def test_a_rendered_header_reads_back(tensors: dict[str, TensorSpec], metadata: dict[str, str]) -> None:
    rendered = render_header(tensors, metadata)
    length = int.from_bytes(rendered[:8], "little")
    assert length == len(rendered) - 8
    assert len(rendered) % 8 == 0
    size = len(rendered) + sum(spec.nbytes for spec in tensors.values())
    header = parse_header(rendered[8:], size=size, path="x", model="m")
    assert {name: slot.spec for name, slot in header.tensors.items()} == tensors
    assert header.metadata == metadata


def test_a_rendered_header_is_read_by_the_safetensors_library(tmp_path: Path) -> None:
    header = render_header({"ä": TensorSpec((2,), "F32"), "b": TensorSpec((), "I64")}, {"format": "pt"})
    (tmp_path / "x.safetensors").write_bytes(header + bytes(16))
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert sorted(file.keys()) == ["b", "ä"]
        assert file.metadata() == {"format": "pt"}


def test_a_spec_knows_its_size() -> None:
    spec = TensorSpec((3, 4), "BF16")
    assert (spec.numel, spec.nbytes) == (12, 24)


def test_a_scalar_has_one_element_and_an_empty_tensor_none() -> None:
    assert TensorSpec((), "F32").nbytes == 4
    assert TensorSpec((0, 7), "F32").nbytes == 0


def test_packed_elements_are_counted_in_bits() -> None:
    assert TensorSpec((3,), "F4").nbytes == 2
    assert TensorSpec((4,), "F6_E2M3").nbytes == 3


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(CheckpointError, match=re.escape("Unknown dtype 'F33'. Did you mean 'F32'?")):
        TensorSpec((1,), "F33")


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(CheckpointError, match=re.escape("[2, -1]")):
        TensorSpec((2, -1), "F32")

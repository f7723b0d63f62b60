from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file

from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.checkpoint.header import TensorSpec
from cocktail_hub.checkpoint.model_files import read_model_files
from cocktail_hub.checkpoint.weight_files import find_weights, read_weight_files
from cocktail_hub.errors import CheckpointError, SourceError

if TYPE_CHECKING:
    from pathlib import Path

    from cocktail_hub.checkpoint.weight_files import WeightFiles

ONE = {"a": torch.zeros(2)}
TWO = {"b": torch.zeros(3, dtype=torch.bfloat16)}


def headers_of(root: Path, folder: str = "", **options: str) -> WeightFiles:
    return read_weight_files(LocalFiles(root, name="org/m"), folder, **options)


def sharded(root: Path, weight_map: object = None) -> None:
    root.mkdir(exist_ok=True)
    save_file(ONE, root / "model-00001-of-00002.safetensors")
    save_file(TWO, root / "model-00002-of-00002.safetensors")
    places = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    index = {"metadata": {}, "weight_map": places if weight_map is None else weight_map}
    (root / "model.safetensors.index.json").write_text(json.dumps(index))


def test_a_single_file_is_read(tmp_path: Path) -> None:
    save_file(ONE | TWO, tmp_path / "model.safetensors")
    found = headers_of(tmp_path)
    assert (found.name, found.folder, found.format) == ("org/m", "", "safetensors")
    assert found.weight_files == ("model.safetensors",)
    assert found.specs == {"a": TensorSpec((2,), "F32"), "b": TensorSpec((3,), "BF16")}
    assert found.file_of == {"a": "model.safetensors", "b": "model.safetensors"}


def test_shards_are_read_through_their_index(tmp_path: Path) -> None:
    sharded(tmp_path)
    found = headers_of(tmp_path)
    assert found.weight_files == ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    assert list(found.specs) == ["a", "b"]
    assert found.file_of["b"] == "model-00002-of-00002.safetensors"


def test_a_folder_of_the_repository_has_its_own_weights(tmp_path: Path) -> None:
    sharded(tmp_path / "2_Dense")
    found = headers_of(tmp_path, "2_Dense")
    assert found.folder == "2_Dense"
    assert found.file_of["a"] == "2_Dense/model-00001-of-00002.safetensors"


def test_a_single_file_comes_before_shards_and_safetensors_before_pickles(tmp_path: Path) -> None:
    sharded(tmp_path)
    torch.save(ONE, tmp_path / "pytorch_model.bin")
    assert find_weights(LocalFiles(tmp_path)).format == "safetensors"
    save_file(ONE, tmp_path / "model.safetensors")
    assert find_weights(LocalFiles(tmp_path)).paths == ("model.safetensors",)


def test_other_formats_are_never_picked(tmp_path: Path) -> None:
    (tmp_path / "original").mkdir()
    save_file(ONE, tmp_path / "original" / "model.safetensors")
    for name in ("model.onnx", "model.gguf", "flax_model.msgpack", "model.fp16.safetensors"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(
        SourceError, match=re.escape("'org/m' has neither model.safetensors nor pytorch_model.bin")
    ) as e:
        headers_of(tmp_path)
    assert "it has flax_model.msgpack, model.fp16.safetensors, model.gguf, model.onnx." in str(e.value)


def test_a_folder_without_weights_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SourceError, match="it has no weight files"):
        headers_of(tmp_path)


def test_an_adapter_is_found_by_its_stem(tmp_path: Path) -> None:
    save_file(ONE, tmp_path / "adapter_model.safetensors")
    assert headers_of(tmp_path, stem="adapter_model").weight_files == ("adapter_model.safetensors",)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    sharded(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(SourceError, match=r"'org/m' lacks the shard 'model-00002-of-00002.safetensors'"):
        headers_of(tmp_path)


@pytest.mark.parametrize("shard", ["../secret.safetensors", "/etc/x.safetensors", "..\\x.safetensors"])
def test_an_index_cannot_leave_its_folder(tmp_path: Path, shard: str) -> None:
    sharded(tmp_path / "m", {"a": shard})
    save_file(ONE, tmp_path / "secret.safetensors")
    with pytest.raises(CheckpointError, match="outside of its folder"):
        headers_of(tmp_path / "m")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}', "[" * 100_000])
def test_a_damaged_index_is_refused(tmp_path: Path, text: str) -> None:
    sharded(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(CheckpointError, match="is not an index with a `weight_map` of tensors to files"):
        headers_of(tmp_path)


def test_an_empty_index_is_refused(tmp_path: Path) -> None:
    sharded(tmp_path, {})
    with pytest.raises(CheckpointError, match="names no tensor"):
        headers_of(tmp_path)


def test_a_tensor_that_only_the_index_names_is_not_there(tmp_path: Path) -> None:
    """Tools list a tied head that no shard holds; transformers looks at the shards alone."""
    first = "model-00001-of-00002.safetensors"
    sharded(tmp_path, {"a": first, "b": "model-00002-of-00002.safetensors", "lm_head.weight": first})
    assert headers_of(tmp_path).specs.keys() == {"a", "b"}


def test_of_a_tensor_in_two_shards_the_last_counts(tmp_path: Path) -> None:
    sharded(tmp_path)
    save_file(ONE | TWO, tmp_path / "model-00002-of-00002.safetensors")
    assert headers_of(tmp_path).file_of["a"] == "model-00002-of-00002.safetensors"


def test_two_shards_with_different_tensors_of_one_name_are_refused(tmp_path: Path) -> None:
    sharded(tmp_path)
    save_file({"a": torch.zeros(7)} | TWO, tmp_path / "model-00002-of-00002.safetensors")
    with pytest.raises(CheckpointError, match=r"'a' is another one in 'model-00001-of-00002.safetensors' than in"):
        headers_of(tmp_path)


def test_a_tensor_that_the_index_forgot_is_mixed_as_it_would_be_loaded(tmp_path: Path) -> None:
    sharded(tmp_path)
    save_file(TWO | {"c": torch.zeros(1)}, tmp_path / "model-00002-of-00002.safetensors")
    assert headers_of(tmp_path).specs.keys() == {"a", "b", "c"}


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_pointer_of_git_lfs_is_told_from_a_damaged_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 90868376\n")
    with pytest.raises(
        CheckpointError, match=rf"(?s)'{name}' of 'org/m' is a pointer of Git LFS, not the weights .*git lfs pull"
    ):
        headers_of(tmp_path)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"<html>not found</html>")
    with pytest.raises(CheckpointError, match=r"'model.safetensors' of 'org/m' is not a readable safetensors file"):
        headers_of(tmp_path)


@pytest.mark.parametrize("kind", ["safetensors", "pickle"])
def test_a_tensor_whose_name_no_file_could_hold_is_refused(tmp_path: Path, kind: str) -> None:
    if kind == "pickle":
        torch.save({"half \ud800": torch.zeros(2)}, tmp_path / "pytorch_model.bin")
    else:
        header = rb'{"half \ud800": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}'
        (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError) as caught:
        headers_of(tmp_path)
    assert str(caught.value) == (
        "The name 'half \\ud800' of a tensor of 'org/m' is not valid text.\nNo weight file could hold it.\n"
        "Download or save the model again."
    )


@pytest.mark.parametrize(
    "name", ["model.safetensors.index.json", "new.safetensors.index.json", "new.safetensors", "new.bin"]
)
def test_weights_that_the_config_names_come_before_the_standard_files(tmp_path: Path, name: str) -> None:
    sharded(tmp_path)
    save_file({"old": torch.zeros(1)}, tmp_path / "model.safetensors")
    save_file(ONE, tmp_path / "new.safetensors")
    torch.save(ONE, tmp_path / "new.bin")
    (tmp_path / "new.safetensors.index.json").write_text((tmp_path / "model.safetensors.index.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({"transformers_weights": name}))
    assert set(headers_of(tmp_path).specs) == ({"a", "b"} if name.endswith("json") else {"a"})
    needed = read_model_files(LocalFiles(tmp_path)).needed
    assert name in needed
    assert "model.safetensors" not in needed


@pytest.mark.parametrize("name", ["gone.safetensors", "../outside.safetensors", "/model.safetensors"])
def test_weights_that_the_config_names_must_be_in_its_folder(tmp_path: Path, name: str) -> None:
    save_file(ONE, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"transformers_weights": name}))
    words = rf"'config.json' of 'org/m' names the weights '{name}' \(`transformers_weights`\), which its folder lacks"
    with pytest.raises(CheckpointError, match=words):
        headers_of(tmp_path)


def test_empty_weights_are_refused(tmp_path: Path) -> None:
    save_file(
        {"a.weight": torch.zeros(0), "b.weight": torch.zeros(2), "mask": torch.zeros(0)}, tmp_path / "model.safetensors"
    )
    with pytest.raises(CheckpointError, match=r"1 of 3 tensors of 'org/m' are empty: 'a\.weight' has the shape \[0\]"):
        headers_of(tmp_path)

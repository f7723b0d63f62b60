import contextlib
import json
import os
import pickle
import random
import zipfile
from collections import OrderedDict

import models
import pytest
import torch

from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.checkpoint.header import TensorSpec
from cocktail_hub.checkpoint.pickled import READ_AHEAD, PickledReader, read_pickle_specs
from cocktail_hub.checkpoint.reader import open_weights
from cocktail_hub.checkpoint.weight_files import read_weight_files
from cocktail_hub.errors import CheckpointError, CocktailError, SourceError

FILE = "pytorch_model.bin"


class Counted(LocalFiles):
    """Local files that count what is fetched, as if each read were a request."""

    def __init__(self, root):
        super().__init__(root, name="org/model")
        self.requests, self.fetched = 0, 0

    def read_range(self, path, start, stop):
        self.requests += 1
        self.fetched += stop - start
        return super().read_range(path, start, stop)


def save(root, content, **kwargs):
    root.mkdir(exist_ok=True)
    torch.save(content, root / FILE, **kwargs)
    return Counted(root)


def opened(files):
    return PickledReader(files, [FILE])


def read_all(source, name, dtype):
    out = torch.empty(source.specs[name].numel, dtype=dtype)
    source.read(name, 0, len(out), out)
    return out.view(source.specs[name].shape)


@pytest.fixture(params=[True, False], ids=["zip", "before zip"])
def zipped(request):
    """Whether files are written as since torch 1.6, or as before."""
    return request.param


@pytest.fixture
def state():
    tied = torch.arange(12, dtype=torch.float32).reshape(4, 3)
    return OrderedDict(
        {
            "embed.weight": tied,
            "head.weight": tied,
            "transposed": tied.t(),
            "part": tied[1:3, 1:],
            "half": torch.nn.Parameter(torch.tensor([1.5, -2.0], dtype=torch.bfloat16)),
            "ids": torch.arange(5).expand((1, -1)),
            "scalar": torch.tensor(3.0, dtype=torch.float16),
            "empty": torch.empty(0, 4),
            "flags": torch.tensor([True, False, True]),
        }
    )


def test_specs_come_in_the_order_of_the_file(tmp_path, state, zipped):
    specs = read_pickle_specs(save(tmp_path, state, _use_new_zipfile_serialization=zipped), FILE)
    assert list(specs) == list(state)
    assert specs["transposed"] == TensorSpec((3, 4), "F32")
    assert specs["half"] == TensorSpec((2,), "BF16")
    assert specs["ids"] == TensorSpec((1, 5), "I64")
    assert specs["scalar"] == TensorSpec((), "F16")
    assert specs["empty"] == TensorSpec((0, 4), "F32")


@pytest.mark.parametrize(
    "name", ["embed.weight", "head.weight", "transposed", "part", "half", "ids", "scalar", "empty", "flags"]
)
def test_shared_strided_and_small_tensors_read_back_exactly(tmp_path, state, name, zipped):
    source = opened(save(tmp_path, state, _use_new_zipfile_serialization=zipped))
    assert torch.equal(read_all(source, name, state[name].dtype), state[name].detach())


@pytest.mark.parametrize("device", ["cuda:0", "cuda:7", "mps", "xpu:0", "npu:0", "hpu:0"])
def test_tensors_that_were_saved_from_any_device_are_read_to_the_cpu(tmp_path, state, device, zipped):
    with models.saved_from(device):
        files = save(tmp_path, state, _use_new_zipfile_serialization=zipped)
    assert device.encode() in (tmp_path / FILE).read_bytes()
    assert list(read_pickle_specs(files, FILE)) == list(state)
    source = opened(files)
    for name, tensor in state.items():
        assert torch.equal(read_all(source, name, tensor.dtype), tensor.detach())


def test_any_piece_of_a_transposed_tensor_is_in_row_major_order(tmp_path, state, zipped):
    source = opened(save(tmp_path, state, _use_new_zipfile_serialization=zipped))
    flat = state["transposed"].reshape(-1)
    for start in range(12):
        for stop in range(start, 13):
            out = torch.empty(stop - start)
            source.read("transposed", start, stop, out)
            assert torch.equal(out, flat[start:stop])


def test_a_header_costs_a_few_requests_however_large_the_tensors_are(tmp_path, zipped):
    state = {f"layer.{i}.weight": torch.zeros(300, 1000) for i in range(40)}
    files = save(tmp_path, state, _use_new_zipfile_serialization=zipped)
    assert len(read_pickle_specs(files, FILE)) == 40
    assert files.sizes[FILE] > 48_000_000
    assert files.requests == (2 if zipped else 1)
    assert files.fetched <= 2 * READ_AHEAD


def test_code_in_the_pickle_is_refused_and_never_run(tmp_path, zipped):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "pwned"),)

    state = {"weight": torch.ones(2), "extra": Attack()}
    files = save(tmp_path / "model", state, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"(?s)pickles `\S*mkdir`, which is more than tensors.*save_pretrained"):
        read_pickle_specs(files, FILE)
    assert not (tmp_path / "pwned").exists()


def test_a_truncated_file_is_damaged(tmp_path, zipped):
    files = save(tmp_path, {"weight": torch.ones(200)}, _use_new_zipfile_serialization=zipped)
    data = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(data[:-100])
    with pytest.raises(CheckpointError, match="damaged or incomplete"):
        read_pickle_specs(Counted(files.root), FILE)


def damaged(data: bytes, chance: random.Random) -> bytes:
    """The same with bytes changed, wiped out, taken away or put in."""
    damage = bytearray(data)
    kind = chance.randrange(4)
    for _ in range(chance.choice((1, 1, 2, 8))):
        at, count = chance.randrange(len(damage) or 1), chance.randrange(1, 100)
        if kind == 0:
            damage[at : at + 1] = chance.randbytes(1)
        elif kind == 1:
            damage[at : at + count] = bytes(count)
        else:
            damage[at : at + count * (kind == 2)] = chance.randbytes(count * (kind == 3))
    return bytes(damage)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.slow
def test_any_damage_is_refused_with_a_message(tmp_path, state, zipped):
    files = save(tmp_path, state, _use_new_zipfile_serialization=zipped)
    whole, weights = (tmp_path / FILE).read_bytes(), read_weight_files(files)
    for seed in range(500):
        (tmp_path / FILE).unlink()  # another file, rather than new content of one that may be mapped
        (tmp_path / FILE).write_bytes(damaged(whole, random.Random(seed)))
        with contextlib.suppress(CocktailError):
            read_pickle_specs(Counted(tmp_path), FILE)
        with contextlib.suppress(CocktailError), contextlib.closing(open_weights(weights, tmp_path)) as source:
            for name in weights.specs:
                read_all(source, name, state[name].dtype)


@pytest.mark.parametrize(
    ("at", "reason"),
    [(0, "Bad magic number for central directory"), (6, "zip file version 25.5"), (46, "'utf-8' codec can't decode")],
)
def test_a_damaged_zip_directory_is_called_damaged(tmp_path, at, reason):
    save(tmp_path, {"weight": torch.ones(2)})
    damage = bytearray((tmp_path / FILE).read_bytes())
    damage[damage.index(b"PK\x01\x02") + at] = 0xFF
    (tmp_path / FILE).write_bytes(damage)
    with pytest.raises(CheckpointError) as caught:
        read_pickle_specs(Counted(tmp_path), FILE)
    first, *others = str(caught.value).splitlines()
    assert first.startswith(f"'{FILE}' of 'org/model' is damaged or incomplete ({reason}")
    assert others == ["Its tensors cannot be found.", "Download it again."]


@pytest.mark.parametrize("protocol", [0, 1, 4, 5])
def test_another_pickle_protocol_is_named_and_refused(tmp_path, protocol):
    files = save(tmp_path, {"weight": torch.ones(2)}, pickle_protocol=protocol)
    with pytest.raises(CheckpointError) as caught:
        read_pickle_specs(files, FILE)
    assert str(caught.value) == (
        f"'{FILE}' of 'org/model' was saved with pickle protocol {protocol if protocol > 1 else '0 or 1'}.\n"
        "Only protocols 2 and 3 can be read without running code that may be in the file.\n"
        "Load it where you trust it and save it as safetensors: "
        "AutoModel.from_pretrained(model).save_pretrained(folder, safe_serialization=True)."
    )


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_pickle_protocol_3_is_read(tmp_path):
    source = opened(save(tmp_path, {"weight": torch.arange(3.0)}, pickle_protocol=3))
    assert read_all(source, "weight", torch.float32).tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("content", "held"),
    [
        ([torch.ones(2)], "a list"),
        ({"model": {"weight": torch.ones(2)}, "step": 3}, "a dict under 'model'"),
        ({"step": 3}, "a int under 'step'"),
        ({"w": torch.ones(2).to_sparse()}, "a Tensor under 'w'"),
        ({1: torch.ones(2)}, "a Tensor under 1"),
    ],
)
def test_anything_but_a_flat_state_dict_is_refused(tmp_path, content, held, zipped):
    with pytest.raises(CheckpointError, match=f"holds {held}; expected one mapping"):
        read_pickle_specs(save(tmp_path, content, _use_new_zipfile_serialization=zipped), FILE)


def test_an_ordinary_zip_file_is_no_checkpoint(tmp_path):
    with zipfile.ZipFile(tmp_path / FILE, "w") as archive:
        archive.writestr("model/readme.txt", "hello")
    with pytest.raises(CheckpointError, match="a zip file without tensors"):
        read_pickle_specs(Counted(tmp_path), FILE)


def test_a_dtype_that_no_mix_can_hold_is_named(tmp_path, zipped):
    files = save(tmp_path, {"w": torch.ones(2, dtype=torch.complex128)}, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="complex128"):
        read_pickle_specs(files, FILE)
    with pytest.raises(CheckpointError, match="complex128"):
        opened(files)


def test_a_file_that_changed_after_it_was_opened_is_refused(tmp_path):
    reader = opened(save(tmp_path, {"weight": torch.ones(2)}))
    torch.save({"weight": torch.ones(3)}, tmp_path / FILE)
    with pytest.raises(CheckpointError, match=f"'{FILE}' of 'org/model' changed while it was being mixed"):
        reader.check_unchanged()


def test_a_file_that_is_cut_short_is_an_error_and_kills_nothing(tmp_path, zipped):
    """Reading beyond the end of a mapped file would be a SIGBUS."""
    source = opened(save(tmp_path, {"weight": torch.ones(100_000)}, _use_new_zipfile_serialization=zipped))
    os.truncate(tmp_path / FILE, 5000)
    with pytest.raises(CheckpointError, match="changed while"):
        source.read("weight", 90_000, 100_000, torch.empty(10_000))


def test_a_missing_shard_is_a_source_error(tmp_path):
    reader = opened(save(tmp_path, {"weight": torch.ones(2)}))
    (tmp_path / FILE).unlink()
    with pytest.raises(SourceError, match=FILE):
        opened(Counted(tmp_path))
    with pytest.raises(CheckpointError, match="changed while"):
        reader.check_unchanged()


def test_a_pickle_that_is_too_large_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("cocktail_hub.checkpoint.pickled.MAX_PICKLE_BYTES", 10)
    files = save(tmp_path, {"weight": torch.ones(2)})
    with pytest.raises(CheckpointError, match="at most 10 are read"):
        read_pickle_specs(files, FILE)


def test_errors_survive_pickling(tmp_path):
    files = save(tmp_path, [1])
    with pytest.raises(CheckpointError) as caught:
        read_pickle_specs(files, FILE)
    assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args


def test_the_shards_of_a_bin_checkpoint_are_read_as_one(tmp_path):
    state = {"a": torch.ones(2), "b": torch.arange(6.0).reshape(2, 3).t()}
    torch.save({"a": state["a"]}, tmp_path / "pytorch_model-00001-of-00002.bin")
    torch.save({"b": state["b"]}, tmp_path / "pytorch_model-00002-of-00002.bin")
    weight_map = {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}
    (tmp_path / f"{FILE}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    weights = read_weight_files(LocalFiles(tmp_path))
    assert (weights.format, dict(weights.file_of)) == ("pickle", weight_map)
    with contextlib.closing(open_weights(weights, tmp_path)) as source:
        for name, tensor in state.items():
            assert torch.equal(read_all(source, name, torch.float32), tensor)


def test_a_lost_connection_is_not_taken_for_damage(tmp_path):
    class Offline(Counted):
        def read_range(self, path, start, stop):
            raise SourceError("no network")

    save(tmp_path, {"weight": torch.ones(2)})
    with pytest.raises(SourceError, match="no network"):
        read_pickle_specs(Offline(tmp_path), FILE)


@pytest.mark.parametrize("begin", [b"", b"\x80\x02", b"storages\x00ustar", b"\x89HDF"])
def test_a_file_that_torch_did_not_save_is_refused_with_the_fix(tmp_path, begin):
    (tmp_path / FILE).write_bytes(begin)
    with pytest.raises(CheckpointError, match=r"(?s)is not a file that `torch\.save` has written since.*safetensors"):
        read_pickle_specs(Counted(tmp_path), FILE)

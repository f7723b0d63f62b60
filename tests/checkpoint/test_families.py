"""Every row of docs/checkpoints.md: two checkpoints of a family, saved in different ways, mix into their mean."""

import json
import os

import pytest
import torch
from families import FAMILIES
from safetensors.torch import load_file, save_file

os.environ["HF_HUB_OFFLINE"] = "1"

from cocktail_hub.checkpoint.align import align
from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.checkpoint.layout import read_layout
from cocktail_hub.checkpoint.spec import torch_dtype

WAYS = ["as saved", "current names", "legacy names", "no prefix", "wrapped", "bin with tied copies"]


def save(model, root, way):
    """Save a model in one of the ways in which real checkpoints of it exist."""
    model.save_pretrained(root, save_original_format=way != "current names")
    state = load_file(root / "model.safetensors")
    if way == "legacy names":
        state = {name.replace("LayerNorm.weight", "LayerNorm.gamma"): t for name, t in state.items()}
        state = {name.replace("LayerNorm.bias", "LayerNorm.beta"): t for name, t in state.items()}
    if way == "no prefix":
        state = {name.removeprefix(f"{model.base_model_prefix}."): tensor for name, tensor in state.items()}
    if way == "wrapped":
        state = {f"module._orig_mod.{name}": tensor for name, tensor in state.items()}
    if way == "bin with tied copies":
        (root / "model.safetensors").unlink()
        tied = {name: state[source] for name, source in model.all_tied_weights_keys.items() if source in state}
        torch.save(state | tied, root / "pytorch_model.bin")
    else:
        save_file(state, root / "model.safetensors", metadata={"format": "pt"})


def views(*roots, **kwargs):
    layouts = [read_layout(LocalFiles(root, name=root.name)) for root in roots]
    configs = [json.loads((root / "config.json").read_text()) for root in roots]
    return align(layouts, configs, **kwargs)


def read(source, name):
    spec = source.specs[name]
    out = torch.empty(spec.numel, dtype=torch_dtype(spec.dtype))
    middle = spec.numel // 3
    source.read(name, 0, middle, out[:middle])
    source.read(name, middle, spec.numel, out[middle:])
    return out.view(spec.shape)


def mean(first, other, a, b):
    with first.open(a) as one, other.open(b) as two:
        return {name: (read(one, name) + read(two, name)) / 2 for name in first.specs}


CASES = [
    (family, way) for family in FAMILIES for way in WAYS if (family, way) != ("Qwen2-VL", "no prefix")
]  # transformers itself cannot tell text from vision there


@pytest.mark.parametrize(("family", "way"), CASES)
def test_two_checkpoints_mix_into_their_mean(family, way, tmp_path):
    a, b, mixed = (tmp_path / name for name in ("a", "b", "mixed"))
    models = []
    for seed, (root, how) in enumerate([(a, "as saved"), (b, way)]):
        torch.manual_seed(seed)
        models.append(FAMILIES[family]())
        save(models[-1], root, how)
    first, other = views(a, b)
    mixed.mkdir()
    (mixed / "config.json").write_bytes((a / "config.json").read_bytes())
    save_file(mean(first, other, a, b), mixed / "model.safetensors", metadata={"format": "pt"})
    loaded, info = type(models[0]).from_pretrained(mixed, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    expected = [model.state_dict() for model in models]
    for name, tensor in loaded.state_dict().items():
        torch.testing.assert_close(tensor, (expected[0][name] + expected[1][name]) / 2, rtol=0, atol=0)

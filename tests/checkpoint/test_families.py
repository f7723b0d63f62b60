"""Every row of docs/checkpoints.md: two checkpoints of a family, saved in different ways, mix into their mean."""

import pytest
import torch
from families import FAMILIES
from handling import read_all, views
from safetensors.torch import load_file, save_file

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


def mix(first, other, root, model_class):
    """Write the mean of two checkpoints under the first one's names, and load it as anyone would."""
    one, two = views(first, other)
    with one.open(first) as a, two.open(other) as b:
        states = read_all(a, 77), read_all(b)
    root.mkdir()
    (root / "config.json").write_bytes((first / "config.json").read_bytes())
    mean = {name: (tensor + states[1][name]) / 2 for name, tensor in states[0].items()}
    save_file(mean, root / "model.safetensors", metadata={"format": "pt"})
    return model_class.from_pretrained(root, output_loading_info=True)


CASES = [
    (family, way) for family in FAMILIES for way in WAYS if (family, way) != ("Qwen2-VL", "no prefix")
]  # transformers itself cannot tell text from vision there


@pytest.mark.parametrize(("family", "way"), CASES)
def test_two_checkpoints_mix_into_their_mean(family, way, tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    models = []
    for seed, (root, how) in enumerate([(a, "as saved"), (b, way)]):
        torch.manual_seed(seed)
        models.append(FAMILIES[family]())
        save(models[-1], root, how)
    states = [model.state_dict() for model in models]
    for first, other in ((a, b), (b, a)):
        loaded, info = mix(first, other, tmp_path / f"{first.name} first", type(models[0]))
        assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
        for name, tensor in loaded.state_dict().items():
            assert torch.equal(tensor, (states[0][name] + states[1][name]) / 2), name

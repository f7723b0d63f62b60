"""The rows of docs/checkpoints.md: two checkpoints of a family, saved in different ways, mix into their mean."""

from contextlib import closing

import pytest
import torch
from checkpoint_helpers import mappings, read_all
from model_zoo import FAMILIES, MORE_FAMILIES
from safetensors.torch import load_file, save_file

WAYS = ["as saved", "current names", "legacy names", "no prefix", "wrapped", "bin with tied copies"]
SEVERAL_WAYS = ["current names, wrapped, bin with tied copies", "no prefix, legacy names"]
NEEDS_PREFIX = {"Qwen2-VL", "Qwen2.5-VL"}
"""Families in which transformers itself cannot tell text from vision without a prefix."""
LEGACY = {
    "LayerNorm.weight": "LayerNorm.gamma",
    "LayerNorm.bias": "LayerNorm.beta",
    "parametrizations.weight.original0": "weight_g",
    "parametrizations.weight.original1": "weight_v",
}
"""Part of a name -> what older versions of transformers and torch called it."""


def save(model, root, way):
    """Save a model in one of the ways in which real checkpoints of it exist; a way may name several."""
    model.save_pretrained(root, save_original_format="current names" not in way)
    state = load_file(root / "model.safetensors")
    if "no prefix" in way:
        state = {name.removeprefix(f"{model.base_model_prefix}."): tensor for name, tensor in state.items()}
    if "tied copies" in way:
        state |= {name: state[source] for name, source in model.all_tied_weights_keys.items() if source in state}
    for new, old in LEGACY.items() if "legacy names" in way else ():
        state = {name.replace(new, old): tensor for name, tensor in state.items()}
    if "wrapped" in way:
        state = {f"module._orig_mod.{name}": tensor for name, tensor in state.items()}
    if "bin" in way:
        (root / "model.safetensors").unlink()
        torch.save(state, root / "pytorch_model.bin")
    else:
        save_file(state, root / "model.safetensors", metadata={"format": "pt"})


def mix(first, other, root, model_class):
    """Write the mean of two checkpoints under the first one's names, and load it as anyone would."""
    one, two = mappings(first, other)
    with closing(one.open(first)) as a, closing(two.open(other)) as b:
        states = read_all(a, 77), read_all(b)
    root.mkdir()
    (root / "config.json").write_bytes((first / "config.json").read_bytes())
    mean = {n: t if n in two.absent else (t + states[1][n]) / 2 for n, t in states[0].items()}
    save_file(mean, root / "model.safetensors", metadata={"format": "pt"})
    return model_class.from_pretrained(root, output_loading_info=True)


def made(make, seed):
    """A random model without two tensors that are the same."""
    torch.manual_seed(seed)
    model = make()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def assert_mean(make, way, folder):
    """Mix a model as saved today with one that was saved in another way, both ways round."""
    roots, models = (folder / "a", folder / "b"), [made(make, seed) for seed in range(2)]
    for root, model, how in zip(roots, models, ("as saved", way), strict=True):
        save(model, root, how)
    states = [model.state_dict() for model in models]
    for first, other in (roots, roots[::-1]):
        loaded, info = mix(first, other, folder / f"{first.name} first", type(models[0]))
        assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
        for name, tensor in loaded.state_dict().items():
            mean = (states[0][name] + states[1][name]) / 2
            assert torch.equal(tensor, mean.to(tensor.dtype)), name


@pytest.mark.whole
@pytest.mark.parametrize(
    ("family", "way"), [(f, w) for f in FAMILIES for w in WAYS if f not in NEEDS_PREFIX or w != "no prefix"]
)
def test_two_checkpoints_mix_into_their_mean(family, way, tmp_path):
    assert_mean(FAMILIES[family], way, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("way", SEVERAL_WAYS)
@pytest.mark.parametrize("family", MORE_FAMILIES)
def test_several_differences_at_once_mix_into_the_mean(family, way, tmp_path):
    if family in NEEDS_PREFIX:
        way = way.replace("no prefix, ", "")
    assert_mean(MORE_FAMILIES[family], way, tmp_path)

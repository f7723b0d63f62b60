import json

import peft
import pytest
import torch
import transformers as hf
from adapter_helpers import adapted_weights, gpt2, saved_adapter
from safetensors.torch import load_file, save_file

from cocktail_hub.errors import CheckpointError

pytestmark = [
    pytest.mark.whole,
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning"),  # what peft says as it saves
]


def test_the_flag_of_peft_does_not_say_how_square_matrices_are_stored(tmp_path):
    """PEFT writes it as the last module has it, and the head is no `Conv1D`."""
    saved_adapter(tmp_path, gpt2, target_modules=["attn.c_proj", "lm_head"])
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["fan_in_fan_out"] is False
    changes = adapted_weights(tmp_path / "base", tmp_path / "adapter").changes
    assert {name: change.transposed for name, change in changes.items()} == {
        "transformer.h.0.attn.c_proj.weight": True,
        "transformer.h.1.attn.c_proj.weight": True,
        "lm_head.weight": False,
    }


def test_a_base_without_a_sign_of_turned_matrices_is_not_built_to_ask(tmp_path, monkeypatch):
    """That takes seconds, for nearly every adapter there is."""
    root = saved_adapter(tmp_path, target_modules=["q_proj"])
    monkeypatch.setattr("cocktail_hub.checkpoint.adapters.targets.AdapterTargets.is_transposed", pytest.fail)
    changes = adapted_weights(tmp_path / "base", root).changes
    shapes = {adapted_weights(tmp_path / "base", root).specs[name].shape for name in changes}
    assert shapes == {(16, 16)}


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_C.weight", (2, 2), "lora_C"),
        ("base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight", (2, 16), "its other factor is missing"),
        ("model.layers.0.self_attn.k_proj.weight", (8, 16), "PEFT's names begin with 'base_model.model.'"),
        ("base_model.model.model.layers.0.self_attn.k_proj.lora_magnitude_vector", (8,), "belongs to no product"),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight", (9, 2), "its product is 9 x 16"),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight", (16, 3), "the rank is 2"),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector", (3,), "has 16 outputs"),
    ],
)
def test_every_tensor_of_an_adapter_must_have_a_place(tmp_path, key, value, words):
    root = saved_adapter(tmp_path)
    state = load_file(root / "adapter_model.safetensors") | {key: torch.zeros(value)}
    save_file(state, root / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=words):
        adapted_weights(tmp_path / "base", root)


@pytest.mark.parametrize(
    ("target", "module"),
    [("q_proj", "model.layers.0.self_attn.q_proj"), ("embed_tokens", "model.embed_tokens")],
)
def test_a_dora_without_a_magnitude_is_refused_and_not_read_as_a_lora(tmp_path, target, module):
    root = saved_adapter(tmp_path, target_modules=[target], use_dora=True)
    file = root / "adapter_model.safetensors"
    state = load_file(file)
    missing = f"base_model.model.{module}.lora_magnitude_vector"
    save_file({name: tensor for name, tensor in state.items() if name != missing}, file)
    assert missing in state
    with pytest.raises(CheckpointError) as caught:
        adapted_weights(tmp_path / "base", root)
    assert str(caught.value) == (
        f"The adapter '{root}' is a DoRA (`use_dora`), but lacks the tensor '{missing}'.\n"
        "Read as a plain LoRA, the module would not be what was trained.\n"
        "Download or save the adapter again with PEFT's `save_pretrained`."
    )


@pytest.mark.parametrize(
    ("dtype", "shown"), [(torch.float8_e4m3fn, "F8_E4M3"), (torch.float8_e5m2, "F8_E5M2"), (torch.int8, "I8")]
)
@pytest.mark.parametrize("part", ["lora_A", "lora_B"])
def test_factors_of_other_types_are_refused_before_anything_is_read(tmp_path, dtype, shown, part):
    root = saved_adapter(tmp_path)
    file = root / "adapter_model.safetensors"
    key = f"base_model.model.model.layers.0.self_attn.q_proj.{part}.weight"
    state = load_file(file)
    save_file(state | {key: state[key].to(dtype)}, file)
    with pytest.raises(CheckpointError) as caught:
        adapted_weights(tmp_path / "base", root)
    assert str(caught.value) == (
        f"The adapter '{root}' stores '{key}' as {shown}; supported are BF16, F16, F32, F64.\n"
        "8-bit types are too coarse to be added to a base, and integers and flags cannot be averaged.\n"
        "Use the adapter as it was trained, or load it with PEFT and save it again as float32."
    )


def grouped():
    config = hf.ResNetConfig(
        num_channels=4, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=2
    )
    model = hf.ResNetForImageClassification(config)
    model.resnet.embedder.embedder.convolution = torch.nn.Conv2d(4, 8, 3, groups=2, bias=False)
    return model


@pytest.mark.parametrize("rank", [2, 4])
def test_convolutions_in_groups_are_refused_without_sending_people_to_peft(tmp_path, rank):
    model = grouped()
    model.save_pretrained(tmp_path / "base")
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=rank, target_modules=["embedder.embedder.convolution"]))
    with pytest.raises(NotImplementedError, match="Merging is not supported for _ConvNd layers with groups"):
        adapted.merge_and_unload()
    adapted.save_pretrained(tmp_path / "adapter")
    module = "resnet.embedder.embedder.convolution"
    with pytest.raises(CheckpointError) as caught:
        adapted_weights(tmp_path / "base", tmp_path / "adapter")
    assert str(caught.value) == (
        f"The adapter '{tmp_path / 'adapter'}' changes '{module}', a convolution in 2 groups.\n"
        "That change is not a product of two matrices that could be added to the base; PEFT cannot merge it either.\n"
        f"Train the adapter without '{module}' (`exclude_modules`), or fine-tune the whole model and mix that."
    )


def test_layers_that_an_adapter_leaves_out_are_named(tmp_path):
    root = saved_adapter(tmp_path, target_modules=["q_proj", "v_proj"])
    assert adapted_weights(tmp_path / "base", root).notes == []
    file = root / "adapter_model.safetensors"
    save_file({name: tensor for name, tensor in load_file(file).items() if ".layers.1." not in name}, file)
    (note,) = adapted_weights(tmp_path / "base", root).notes
    assert note == (
        f"'{root}' leaves 2 tensor(s) of layer(s) 1 as in its base, and changes the same ones of other layers "
        "(e.g. 'model.layers.1.self_attn.q_proj.weight')."
    )


def test_an_adapter_without_tensors_is_refused(tmp_path):
    root = saved_adapter(tmp_path)
    save_file({}, root / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="has no tensors"):
        adapted_weights(tmp_path / "base", root)

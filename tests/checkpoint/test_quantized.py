import json
import re

import pytest

from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.checkpoint.header import TensorSpec
from cocktail_hub.checkpoint.quantized import refuse_quantized
from cocktail_hub.errors import CheckpointError

PLAIN = {"model.layers.0.mlp.up_proj.weight": TensorSpec((4, 4), "BF16")}


@pytest.fixture
def files(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    return LocalFiles(tmp_path, name="org/model")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "gptq (4 bits): `quantization_config`"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "awq (4 bits)"),
        ({"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}, "with fp8:"),
        ({"quantization_config": {"quant_method": "mxfp4"}}, "with mxfp4:"),
        ({"quantization_config": {"quant_method": "no-one-knows-it"}}, "with no-one-knows-it:"),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "bitsandbytes (4 bits)"),
        ({"quantization_config": {"load_in_8bit": True}}, "with bitsandbytes:"),
        ({"quantization_config": {"group_size": 128}}, "with an unnamed method:"),
        ({"text_config": {"quantization_config": {"quant_method": "hqq"}}}, "hqq: `text_config.quantization_config`"),
        ({"quantization": {"group_size": 64, "bits": 4}}, "MLX (4 bits): `quantization`"),
        ({"quantization": {"quant_algo": "NVFP4"}}, "with NVFP4:"),
        ({"compression_config": {"quant_method": "compressed-tensors"}}, "compressed-tensors"),
    ],
)
def test_a_config_that_says_quantised_is_refused_by_method(files, config, words):
    with pytest.raises(CheckpointError, match=re.escape(words)) as caught:
        refuse_quantized(files, "", config)
    assert "Mix the unquantised model" in str(caught.value)
    assert caught.value.model == "org/model"


def test_the_unquantised_base_is_suggested_where_the_config_names_it(files):
    config = {"quantization_config": {"quant_method": "gptq"}, "_name_or_path": "meta-llama/Llama-2-7b-hf"}
    with pytest.raises(CheckpointError, match="Mix 'meta-llama/Llama-2-7b-hf' instead"):
        refuse_quantized(files, "", config)


@pytest.mark.parametrize("name", ["/home/me/model", "TheBloke/Llama-2-7B-GPTQ", "x", None])
def test_a_path_or_a_quantised_name_is_not_suggested(files, name):
    with pytest.raises(CheckpointError, match="the unquantised model that it was made from"):
        refuse_quantized(files, "", {"quantization_config": {"quant_method": "gptq"}, "_name_or_path": name})


@pytest.mark.parametrize(
    ("side_file", "content", "method"),
    [
        ("quantize_config.json", {"bits": 4}, "GPTQ"),
        ("quant_config.json", {"w_bit": 4}, "AWQ"),
        ("hf_quant_config.json", {"quantization": {}}, "ModelOpt"),
        ("quanto_qmap.json", {}, "quanto"),
        ("quantize_config.json", {"quant_method": "awq"}, "awq"),
    ],
)
def test_old_side_files_are_recognised(tmp_path, side_file, content, method):
    (tmp_path / side_file).write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=f"quantised with {method}: it has a '{side_file}'"):
        refuse_quantized(LocalFiles(tmp_path, name="m"), "", {})


@pytest.mark.parametrize(
    ("name", "dtype", "method"),
    [
        ("model.layers.0.q_proj.qweight", "I32", "GPTQ or AWQ"),
        ("model.layers.0.q_proj.weight_packed", "I32", "compressed-tensors"),
        ("model.layers.0.q_proj.weight", "F8_E4M3", "FP8"),
        ("model.layers.0.q_proj.weight", "I8", "integers"),
        ("model.layers.0.q_proj.weight.absmax", "U8", "bitsandbytes"),
        ("model.layers.0.q_proj.SCB", "F32", "bitsandbytes"),
        ("model.layers.0.mlp.experts.gate_up_proj_blocks", "U8", "MXFP4"),
        ("model.layers.0.q_proj.weight:qdata", "I8", "torchao"),
        ("model.layers.0.q_proj.codes", "I8", "AQLM"),
        ("model.layers.0.q_proj.W_q", "U8", "HQQ"),
        ("model.layers.0.q_proj.weight._data", "I8", "quanto"),
        ("x.weight", "F4", "F4 floats"),
    ],
)
def test_packed_tensors_are_recognised_without_any_config(files, name, dtype, method):
    with pytest.raises(CheckpointError, match=f"quantised with {method}: "):
        refuse_quantized(files, "", {}, {**PLAIN, name: TensorSpec((4, 4), dtype)})


@pytest.mark.parametrize(
    ("beside", "method"), [("scales", "MLX"), ("SCB", "bitsandbytes"), ("weight_scale", "integers")]
)
def test_integer_weights_are_named_by_what_lies_beside_them(files, beside, method):
    specs = {"q_proj.weight": TensorSpec((4, 4), "U32"), f"q_proj.{beside}": TensorSpec((4,), "F16")}
    with pytest.raises(CheckpointError, match=f"quantised with {method}"):
        refuse_quantized(files, "", {}, specs)


@pytest.mark.parametrize("scale", ["weight_scale", "weight_scale_inv", "scale_weight", "input_scale"])
def test_scales_beside_floats_tell_that_they_were_unpacked(files, scale):
    specs = {f"q_proj.{scale}": TensorSpec((1,), "F32"), "q_proj.weight": TensorSpec((4, 4), "BF16")}
    with pytest.raises(CheckpointError, match=f"with scales beside its weights: it has a tensor 'q_proj.{scale}'"):
        refuse_quantized(files, "", {}, specs)


def test_an_entry_without_packed_tensors_says_to_remove_it(files):
    config = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    with pytest.raises(CheckpointError, match="but its tensors are not packed"):
        refuse_quantized(files, "", config, PLAIN)


@pytest.mark.parametrize(
    "specs",
    [
        PLAIN,
        {"embeddings.position_ids": TensorSpec((1, 512), "I64")},
        {"bn.num_batches_tracked": TensorSpec((), "I64")},
        {"attn.relative_position_index": TensorSpec((49,), "I32")},
        {"attn.mask": TensorSpec((1, 4), "U8")},
        {"attn.bias": TensorSpec((1, 4), "BOOL")},
        {"head.input_scale": TensorSpec((1,), "F32")},
        {"conv.weight_scale": TensorSpec((1,), "F32")},
        {"quantizer.codebook.embed": TensorSpec((4, 4), "F32")},
    ],
)
def test_integer_buffers_and_odd_names_are_no_quantisation(files, specs):
    refuse_quantized(files, "", {"quantization_config": None, "model_type": "bert"}, {**PLAIN, **specs})

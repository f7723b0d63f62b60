"""Train tiny PEFT adapters on tiny random bases."""

import json
import warnings

import peft
import torch
import transformers as hf
from safetensors.torch import save_file

from cocktail_hub.checkpoint.adapters.lora import adapt, read_adapter
from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.checkpoint.weight_files import read_weight_files


def llama(**extra):
    config = hf.LlamaConfig(
        vocab_size=48,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        **extra,
    )
    return hf.LlamaForCausalLM(config)


def gpt2(**extra):
    config = hf.GPT2Config(
        vocab_size=32, n_embd=16, n_layer=2, n_head=2, n_positions=16, tie_word_embeddings=False, **extra
    )
    return hf.GPT2LMHeadModel(config)


def vit():
    config = hf.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, image_size=8, patch_size=4
    )
    return hf.ViTForImageClassification(config)


def train(model, adapter_root, base_root, **config):
    """Save a base, unless it is there, and an adapter with random weights; return what PEFT merges them into."""
    if not base_root.exists():
        model.save_pretrained(base_root)
    adapted = peft.get_peft_model(model, peft.LoraConfig(**config))
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    adapted.peft_config["default"].base_model_name_or_path = str(base_root)
    adapted.save_pretrained(adapter_root)
    return adapted.merge_and_unload(safe_merge=True)


def loaded(auto, base, adapter):
    """The weights of a base with an adapter, as PEFT merges them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.PeftModel.from_pretrained(auto.from_pretrained(base, dtype=torch.float32), adapter)
        return model.merge_and_unload().state_dict()


def adapted_weights(base_root, adapter_root):
    config = json.loads((base_root / "config.json").read_text())
    return adapt(read_weight_files(LocalFiles(base_root, name="base")), config, read_adapter(LocalFiles(adapter_root)))


def load(model_class, config, state, root):
    root.mkdir()
    save_file(state, root / "model.safetensors", metadata={"format": "pt"})
    (root / "config.json").write_text(json.dumps(dict(config)))
    loaded, info = model_class.from_pretrained(root, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return loaded


def saved_adapter(tmp_path, make=llama, **config):
    train(make(), tmp_path / "adapter", tmp_path / "base", **{"r": 2, "target_modules": ["q_proj"]} | config)
    return tmp_path / "adapter"


def rewrite(root, **changes):
    path = root / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))

"""Save tiny checkpoints and read them back through mappings."""

import json
from contextlib import closing

import torch
import transformers as hf
from model_zoo import FAMILIES
from safetensors.torch import load_file, save_file

from cocktail_hub.checkpoint.conversion.align import align
from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.checkpoint.weight_files import read_weight_files
from cocktail_hub.methods.dtypes import torch_dtype


def write(root, state, config):
    root.mkdir()
    save_file(state, root / "model.safetensors", metadata={"format": "pt"})
    (root / "config.json").write_text(json.dumps(config))
    return root


def saved(model, root):
    model.save_pretrained(root)
    return root


def state_of(root):
    return load_file(root / "model.safetensors")


def config_of(root):
    return json.loads((root / "config.json").read_text())


def mappings(*roots, **kwargs):
    weights = [read_weight_files(LocalFiles(root, name=root.name)) for root in roots]
    return align(weights, [config_of(root) for root in roots], **kwargs)


def read_all(source, piece=None):
    """Every tensor of a source, in pieces of so many elements."""
    found = {}
    for name, spec in source.specs.items():
        flat = torch.empty(spec.numel, dtype=torch_dtype(spec.dtype))
        step = piece or max(1, spec.numel)
        for start in range(0, spec.numel, step):
            stop = min(start + step, spec.numel)
            source.read(name, start, stop, flat[start:stop])
        found[name] = flat.reshape(spec.shape)
    return found


def read(mapping, root):
    with closing(mapping.open(root)) as source:
        return read_all(source)


def both_ways(family, tmp_path):
    """The same model saved with a tensor per expert, and with all experts in one."""
    torch.manual_seed(0)
    model = FAMILIES[family]()
    parts, fused = tmp_path / "parts", tmp_path / "fused"
    model.save_pretrained(parts)
    model.save_pretrained(fused, save_original_format=False)
    return parts, fused


def tied_pair(tmp_path, *, head):
    """A Llama that ties its embeddings, and one that has a head of its own as well."""
    extra = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    config = hf.LlamaConfig(
        **extra, num_attention_heads=2, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, pad_token_id=0
    )
    tied = saved(hf.LlamaForCausalLM(config), tmp_path / "tied")
    state = state_of(tied)
    state["lm_head.weight"] = head(state["model.embed_tokens.weight"])
    return tied, write(tmp_path / "both", state, config_of(tied))

"""Save tiny checkpoints and read them back through views."""

import json
from contextlib import closing

import torch
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


def views(*roots, **kwargs):
    layouts = [read_weight_files(LocalFiles(root, name=root.name)) for root in roots]
    return align(layouts, [config_of(root) for root in roots], **kwargs)


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


def read(view, root):
    with closing(view.open(root)) as source:
        return read_all(source)

"""Runs in an environment with mergekit and PEFT: makes their mixes of given tensors, for `parity_methods.py`."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import torch
from mergekit.merge_methods.api import merge_state_dicts
from safetensors.torch import load_file, save_file


def mergekit(job: dict) -> dict[str, torch.Tensor]:
    """Mix the state dicts of some folders, the base first where there is one."""
    models = {name: load_file(Path(name) / "model.safetensors") for name in job["models"]}
    floats = {n: {k: v for k, v in each.items() if v.is_floating_point()} for n, each in models.items()}
    base = job["models"][0] if job["based"] else None
    torch.manual_seed(0)  # of those that draw
    with torch.no_grad():
        return merge_state_dicts(floats, job["method"], parameters=job["parameters"], base=base)


def peft(job: dict) -> dict[str, torch.Tensor]:
    """Combine two adapters; return what the result adds to each module."""
    import peft
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(job["base"], dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(model, job["adapters"][0], "a")
    model.load_adapter(job["adapters"][1], "b")
    model.add_weighted_adapter(["a", "b"], job["weights"], "c", **job["parameters"])
    return {
        f"{name.removeprefix('base_model.model.')}.weight": module.get_delta_weight("c").detach()
        for name, module in model.named_modules()
        if "c" in getattr(module, "lora_A", {})
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for number, job in enumerate(json.loads(Path(sys.argv[1]).read_text())):
        found = (mergekit if job["tool"] == "mergekit" else peft)(job)
        save_file({k: v.contiguous() for k, v in found.items()}, Path(sys.argv[1]).with_name(f"{number}.safetensors"))

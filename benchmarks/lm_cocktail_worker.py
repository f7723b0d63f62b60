"""Runs the original LM_Cocktail, in an environment of its own: `python lm_cocktail_worker.py JOBS.json RESULTS.json`.

Knows nothing of cocktail_hub. A job is one call of the original's API, or one step of making real models to mix.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.metadata
import importlib.util
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

SENTENCES = {
    "news": (
        "Shares in the airline fell four percent on Monday after it warned that fuel would cost more this winter.",
        "The minister said that the bridge, closed since the flood, will open to traffic again in the spring.",
        "Scientists found water ice in a crater near the pole of the moon, the space agency reported on Friday.",
        "The home side won two to one with a goal in the last minute, and climbed to third place in the table.",
    ),
    "answers": (
        "Question: What is the capital of France? Answer: Paris",
        "Question: How many legs does a spider have? Answer: eight",
        "Question: Who wrote Hamlet? Answer: William Shakespeare",
        "Question: What is the boiling point of water in degrees Celsius? Answer: 100",
    ),
}
"""What the two fine-tunes of the language model are trained on."""
STEPS = 4
RATE = 2e-5


def main(jobs_path: str, results_path: str) -> None:
    torch.manual_seed(0)
    results = {}
    for job in json.loads(Path(jobs_path).read_text()):
        started = time.monotonic()
        try:
            with contextlib.redirect_stdout(sys.stderr):
                result = ACTIONS[job["action"]](job)
        except Exception as error:  # noqa: BLE001 - what the original raises is the finding
            result = {
                "losses": [],
                "error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            }
        results[job["name"]] = result | {"seconds": round(time.monotonic() - started, 1)}
        sys.stderr.write(f"{job['name']}: {results[job['name']]}\n")
        gc.collect()
    Path(results_path).write_text(json.dumps(results, indent=1))


def call(job: dict[str, Any]) -> dict[str, Any]:
    """Call a function of the original; keep the weights of what it returns, and the losses that it computes."""
    import LM_Cocktail
    from LM_Cocktail import utils

    utils.gc = SimpleNamespace(collect=lambda: 0)  # by layers it collects after every tensor: hours for nothing
    losses: list[float] = []
    for name in ("llm_loss", "embedder_loss", "seq2seq_loss"):
        if hasattr(utils, name):
            setattr(utils, name, _recorded(getattr(utils, name), losses))
    model = getattr(LM_Cocktail, job["function"])(**job["arguments"])
    if job.get("state"):
        from safetensors.torch import save_file

        save_file({k: v.detach().cpu().clone().contiguous() for k, v in model.state_dict().items()}, job["state"])
    return {"losses": losses, "dtype": str(model.dtype).removeprefix("torch.")}


def _recorded(function: Any, losses: list[float]) -> Any:
    original = getattr(function, "original", function)

    def recorded(**arguments: Any) -> float:
        losses.append(original(**arguments))
        return losses[-1]

    recorded.original = original  # type: ignore[attr-defined]
    return recorded


def versions(_: dict[str, Any]) -> dict[str, Any]:
    import LM_Cocktail

    names = ("torch", "transformers", "sentence-transformers", "accelerate")
    found = {name: importlib.metadata.version(name) for name in names}
    return {"versions": found, "from": str(Path(LM_Cocktail.__file__).parent)}


def locate(job: dict[str, Any]) -> dict[str, Any]:
    """Where a package keeps its files. The package itself is not run."""
    spec = importlib.util.find_spec(job["package"])
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(job["package"])
    return {"folder": str(Path(next(iter(spec.submodule_search_locations)), *job["inside"]))}


def convert_gguf(job: dict[str, Any]) -> dict[str, Any]:
    """Write a GGUF file as an ordinary float32 checkpoint."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    target = Path(job["target"])
    if not (target / "model.safetensors").is_file():
        source = Path(job["source"])
        found = {"gguf_file": source.name}
        tokenizer = AutoTokenizer.from_pretrained(source.parent, **found)
        dequantized = GgufConfig(dequantize=True)
        model = AutoModelForCausalLM.from_pretrained(
            source.parent, dtype=torch.float32, quantization_config=dequantized, **found
        )
        if getattr(model.config, "quantization_config", None) is not None:
            del model.config.quantization_config
        tokenizer.save_pretrained(target)
        model.save_pretrained(target)
    return {"folder": str(target)}


def tune(job: dict[str, Any]) -> dict[str, Any]:
    """A short fine-tune of a causal language model: a few steps on a few sentences."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    target = Path(job["target"])
    if (target / "model.safetensors").is_file():
        return {"folder": str(target)}
    tokenizer = AutoTokenizer.from_pretrained(job["source"])
    model = AutoModelForCausalLM.from_pretrained(job["source"], dtype=torch.float32).train()
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    batch = tokenizer(list(SENTENCES[job["text"]]), padding=True, return_tensors="pt")
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    losses = []
    for _ in range(STEPS):
        loss = model(**batch, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(round(loss.item(), 4))
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    return {"folder": str(target), "training_losses": losses}


ACTIONS = {"call": call, "versions": versions, "locate": locate, "convert_gguf": convert_gguf, "tune": tune}

if __name__ == "__main__":
    main(*sys.argv[1:])

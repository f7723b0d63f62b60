"""Which rule finds weights for a new task? Experts of five tasks and their base are mixed for the sixth.

The mixes are really merged and tested on queries that no step has seen. Every step is kept in a file, so that a run
that was interrupted goes on. Then `report.py` writes docs/results.md.
"""

from __future__ import annotations

import argparse
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from sentence_transformers import SentenceTransformer
from tasks import TASKS, pairs_of
from train import DRAWS, POOL, TEST, minilm

from cocktail_hub.evaluation.metrics import ranking
from cocktail_hub.search.ensemble import MixedVectors, best_weights
from cocktail_hub.search.softmax import softmax_weights

if TYPE_CHECKING:
    from torch import Tensor

LONGEST = 32
"""Tokens of a text."""
SIZES = (5, 20, 50)
"""Numbers of examples that weights are found from."""
MERGED = ("ensemble 20", "ensemble 50")
"""Rules and sizes of which the first draws are really merged; the others' losses are predicted."""


def embed(model: SentenceTransformer, texts: list[str]) -> np.ndarray:
    """Vectors before they are scaled to length 1."""
    return model.encode(texts, batch_size=64, show_progress_bar=False)


def load(folder: Path) -> SentenceTransformer:
    """An embedder without its last module, which scales to length 1."""
    model = SentenceTransformer(str(folder), device="cpu")
    model.max_seq_length = LONGEST
    del model[-1]
    return model


def outputs(folder: Path, kept: Path, task: str, texts: Path) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of the queries and passages of a task's test, draws and pool; computed once."""
    file = kept / f"{folder.name}-{task}.npz"
    if not file.is_file():
        model = load(folder)
        sides = zip(*pairs_of(task, texts)[: TEST + DRAWS + POOL], strict=True)
        queries, passages = (embed(model, list(side)) for side in sides)
        np.savez(file, queries=queries, passages=passages)
    found = np.load(file)
    return found["queries"], found["passages"]


def mixed(vectors: list[tuple[np.ndarray, np.ndarray]], rows: np.ndarray) -> MixedVectors:
    """The outputs of all models for some pairs: each query's passage among those of the others."""
    right = np.eye(len(rows))
    queries, passages = (np.stack([one[side][rows] for one in vectors]).astype(float) for side in (0, 1))
    return MixedVectors(
        queries=queries, passages=passages, right=right, wrong=right == 0, cosine=True, temperature=0.05
    )


def measure(found: MixedVectors, weights: np.ndarray) -> dict[str, list[float]]:
    """Per query its loss and nDCG@10."""
    ranked = [ranking(scores, list(right))["ndcg"] for scores, right in found.rankings(weights)]
    return {"loss": found.losses(weights).tolist(), "ndcg": ranked}


@cache
def state(folder: Path) -> dict[str, Tensor]:
    """The weights of a model."""
    return load(folder).state_dict()


def merged(folders: list[Path], weights: np.ndarray) -> SentenceTransformer:
    """The weighted average of models."""
    model = load(folders[0])
    parts = [state(folder) for folder in folders]
    mean = {
        key: sum(float(weight) * part[key] for weight, part in zip(weights, parts, strict=True))
        for key, value in parts[0].items()
        if value.is_floating_point()
    }
    model.load_state_dict(mean, strict=False)
    return model


def plan(vectors: list[tuple[np.ndarray, np.ndarray]], draws: int) -> dict[str, np.ndarray]:
    """Name of a rule, number of examples, and draw -> weights."""
    equal = np.full(len(vectors), 1 / len(vectors))
    pool = mixed(vectors, np.arange(TEST + DRAWS, TEST + DRAWS + POOL))
    found = {"equal": equal, "oracle": best_weights(pool, 1e-6)}
    for draw in range(draws):
        for size in SIZES:
            rows = TEST + np.random.default_rng(draw).choice(DRAWS, size, replace=False)
            examples = mixed(vectors, rows)
            alone = [float(examples.losses(one).mean()) for one in np.eye(len(vectors))]
            found[f"ensemble {size} {draw}"] = best_weights(examples, 2 / size)
            found[f"softmax 5 {size} {draw}"] = np.array(softmax_weights(alone, 5.0))
            found[f"softmax 1 {size} {draw}"] = np.array(softmax_weights(alone, 1.0))
    return found


def main() -> None:
    """Find weights, merge, test; and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=Path, required=True, help="folder of the unpacked packages")
    parser.add_argument("--models", type=Path, required=True, help="folder that train.py wrote to")
    parser.add_argument("--kept", type=Path, required=True, help="folder for what is computed")
    parser.add_argument("--draws", type=int, default=20, help="draws of examples")
    parser.add_argument("--merged", type=int, default=2, help="draws of which the mixes are really merged")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS), help="new tasks")
    given = parser.parse_args()
    given.kept.mkdir(parents=True, exist_ok=True)
    for task in given.tasks:
        folders = [minilm(), *(given.models / other for other in TASKS if other != task)]
        vectors = [outputs(folder, given.kept, task, given.texts) for folder in folders]
        tests = mixed(vectors, np.arange(TEST))
        sides = [list(side) for side in zip(*pairs_of(task, given.texts)[:TEST], strict=True)]
        for name, weights in plan(vectors, given.draws).items():
            file = given.kept / f"{task} {name}.json"
            row = json.loads(file.read_text()) if file.is_file() else {}
            row |= {"weights": weights.tolist(), "predicted": measure(tests, weights)}
            rule, *rest = name.rsplit(" ", 1)
            wanted = not rest or (rule in MERGED and int(rest[0]) < given.merged)
            if wanted and "measured" not in row:
                model = merged(folders, weights)
                row["measured"] = measure(
                    mixed([(embed(model, sides[0]), embed(model, sides[1]))], np.arange(TEST)), np.ones(1)
                )
                print(task, name, f"{np.mean(row['measured']['loss']):.4f}", flush=True)
            file.write_text(json.dumps(row))


if __name__ == "__main__":
    main()

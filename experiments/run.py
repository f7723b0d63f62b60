"""Prove what mixing gives, on a real embedder and real text: fine-tune, mix, test, and write docs/results.md.

Every step is kept in a file, so that a run that was interrupted goes on where it was. Experts are trained, weights
chosen and mixes tested on pairs of their own (see train.py). What matters most is done first for all tasks, so that
`--report` has something to show at any time.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING

import numpy as np
import report
import torch
from sentence_transformers import SentenceTransformer
from tasks import TASKS, pairs_of
from train import BATCH, DRAWS, JOINT, LONGEST, POOL, RATE, TEST, minilm, train

from cocktail_hub import mix
from cocktail_hub.evaluation.metrics import ranking
from cocktail_hub.methods.registry import METHODS
from cocktail_hub.search.ensemble import MixedVectors, best_weights
from cocktail_hub.search.ensemble_rule import STRENGTH
from cocktail_hub.search.softmax import softmax_weights
from cocktail_hub.search.soups import cma_search, greedy_soup, top_k_soup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

SIZES = (5, 20, 50)
"""Numbers of examples that weights are found from."""
OTHERS = slice(TEST.start, TEST.start + 100)
"""The pairs that mixes are tested on where a task is not theirs."""
BEST, TRIED = 3, 100
"""Models in a soup of the best, and mixes that CMA-ES tries."""
SHARES = (0.5, 0, 1, 0.1, 0.9, 0.3, 0.7, 0.2, 0.8, 0.4, 0.6)
"""Of an expert that is mixed with its base, in the order in which they are tested."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What to do, and where what is done is kept."""

    texts: Path
    kept: Path
    seed: int
    """Of training."""
    tasks: tuple[str, ...] = tuple(TASKS)
    steps: int = 300
    """Of training an expert."""
    draws: int = 20
    """Of examples, for the rules."""
    merged: int = 2
    """Draws whose mixes are merged and tested; those of the others are predicted."""
    shares: tuple[float, ...] = SHARES
    """Of an expert that is mixed with its base."""
    scales: int = 3
    """Settings of a method's scale: the default, and up to two smaller ones."""

    def expert(self, task: str) -> Path:
        """The folder of the model that was fine-tuned on a task; of the base for `base`."""
        return minilm() if task == "base" else self.kept / f"models-{self.seed}" / task

    def outputs(self, name: str, task: str) -> tuple[np.ndarray, np.ndarray]:
        """Vectors of the queries and passages of a task that no expert was trained on."""
        file = self.kept / ("base" if name == "base" else f"outputs-{self.seed}") / f"{name} {task}.npz"
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            queries, passages = embed(self.expert(name), pairs_of(task, self.texts)[: TEST.stop])
            np.savez(file, queries=queries, passages=passages)
        found = np.load(file)
        return found["queries"], found["passages"]

    def mixed(self, names: list[str], task: str, rows: np.ndarray | slice) -> MixedVectors:
        """The outputs of models for some pairs of a task."""
        return mixed([self.outputs(name, task) for name in names], rows)

    def keep(self, name: str, task: str, made: Callable[[], dict]) -> None:
        """Keep the result of a step for the task, unless it is there."""
        file = self.kept / f"results-{self.seed}" / task / f"{name}.json"
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            found = made()
            file.with_suffix(".part").write_text(json.dumps(found), encoding="utf-8")
            file.with_suffix(".part").replace(file)
            print(self.seed, task, name, f"{np.mean(found['loss']):.3f}" if "loss" in found else "", flush=True)


def embed(folder: Path, pairs: list[tuple[str, str]]) -> tuple[np.ndarray, ...]:
    """Vectors of queries and of passages before they are scaled to length 1."""
    model = SentenceTransformer(str(folder), device="cpu")
    model.max_seq_length = LONGEST
    del model[-1]  # which scales them
    return tuple(model.encode(list(side), show_progress_bar=False) for side in zip(*pairs, strict=True))


def mixed(vectors: list[tuple[np.ndarray, ...]], rows: np.ndarray | slice) -> MixedVectors:
    """The outputs of all models for some pairs: each query's passage among those of the others."""
    queries, passages = (np.stack([one[side][rows] for one in vectors]).astype(float) for side in (0, 1))
    right = np.eye(queries.shape[1])
    return MixedVectors(
        queries=queries, passages=passages, right=right, wrong=right == 0, cosine=True, temperature=0.05
    )


def measure(found: MixedVectors, weights: np.ndarray) -> dict[str, list[float]]:
    """Per query its loss, nDCG@10, and whether its passage is the first."""
    ranked = [ranking(scores, list(right)) for scores, right in found.rankings(weights)]
    columns = {key: [round(row[key], 4) for row in ranked] for key in ("ndcg", "first")}
    return {"loss": found.losses(weights).round(4).tolist(), **columns}


def test(grid: Grid, folder: Path, tasks: Mapping[str, slice]) -> dict[str, dict]:
    """Test a model on pairs of tasks."""
    return {
        task: measure(mixed([embed(folder, pairs_of(task, grid.texts)[rows])], slice(None)), np.ones(1))
        for task, rows in tasks.items()
    }


def test_mix(grid: Grid, recipe: Mapping[str, object], tasks: Mapping[str, slice]) -> dict[str, dict]:
    """Merge, and test what came out."""
    folder = Path(mkdtemp(dir=grid.kept))
    try:
        return test(grid, mix(recipe, output=folder / "mix").path, tasks)
    finally:
        shutil.rmtree(folder)


def linear(grid: Grid, names: list[str], weights: np.ndarray) -> dict[str, object]:
    """The recipe of a weighted mean."""
    used = [(name, float(weight)) for name, weight in zip(names, weights, strict=True) if weight > 0]
    return {"ingredients": [{"model": str(grid.expert(name)), "weight": weight} for name, weight in used]}


def ndcg(examples: MixedVectors, weights: Sequence[float]) -> float:
    """What soups and CMA-ES look at; of the mean of the outputs, where the package merges every mix that is tried."""
    return float(
        np.mean([ranking(scores, list(right))["ndcg"] for scores, right in examples.rankings(np.array(weights))])
    )


def rules(grid: Grid, names: list[str], task: str) -> Iterator[tuple[str, np.ndarray]]:
    """Name of a rule, number of examples, and draw; and its weights."""
    yield "equal", np.full(len(names), 1 / len(names))
    yield "oracle", best_weights(grid.mixed(names, task, POOL), 1e-6)
    for draw in range(grid.draws):
        for size in SIZES:
            rows = DRAWS.start + np.random.default_rng(draw).choice(DRAWS.stop - DRAWS.start, size, replace=False)
            examples = grid.mixed(names, task, rows)
            alone = np.array([examples.losses(one).mean() for one in np.eye(len(names))])
            yield f"ensemble {size} {draw}", best_weights(examples.searched, STRENGTH / size)
            yield f"coupled {size} {draw}", best_weights(examples, STRENGTH / size)
            for temperature in (5.0, 1.0):
                yield f"softmax {temperature:g} {size} {draw}", np.array(softmax_weights(alone, temperature))
            yield f"best single {size} {draw}", np.eye(len(names))[alone.argmin()]
            value = partial(ndcg, examples)
            yield f"greedy {size} {draw}", np.array(greedy_soup(len(names), value))
            yield f"top_k {BEST} {size} {draw}", np.array(top_k_soup(len(names), value, BEST))
            yield f"cma {size} {draw}", np.array(cma_search(len(names), value, evaluations=TRIED, seed=draw))


def new_task(grid: Grid, task: str) -> None:
    """A task without an expert: mixes of base and the other tasks' experts, with weights from examples."""
    names = ["base", *(other for other in grid.tasks if other != task)]
    tests = grid.mixed(names, task, TEST)
    for place, name in enumerate(names):
        grid.keep(f"alone {name}", task, lambda place=place: measure(tests, np.eye(len(names))[place]))
    for name, weights in rules(grid, names, task):
        loss = tests.losses(weights).round(4).tolist()
        grid.keep(f"predicted {name}", task, {"weights": weights.tolist(), "loss": loss}.copy)
        rule, *rest = name.rsplit(" ", 2)
        if not rest or (rule == "ensemble" and rest[0] != str(SIZES[0]) and int(rest[1]) < grid.merged):
            recipe = linear(grid, names, weights)
            grid.keep(name, task, lambda recipe=recipe: test_mix(grid, recipe, {task: TEST})[task])


def forgetting(grid: Grid, task: str, share: float) -> None:
    """An expert mixed with its base, on its own task and on the others."""
    names, weights = ["base", task], np.array([1 - share, share])
    tasks = {other: TEST if other == task else OTHERS for other in grid.tasks}
    grid.keep(
        f"predicted share {share:g}",
        task,
        lambda: {other: measure(grid.mixed(names, other, rows), weights) for other, rows in tasks.items()},
    )
    if 0 < share < 1:
        grid.keep(f"share {share:g}", task, lambda: test_mix(grid, linear(grid, names, weights), tasks))


def anchored(grid: Grid, task: str) -> None:
    """Half of an expert, and half of the base and all others."""
    weights = np.array([1.0, *(float(other == task) * (len(grid.tasks) - 1) + 1 for other in grid.tasks)])
    weights[1 + grid.tasks.index(task)] = len(grid.tasks)
    tasks = {other: TEST if other == task else OTHERS for other in grid.tasks}
    recipe = linear(grid, ["base", *grid.tasks], weights / weights.sum())
    grid.keep("anchored", task, lambda: test_mix(grid, recipe, tasks))


def everything(grid: Grid) -> None:
    """Base and all experts in one model, and the n times dearer mean of their outputs."""
    names, tasks = ["base", *grid.tasks], dict.fromkeys(grid.tasks, TEST)
    equal = np.full(len(names), 1 / len(names))
    grid.keep("outputs", "all", lambda: {task: measure(grid.mixed(names, task, TEST), equal) for task in tasks})
    grid.keep("equal", "all", lambda: test_mix(grid, linear(grid, names, equal), tasks))


def methods(grid: Grid) -> None:
    """The task vectors of all experts, merged by every method that takes so many; at its default, and scaled down."""
    few, count = dict.fromkeys(grid.tasks, OTHERS), len(grid.tasks)
    for name, method in METHODS.items():
        if method.base != "needed" or method.most == 1:
            continue
        weight = 1 / count if method.convex else 1.0
        recipe = {
            "method": name,
            "base": str(minilm()),
            "ingredients": [{"model": str(grid.expert(task)), "weight": weight} for task in grid.tasks],
        }
        scales = (1.0, 0.5, round(1 / count, 3)) if "lambda" in method.parameters else (1.0,)
        for scale in scales[: grid.scales]:
            scaled = recipe if scale == 1 else recipe | {"parameters": {"lambda": scale}}
            grid.keep(f"method {name} {scale:g}", "all", lambda scaled=scaled: test_mix(grid, scaled, few))


def joint(grid: Grid) -> None:
    """One model that was trained on all tasks, with as many steps as all experts together."""
    train(grid.tasks, grid.texts, grid.expert(JOINT), steps=grid.steps * len(grid.tasks), seed=grid.seed)
    grid.keep(JOINT, "all", lambda: test(grid, grid.expert(JOINT), dict.fromkeys(grid.tasks, TEST)))


def run(grid: Grid) -> None:
    """Everything with experts of one training seed; what matters most is done first."""
    for task in grid.tasks:
        train([task], grid.texts, grid.expert(task), steps=grid.steps, seed=grid.seed)
    for task in grid.tasks:
        new_task(grid, task)
    for share in grid.shares[:3]:
        for task in grid.tasks:
            forgetting(grid, task, share)
    everything(grid)
    for task in grid.tasks:
        anchored(grid, task)
    for share in grid.shares[3:]:
        for task in grid.tasks:
            forgetting(grid, task, share)
    methods(grid)
    joint(grid)


def main() -> None:
    """Run everything that is not kept yet, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=Path, required=True, help="folder of the unpacked packages: see tasks.py")
    parser.add_argument("--kept", type=Path, required=True, help="folder for what is made")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of training")
    parser.add_argument("--steps", type=int, default=300, help="of training an expert")
    parser.add_argument("--draws", type=int, default=20, help="of examples; the mixes of two are really merged")
    parser.add_argument("--quick", action="store_true", help="see whether it runs: a small one, its page in `--kept`")
    parser.add_argument("--report", action="store_true", help="write the page from what there is, and do no more")
    given = parser.parse_args()
    torch.set_num_threads(1)
    grids = [
        Grid(texts=given.texts, kept=given.kept, seed=seed, steps=given.steps, draws=given.draws)
        for seed in given.seeds
    ]
    if given.quick:
        small = {"steps": 30, "draws": 5, "merged": 1, "shares": (0.5, 0, 1, 0.2, 0.8), "scales": 1}
        grids = [replace(grids[0], kept=given.kept / "quick", tasks=("nouns", "verbs", "computing"), **small)]
    grids[0].kept.mkdir(parents=True, exist_ok=True)
    for grid in grids:
        if not given.report:
            training = {"steps": grid.steps, "batch": BATCH, "rate": RATE}
            (grid.kept / "training.json").write_text(json.dumps(training), encoding="utf-8")
            run(grid)
    report.write(grids[0].kept, grids[0].kept if given.quick else None)


if __name__ == "__main__":
    main()

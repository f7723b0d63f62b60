"""Write docs/results.md, and the figures it shows as data, from what weights.py kept."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from tasks import TASKS
from train import BATCH, DRAWS, POOL, STEPS, TEST
from weights import SIZES

HERE = Path(__file__).parent
TEMPLATE = """\
# Results: do weights from examples help?

Written by `experiments/report.py` from what `experiments/weights.py` measured, which is in `experiments/results.json`.

all-MiniLM-L6-v2 was fine-tuned on real text of each of these tasks: {tasks}
({steps} steps of {batch} pairs each). Then a task is *new*: its own expert is left out, and base and other experts are
mixed for it, with weights found from a few examples (drawn from {draws}). The mixes are really merged, and tested on
{test} other queries, each among {test} passages. *Oracle*: the weights found on {pool} further examples, without a
prior.

**This is small**: one embedder, one training seed, short fine-tunes, {count} new tasks ({new}),
{test} test queries each. Intervals (95 %) are over test queries only. Read it as directions.

## A new task without training

InfoNCE loss (lower is better) and nDCG@10 (higher is better) of the merged models; `rule: ensemble` with
`fallback: never`, mean of two draws of examples.

{mixes}

How much of the loss gap between equal weights and the oracle is closed (ratio of sums over tasks):

{closed}

*Predicted only* is the loss of the mean of the test queries' outputs: no merge. *Worse than equal*: in so many draws
the predicted loss is significantly above that of equal weights (95 %, over test queries).

## Does the mean of the outputs predict the mix?

Rank correlation of predicted and measured figures, over the mixes that were merged. They differ little in nDCG, so its
ranks are mostly noise; the loss tells them apart.

{ranks}

## What follows

- `softmax` at 5, the paper's rule and the default, stays close to equal weights, with any number of examples.
- `rule: ensemble` closes a part of the gap that remains, and more of it with more examples. With 5 it gains nothing,
  which is why it falls back to equal weights below 20. With 20 it helps on average, but a draw in ten was worse than
  equal weights: look at the interval of the gain that is reported. With 50 it helped in every task.
- The draws that were merged are two a task. The 20 whose losses are predicted say more about 20 examples.
- Not done: other kinds of model, several training seeds, longer fine-tunes, other merge methods, forgetting.

## Run it again

```
python experiments/train.py --texts TEXTS --models MODELS      # TEXTS: the packages named in experiments/tasks.py
python experiments/weights.py --texts TEXTS --models MODELS --kept KEPT --tasks {names}
python experiments/report.py --kept KEPT
```
"""
RULES = ("softmax 5", "softmax 1", "ensemble")


def read(kept: Path) -> dict[str, dict[str, dict]]:
    """Task -> name of rule, size and draw -> what was found; tasks that were not finished are left out."""
    found = {
        task: {file.stem.partition(" ")[2]: json.loads(file.read_text()) for file in kept.glob(f"{task} *.json")}
        for task in TASKS
    }
    return {task: rows for task, rows in found.items() if "measured" in rows.get("ensemble 50 1", {})}


def share(rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> tuple[float, float, float]:
    """Of (equal, rule, oracle) losses per query of each task: the share of the gap closed, with a 95 % interval."""

    def closed(draw: list[np.ndarray]) -> float:
        gained = sum((equal[at] - rule[at]).mean() for (equal, rule, _), at in zip(rows, draw, strict=True))
        gap = sum((equal[at] - best[at]).mean() for (equal, _, best), at in zip(rows, draw, strict=True))
        return float(gained / gap)

    rng = np.random.default_rng(0)
    resampled = [closed([rng.integers(0, len(one[0]), len(one[0])) for one in rows]) for _ in range(2000)]
    return closed([np.arange(len(one[0])) for one in rows]), *map(float, np.quantile(resampled, (0.025, 0.975)))


def shares(
    found: dict[str, dict[str, dict]], rule: str, size: int, kind: str
) -> tuple[tuple[float, float, float], int]:
    """The share of the gap that a rule closes, averaged over the draws that are there, and their number."""
    names = {
        task: [name for name in rows if name.startswith(f"{rule} {size} ") and kind in rows[name]]
        for task, rows in found.items()
    }
    rows = []
    for task, own in names.items():
        equal, best = (np.array(found[task][name][kind]["loss"]) for name in ("equal", "oracle"))
        rows.append((equal, np.mean([found[task][name][kind]["loss"] for name in own], axis=0), best))
    return share(rows), min(map(len, names.values()))


def worse(found: dict[str, dict[str, dict]], rule: str, size: int) -> str:
    """In how many draws the predicted loss is significantly above that of equal weights."""
    count = draws = 0
    for rows in found.values():
        for name, row in rows.items():
            if name.startswith(f"{rule} {size} "):
                more = np.array(row["predicted"]["loss"]) - rows["equal"]["predicted"]["loss"]
                count += more.mean() > 1.96 * more.std(ddof=1) / len(more) ** 0.5
                draws += 1
    return f"{count} of {draws}"


def correlation(rows: dict[str, dict], metric: str) -> float:
    """Rank correlation of predicted and measured figures of one task."""
    pairs = [
        (np.mean(row["predicted"][metric]), np.mean(row["measured"][metric]))
        for row in rows.values()
        if "measured" in row
    ]
    ranks = [np.argsort(np.argsort(side)) for side in zip(*pairs, strict=True)]
    return float(np.corrcoef(*ranks)[0, 1])


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def page(found: dict[str, dict[str, dict]]) -> str:
    """The page, in Markdown."""
    mixes, closed = [], []
    for task, rows in found.items():
        cells = [task]
        for names in (["equal"], *([f"ensemble {size} {draw}" for draw in (0, 1)] for size in (20, 50)), ["oracle"]):
            loss, ndcg = (np.mean([rows[name]["measured"][key] for name in names]) for key in ("loss", "ndcg"))
            cells.append(f"{loss:.3f}, {100 * ndcg:.1f}")
        mixes.append(cells)
    for rule in RULES:
        for size in SIZES:
            (value, low, high), draws = shares(found, rule, size, "predicted")
            row = [f"`{rule}`", str(size), "-", f"{value:.0%} [{low:.0%}, {high:.0%}], {draws} draws"]
            row.append(worse(found, rule, size))
            if rule == "ensemble" and size != SIZES[0]:
                (value, low, high), draws = shares(found, rule, size, "measured")
                row[2] = f"{value:.0%} [{low:.0%}, {high:.0%}], {draws} draws"
            closed.append(row)
    ranks = [
        [
            task,
            str(sum("measured" in row for row in rows.values())),
            f"{correlation(rows, 'loss'):.2f}",
            f"{correlation(rows, 'ndcg'):.2f}",
        ]
        for task, rows in found.items()
    ]
    return TEMPLATE.format(
        new=", ".join(found),
        count=len(found),
        names=" ".join(found),
        mixes=table(["task", "equal weights", "20 examples", "50 examples", "oracle"], mixes),
        closed=table(["rule", "examples", "merged and tested", "predicted only", "worse than equal"], closed),
        ranks=table(["task", "mixes", "of the loss", "of nDCG@10"], ranks),
        tasks=", ".join(TASKS),
        steps=STEPS,
        batch=BATCH,
        test=TEST,
        draws=DRAWS,
        pool=POOL,
    )


def main() -> None:
    """Write the page and its data."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kept", type=Path, required=True, help="folder that weights.py wrote to")
    found = read(parser.parse_args().kept)
    rounded = json.loads(json.dumps(found), parse_float=lambda text: round(float(text), 4))
    for rows in rounded.values():
        for row in rows.values():
            row["predicted"] = {key: round(float(np.mean(values)), 5) for key, values in row["predicted"].items()}
    (HERE / "results.json").write_text(json.dumps(rounded))
    (HERE.parent / "docs" / "results.md").write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    main()

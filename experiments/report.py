"""Write docs/results.md, and the figures it shows as data, from what run.py kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import spearmanr
from tasks import TASKS
from train import DRAWS, POOL, TEST

from cocktail_hub.evaluation.intervals import middle_quantiles, resampled_means, tail_for
from cocktail_hub.search.evaluate import MIX

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

HERE = Path(__file__).parent
EQUAL = "equal weights"
"""Name of the mix with these in an evaluation."""
FRESH = ("adverbs", "news", "reviews")
"""Tasks that no rule was chosen with."""
RULES = ("softmax 5", "softmax 1", "best single", "greedy", "top_k 3", "cma", "coupled", "ensemble")
RESAMPLES = 2000
"""Of test queries, for an interval."""
Results = dict[str, dict[str, dict]]
"""Task -> step of run.py -> what it found, of one training seed."""


def read(kept: Path) -> dict[str, Results]:
    """Training seed -> results."""
    return {
        folder.name.partition("-")[2]: {
            task.name: {file.stem: json.loads(file.read_text()) for file in sorted(task.glob("*.json"))}
            for task in sorted(folder.iterdir())
        }
        for folder in sorted(kept.glob("results-*"))
    }


def means(found: Any) -> Any:
    """The same with the mean of each column of figures and without weights, so that it is small."""
    if isinstance(found, dict):
        return {key: means(value) for key, value in found.items() if key != "weights"}
    return round(float(np.mean(found)), 4)


def difference(more: Sequence[Sequence[float]], less: Sequence[Sequence[float]]) -> str:
    """What the first has more per query, with a 95 % interval over queries, and the range over training seeds.

    Both have a row per training seed. The queries are the same for all, so they are resampled for all alike.
    """
    rows = 100 * np.subtract(more, less)
    tail = tail_for(rows.shape[1])
    low, high = middle_quantiles(resampled(rows, seed=0), (tail, 1 - tail))
    seeds = rows.mean(axis=1)
    shown = f" ({seeds.min():+.1f} to {seeds.max():+.1f})" if len(seeds) > 1 else ""
    return f"{rows.mean():+.1f} [{low:+.1f}, {high:+.1f}]{shown}"


def resampled(rows: np.ndarray, seed: int) -> np.ndarray:
    """The mean over training seeds and resampled queries, of rows [seeds, queries]: [resamples]."""
    return np.concatenate(list(resampled_means(rows.mean(axis=0)[:, None], seed=seed, resamples=RESAMPLES)))[:, 0]


def closed(cells: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> str:
    """Of (equal, rule, oracle) losses per query of each task, means over training seeds: the share of the gap closed.

    It is a ratio of sums over tasks; the 95 % interval is over test queries.
    """
    gains = [np.stack([equal - rule, equal - best], axis=1) for equal, rule, best in cells]
    drawn = sum(
        np.concatenate(list(resampled_means(rows, seed=place, resamples=RESAMPLES))) for place, rows in enumerate(gains)
    )
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], (0.025, 0.975))
    gained, gap = sum(rows.mean(axis=0) for rows in gains)
    return f"{gained / gap:.0%} [{low:.0%}, {high:.0%}]"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    rows = list(rows)
    if not rows:
        return "*Not run for this page.*"
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def forgetting(found: dict[str, Results]) -> str:
    """A table of experts, alone and mixed, on their own task and on the others."""
    rows = []
    for task in TASKS:
        each = [results[task] for results in found.values() if "share 0.5" in results.get(task, {})]
        if not each:
            continue
        named = {name: [one[name] for one in each if name in one] for name in ("share 0.5", "anchored")}
        named |= {name: [one[f"predicted share {name}"] for one in each] for name in "01"}
        parts = {
            name: (
                np.array([one[task]["ndcg"] for one in own]),
                np.array([np.concatenate([one[name]["ndcg"] for name in one if name != task]) for one in own]),
            )
            for name, own in named.items()
            if own
        }
        cells = [
            " / ".join(f"{100 * part.mean():.1f}" for part in parts.get(name, ())) or "-"
            for name in ("0", "1", "share 0.5", "anchored")
        ]
        gains = [difference(parts["share 0.5"][side], parts["1"][side]) for side in (0, 1)]
        rows.append([task, *cells, *gains])
    head = ["task", "base", "fine-tune", "half and half", "half, and half of all others"]
    return table([*head, "half - fine-tune, on its task", "on the others"], rows)


def draw_forgetting(found: dict[str, Results], path: Path) -> None:
    """Draw nDCG over the weight of an expert that is mixed with its base: on its own task, and on the others."""
    experts = [
        (task, one[task]) for one in found.values() for task in TASKS if "predicted share 0.8" in one.get(task, {})
    ]
    if not experts:
        return
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.subplots()
    for side, label, color in ((True, "on its own task", "tab:orange"), (False, "on the other tasks", "tab:blue")):
        for kind in ("predicted ", ""):
            names = {name for _, one in experts for name in one if name.startswith(f"{kind}share ")}
            points = []
            for weight, name in sorted((float(name.rpartition(" ")[2]), name) for name in names):
                # by the task that is tested, whose queries are the same for all experts and seeds
                tested: dict[str, list[list[float]]] = {}
                for task, one in experts:
                    for other, part in one.get(name, {}).items():
                        if (other == task) == side:
                            tested.setdefault(other, []).append(part["ndcg"])
                rows = [100 * np.array(each) for each in tested.values()]
                means = np.mean([resampled(each, seed=place) for place, each in enumerate(rows)], axis=0)
                points.append((weight, np.mean([each.mean() for each in rows]), *np.quantile(means, (0.025, 0.975))))
            at, values, low, high = zip(*points, strict=True)
            if kind:
                axes.fill_between(at, low, high, color=color, alpha=0.2, linewidth=0)
                axes.plot(at, values, color=color, label=label)
            else:
                axes.plot(at, values, "o", color=color)
    axes.set(xlabel="weight of the fine-tune, the rest is its base's", ylabel="nDCG@10", xlim=(0, 1))
    axes.set_title(
        f"MiniLM and {len(experts)} fine-tunes: predicted, with 95 % intervals; dots: merged and measured", fontsize=10
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.92")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def new_task(found: dict[str, Results]) -> str:
    """A table of mixes for a task without an expert: loss and nDCG of what was merged."""
    rows = []
    for task in TASKS:
        each = [results[task] for results in found.values() if "oracle" in results.get(task, {})]
        draws = [[[name for name in one if name.startswith(f"ensemble {size} ")] for size in (20, 50)] for one in each]
        if not each:
            continue
        cells = [task]
        for names in (
            [["alone base"]] * len(each),
            [["equal"]] * len(each),
            *([one[size] for one in draws] for size in (0, 1)),
            [["oracle"]] * len(each),
        ):
            own = [one[name] for one, some in zip(each, names, strict=True) for name in some]
            loss, ndcg = (np.mean([row[key] for row in own] or np.nan) for key in ("loss", "ndcg"))
            cells.append(f"{loss:.3f}, {100 * ndcg:.1f}" if own else "-")
        cells.append(difference(*([one[name]["ndcg"] for one in each] for name in ("equal", "alone base"))))
        rows.append(cells)
    head = ["task", "base alone", "equal weights", "20 examples", "50 examples", "oracle"]
    return table([*head, "equal - base, nDCG@10"], rows)


def rules(found: dict[str, Results], tasks: Iterable[str] = TASKS) -> str:
    """A table of the share of the gap that each rule closes on some tasks, and of how often it does harm."""
    rows = []
    for rule in RULES:
        for size in (5, 20, 50):
            cells: dict[str, list] = {"": [], "predicted ": []}
            draws = worse = 0
            for task in tasks:
                for kind, into in cells.items():
                    seeds = []
                    for own in (results.get(task, {}) for results in found.values()):
                        names = [name for name in own if name.startswith(f"{kind}{rule} {size} ")]
                        if not names or f"{kind}oracle" not in own:
                            continue
                        losses = np.array([own[name]["loss"] for name in names])
                        equal, best = (np.array(own[f"{kind}{name}"]["loss"]) for name in ("equal", "oracle"))
                        seeds.append((equal, losses.mean(axis=0), best))
                        if kind:
                            more = losses - equal
                            errors = more.std(axis=1, ddof=1) / more.shape[1] ** 0.5
                            worse += int((more.mean(axis=1) > 1.96 * errors).sum())
                            draws += len(names)
                    if seeds:
                        into.append(tuple(np.mean(seeds, axis=0)))
            shown = [closed(some) if some else "-" for some in cells.values()]
            if draws:
                rows.append([f"`{rule}`", str(size), *shown, f"{worse} of {draws}"])
    return table(["rule", "examples", "merged", "predicted only", "worse than equal"], rows)


def everything(found: dict[str, Results]) -> str:
    """A table of all experts in one model, nDCG per task."""
    each = [results["all"] for results in found.values() if "equal" in results.get("all", {})]
    rows = []
    for task in TASKS:
        alone = "predicted share 1"
        own = [results[task][alone][task] for results in found.values() if alone in results.get(task, {})]
        cells = [
            [one[name][task] for one in each if task in one.get(name, {})] for name in ("equal", "outputs", "joint")
        ]
        if all(cells[:2]):
            shown = [f"{100 * np.mean([row['ndcg'] for row in some]):.1f}" if some else "-" for some in (own, *cells)]
            rows.append([task, *shown, difference(*([one["ndcg"] for one in some] for some in cells[:2]))])
    head = ["task", "its expert", "all merged", "mean of outputs", "trained on all"]
    return table([*head, "merged - mean of outputs"], rows)


def methods(found: dict[str, Results]) -> str:
    """A table of the base and of merge methods, nDCG over all tasks."""
    each = [results.get("all", {}) for results in found.values()]
    names = sorted({name for one in each for name in one if name.startswith("method ")})
    alone = [one.get("predicted share 0", {}) for results in found.values() for one in results.values()]
    base = {
        task: row["ndcg"] for one in alone for task, row in one.items() if len(row["ndcg"]) < TEST.stop - TEST.start
    }
    rows = [["base alone", "-", f"{100 * np.mean(list(base.values())):.1f}", "-"]] if names and base else []
    for name in names:
        own = [one[name] for one in each if name in one]
        mine = [np.concatenate([one[task]["ndcg"] for task in base]) for one in own]
        _, method, scale = name.split()
        less = [np.concatenate(list(base.values()))] * len(own)
        rows.append([f"`{method}`", scale, f"{100 * np.mean(mine):.1f}", difference(mine, less)])
    return table(["method", "scale", "nDCG@10, mean of all tasks", "method - base"], rows)


def ranks(found: dict[str, Results]) -> str:
    """A table of the rank correlation of predicted and measured figures, over all mixes of a task that were merged.

    The ends of a curve are single models, whose outputs are known: it is shown without and with them.
    """
    rows = []
    for task in TASKS:
        for what, curve, ends in (("new task", False, []), ("curve", True, []), ("with its ends", True, ["0", "1"])):
            cells: dict[str, list[tuple[float, float]]] = {"loss": [], "ndcg": []} if curve else {"loss": []}
            for own in (results.get(task, {}) for results in found.values()):
                merged = [name for name in own if f"predicted {name}" in own]
                names = [name for name in merged if name.startswith("share ") == curve]
                if len(names) < 3:  # noqa: PLR2004 - two are in order or not
                    continue
                pairs = [(f"predicted {name}", name) for name in names] + [
                    (f"predicted share {end}",) * 2 for end in ends
                ]
                for key, into in cells.items():
                    before, after = (
                        [np.mean((own[pair[side]][task] if curve else own[pair[side]])[key]) for pair in pairs]
                        for side in (0, 1)
                    )
                    into.append((spearmanr(before, after).statistic, np.abs(np.subtract(before, after)).max()))
            if all(cells.values()):
                shown = [
                    f"{', '.join(f'{rank:.2f}' for rank, _ in each)}; {max(error for _, error in each):.3f}"
                    for each in cells.values()
                ]
                rows.append([task, what, str(len(pairs)), *shown, "-"][:5])
    head = ["task", "mixes of", "count", "loss: ranks, seed by seed; largest error", "nDCG: ranks; largest error"]
    return table(head, rows)


def losses(found: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Set of examples -> model -> loss, of an evaluation by the package."""
    return {
        one["name"]: {model.rpartition("/")[2]: figures["loss"]["value"] for model, figures in one["models"].items()}
        for one in found["results"]
    }


def less(found: dict[str, Any], task: str, other: str) -> str:
    """What the mix has more loss on a task than another model, with its interval."""
    for each in next(one["comparisons"] for one in found["results"] if one["name"] == task):
        if each["subject"] == MIX and each["other"].rpartition("/")[2] == other:
            loss = each["differences"]["loss"]
            low, high = loss["interval"]
            return f"{loss['value']:+.2f} [{low:+.2f}, {high:+.2f}]"
    return "-"


def decoder(found: dict[str, dict[str, Any]]) -> dict[str, str]:
    """The tables of decoder.py: an expert mixed with its base, all experts in one model, and a new task."""
    rows: dict[str, list[list[str]]] = {"half": [], "all": [], "new": []}
    for name in (name.partition(" ")[2] for name in found if name.startswith("half ")):
        half = losses(found[f"half {name}"])
        base = next(model for model in half[name] if model not in (MIX, EQUAL, name))
        sides = [half[name]], [each for task, each in half.items() if task != name]
        cells = [
            " / ".join(f"{np.mean([each[model] for each in side]):.2f}" for side in sides)
            for model in (base, name, MIX)
        ]
        differences = [
            less(found[f"half {name}"], task, name) for task in (name, *(each for each in half if each != name))
        ]
        rows["half"].append([name, *cells, differences[0], ", ".join(differences[1:])])
        if "all" in found:
            shown = [f"{losses(found['all'])[name][model]:.2f}" for model in (base, name, MIX)]
            rows["all"].append([name, *shown, less(found["all"], name, base)])
        if new := found.get(f"new {name}"):
            shown = [f"{losses(new)[name].get(model, np.nan):.2f}" for model in (base, EQUAL, MIX)]
            rows["new"].append([name, *shown, less(new, name, EQUAL), less(new, name, base)])
    heads = {
        "half": ["task", "base", "fine-tune", "half and half", "half - fine-tune, on its task", "on each other task"],
        "all": ["task", "base", "its expert", "base and all experts, equal weights", "merged - base"],
        "new": ["task", "base", "equal weights", "`ensemble`, 20 examples", "`ensemble` - equal", "`ensemble` - base"],
    }
    return {f"decoder_{name}": table(head, rows[name]) for name, head in heads.items()}


def write(kept: Path, folder: Path | None) -> None:
    """Write the page and its data: to a folder, or to where this project has them."""
    found = read(kept)
    language = {file.stem: json.loads(file.read_text()) for file in sorted(kept.glob("decoder/*.json"))}
    shown = {
        **json.loads((kept / "training.json").read_text(encoding="utf-8")),
        "seeds": ", ".join(found),
        "tasks": ", ".join(
            name
            for name in TASKS
            if any(f"alone {name}" in rows for results in found.values() for rows in results.values())
        ),
        "test": TEST.stop - TEST.start,
        "draws": DRAWS.stop - DRAWS.start,
        "pool": POOL.stop - POOL.start,
        **{part.__name__: part(found) for part in (forgetting, new_task, rules, everything, methods, ranks)},
        "fresh": rules(found, FRESH),
        **decoder(language),
    }
    docs = folder or HERE.parent / "docs"
    draw_forgetting(found, docs / "forgetting.png")
    data = {**means(found), "decoder": {name: losses(one) for name, one in language.items()}}
    ((folder or HERE) / "results.json").write_text(json.dumps(data), encoding="utf-8")
    template = (HERE / "results.template.md").read_text(encoding="utf-8")
    warning = "**The tables are those of a quick run, the text is not about them.**\n\n" if folder else ""
    (docs / "results.md").write_text(warning + template.format(**shown), encoding="utf-8")

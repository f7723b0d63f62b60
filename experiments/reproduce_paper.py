"""Make the four tables of the LM-Cocktail paper again, from ids on the Hub to a table (docs/reproduce-paper.md).

Every figure is kept as soon as it is measured, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from cocktail_hub import evaluate
from cocktail_hub.evaluation.example_files import read_rows
from cocktail_hub.evaluation.harnesses import LISTS
from cocktail_hub.evaluation.suites import mmlu_tasks

TABLES = ("forgetting-llm", "forgetting-embedder", "new-llm", "new-embedder")
TASK = {"llm": "text-generation", "embedder": "sentence-similarity"}


@dataclass(frozen=True)
class Cell:
    """A model on a suite."""

    row: str
    source: Any
    suite: str
    shots: int = 0


def mix_of(paper: dict[str, Any], kind: str, examples: list[Any], *, anchored: bool) -> dict[str, Any]:
    """The paper's mix of many: weights from examples; with `anchored`, half of it is the fine-tune of the target."""
    others = [paper["base"], *paper["others"]]
    recipe = {"task": TASK[kind], "weighting": {"rule": "softmax", "temperature": 5.0, "examples": examples}}
    if anchored:
        return recipe | {"ingredients": others, "anchor": {"model": paper["fine_tuned"], "share": 0.5}}
    return recipe | {"ingredients": [*others, paper["fine_tuned"]]}


def mmlu_examples(data: Path) -> dict[str, list[dict[str, str]]]:
    """Subject -> five questions of the dev set, with the letter of the answer as output."""
    (path,) = data.rglob("qa/mmlu/dev.json")
    return {
        task.name: [
            {"input": one.prompt, "output": one.options[int(one.answers[0])].strip()} for one in task.questions[:5]
        ]
        for task in mmlu_tasks(read_rows(path))
    }


def cells_of(table: str, papers: dict[str, Any], data: Path, examples: dict[str, list[Any]]) -> list[Cell]:
    """What a table is made of; a table of new tasks has another mix for every task."""
    kind = table.partition("-")[2]
    paper = papers[kind]
    count = len(paper["others"]) + 2
    base, many = Cell(row="base", source=paper["base"], suite=paper["suite"]), f"mix of {count} by examples"
    if table.startswith("forgetting"):
        weights = (1 - paper["share"], paper["share"])
        models = [{"model": paper[key], "weight": w} for key, w in zip(("base", "fine_tuned"), weights, strict=True)]
        ten = mix_of(paper, kind, examples[paper["target"]], anchored=True)
        sources = {"fine-tuned": paper["fine_tuned"], "mix of 2": {"ingredients": models}, many: ten}
        return [base, *(Cell(row=row, source=source, suite=paper["suite"]) for row, source in sources.items())]
    suite, shown = paper["new_suite"], mmlu_examples(data) if kind == "llm" else examples
    tasks = list(shown) if kind == "llm" else list(LISTS[suite.partition(":")[2]])
    rows = [Cell(row="base", source=paper["base"], suite=suite)]
    rows += [Cell(row="base, 5 shots", source=paper["base"], suite=suite, shots=5)] if kind == "llm" else []
    mixes = {task: mix_of(paper, kind, shown[task], anchored=False) for task in tasks}
    return rows + [Cell(row=many, source=mix, suite=f"{suite}:{task}") for task, mix in mixes.items()]


def measure(cell: Cell, data: Path) -> dict[str, float]:
    """Task -> figure. A source is given twice: two are models side by side, one would be a recipe and its parts."""
    (found,) = evaluate(cell.source, cell.source, tasks=[cell.suite], data=data, shots=cell.shots).results
    parts = found.parts or (found,)
    return {part.name.rpartition(":")[2]: next(iter(part.models.values()))[part.metric].value for part in parts}


def rendered(table: str, rows: dict[str, dict[str, float]], target: str) -> str:
    """A table in Markdown: the target and the mean of the other tasks, or the mean of all."""
    lines = []
    for row, found in rows.items():
        if table.startswith("forgetting"):
            others = [value for task, value in found.items() if task != target]
            lines.append(f"| {row} | {found[target]:.1f} | {fmean(others):.1f} | {len(others)} |")
        else:
            lines.append(f"| {row} | {fmean(found.values()):.1f} | {len(found)} |")
    head = (
        "| model | target | others | other tasks |\n|---|---|---|---|"
        if table.startswith("forgetting")
        else "| model | mean | tasks |\n|---|---|---|"
    )
    return f"## {table}\n\n{head}\n" + "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Measure and print tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=TABLES)
    parser.add_argument("--data", type=Path, required=True, help="the unpacked llm-embedder data")
    parser.add_argument("--llm-examples", type=Path, help="LM-Cocktail's llm_examples.json: task -> five examples")
    parser.add_argument("--embedder-examples", type=Path, help="the same for embedders, task of mteb -> five examples")
    parser.add_argument("--paper", type=Path, default=Path(__file__).parent / "paper.yaml", help="the models")
    parser.add_argument("--out", type=Path, default=Path("paper-tables"), help="folder of the tables")
    parser.add_argument("--gpus", type=int, default=1, help="measure on so many GPUs at once, a process on each")
    parser.add_argument("--share", type=int, nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    papers = yaml.safe_load(given.paper.read_text())
    if given.gpus > 1 and given.share is None:
        own = arguments if arguments is not None else sys.argv[1:]
        start = partial(subprocess.Popen, text=True)
        workers = [
            start(
                [sys.executable, __file__, *own, "--share", str(gpu), str(given.gpus)],
                env=os.environ | {"CUDA_VISIBLE_DEVICES": str(gpu)},
            )
            for gpu in range(given.gpus)
        ]
        if any(worker.wait() for worker in workers):
            sys.exit("A process failed; what was measured is kept. Read its message above, and start again.")
    for table in given.tables:
        kind = table.partition("-")[2]
        file = given.llm_examples if kind == "llm" else given.embedder_examples
        if file is None and table != "new-llm":
            sys.exit(f"{table} needs --{kind}-examples, from which its mixes are weighted.")
        examples = json.loads(file.read_text()) if file else {}
        cells = cells_of(table, papers, given.data, examples)
        if given.share is not None:
            cells = cells[given.share[0] :: given.share[1]]
        rows: dict[str, dict[str, float]] = {}
        for cell in cells:
            rows.setdefault(cell.row, {}).update(measure(cell, given.data))
            print(f"{table}: {cell.row} on {cell.suite}", file=sys.stderr, flush=True)
        if given.share is None:
            given.out.mkdir(parents=True, exist_ok=True)
            text = rendered(table, rows, papers[kind]["target"])
            (given.out / f"{table}.md").write_text(text)
            (given.out / f"{table}.json").write_text(json.dumps(rows, indent=2))
            print(text)


if __name__ == "__main__":
    main()

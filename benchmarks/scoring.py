"""Measure scoring in turns with bare forward passes and LM_Cocktail, and a sweep with finished models.

Example: python benchmarks/scoring.py --work build/bench --models BASE FINE_TUNED --examples pairs.jsonl --rounds 3
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contenders import interpreter
from meter import measure

if TYPE_CHECKING:
    from collections.abc import Callable

POINTS = 11
"""Of a sweep: as many models are finished to be evaluated."""
FLOOR = {"sweep": "finished"}
"""What a contender is compared with; the others with `bare`."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/bench"), help="folder for what is made")
    parser.add_argument("--models", type=Path, nargs="+", required=True, help="folders of models of one kind")
    parser.add_argument("--examples", type=Path, required=True, help="a file of JSON lines")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contenders", nargs="+", default=list(RUNS), choices=RUNS)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    job = {"models": [str(path.resolve()) for path in given.models], "examples": str(given.examples.resolve())}
    if "finished" in given.contenders:
        job["finished"] = finished(job["models"], given.work / "finished")
    found: dict[str, list[dict[str, float]]] = {name: [] for name in given.contenders}
    for _ in range(given.rounds):
        for name in given.contenders:
            found[name].append(run(name, job, given.work))
    print("| | its call, s | whole process, s | CPU, s | memory, MB | call / floor |", f"|{' --- |' * 6}", sep="\n")
    middle = {
        name: {key: statistics.median(one[key] for one in rows) for key in rows[0]} for name, rows in found.items()
    }
    for name, row in middle.items():
        floor = middle.get(FLOOR.get(name, "bare"))
        ratio = f"{row['call'] / floor['call']:.2f}" if floor else ""
        print(f"| {name} | {row['call']:.2f} | {row['wall']:.2f} | {row['cpu']:.2f} | {row['memory']:.0f} | {ratio} |")


def finished(models: list[str], folder: Path) -> list[str]:
    """The mixes of a sweep over the weight of the second of two models, as folders."""
    from cocktail_hub import mix

    shares = [number / (POINTS - 1) for number in range(1, POINTS - 1)]
    for share in shares:
        recipe = {"ingredients": [{"model": models[0], "weight": 1 - share}, {"model": models[1], "weight": share}]}
        if not (folder / f"{share:g}").is_dir():
            mix(recipe, output=folder / f"{share:g}")
    return [models[0], *(str(folder / f"{share:g}") for share in shares), models[1]]


def run(name: str, job: dict[str, Any], work: Path) -> dict[str, float]:
    """Run a contender as a process of its own, with an empty cache."""
    cache, log = work / "scoring-cache", work / f"{name}.log"
    shutil.rmtree(cache, ignore_errors=True)
    python = interpreter(work, "lm-cocktail" if name == "lm-cocktail" else None)
    own = {"HF_HUB_OFFLINE": "1", "COCKTAIL_HUB_CACHE": str(cache), "CUDA_VISIBLE_DEVICES": ""}
    found = measure([str(python), __file__, name, json.dumps(job)], log=log, env={**os.environ, **own}, timeout=3600)
    if found.exit_code:
        raise SystemExit(f"{name} failed:\n{log.read_text()[-2000:]}")
    call = json.loads(log.read_text().splitlines()[-1])
    row = {"call": call, "wall": found.wall, "cpu": found.cpu, "memory": (found.peak_anonymous or 0) / 1e6}
    print(f"{name}: {', '.join(f'{key} {value:.2f}' for key, value in row.items())}", file=sys.stderr, flush=True)
    return row


# What follows runs in the processes.


def bare(job: dict[str, Any]) -> float:
    """Each model is loaded, and run over all texts in batches of similar length. No loss is computed."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

    from cocktail_hub.evaluation.batches import MAX_ROWS, TOKEN_BUDGET, pad_right

    rows = [json.loads(line) for line in Path(job["examples"]).read_text(encoding="utf-8").splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(job["models"][0])
    if "query" in rows[0]:
        texts = [*(row["query"] for row in rows), *{text for row in rows for text in (*row["pos"], *row["neg"])}]
        ids = [tokenizer(text, truncation=True, max_length=limit(job["models"][0]))["input_ids"] for text in texts]
        auto, kept = AutoModel, {}
    else:
        ids = [tokenizer(f"{row['input']} {row['output']}")["input_ids"] for row in rows]
        auto, kept = AutoModelForCausalLM, {"use_cache": False}
    ids.sort(key=len, reverse=True)
    started = time.perf_counter()
    for folder in job["models"]:
        model = auto.from_pretrained(folder, dtype=AutoConfig.from_pretrained(folder).dtype or torch.float32).eval()
        done = 0
        while done < len(ids):
            batch = ids[done : done + min(MAX_ROWS, max(1, TOKEN_BUDGET["cpu"] // len(ids[done])))]
            done += len(batch)
            encoded = [{"input_ids": row, "attention_mask": [1] * len(row)} for row in batch]
            with torch.inference_mode():
                model(**pad_right(encoded, {}, model.device), **kept)
    return time.perf_counter() - started


def limit(folder: str) -> int:
    """The most tokens that a sentence-transformers model reads of a text."""
    file = Path(folder) / "sentence_bert_config.json"
    return int(json.loads(file.read_text())["max_seq_length"]) if file.is_file() else 512


def weighed(rule: str) -> Callable[[dict[str, Any]], float]:
    """`score` with a rule."""

    def call(job: dict[str, Any]) -> float:
        from cocktail_hub import score

        started = time.perf_counter()
        score(job["models"], job["examples"], rule=rule)
        return time.perf_counter() - started

    return call


def original(job: dict[str, Any]) -> float:
    """The part of LM_Cocktail's `mix_models_with_data` that finds the weights, models already in memory."""
    from LM_Cocktail import cocktail

    rows = [json.loads(line) for line in Path(job["examples"]).read_text(encoding="utf-8").splitlines()]
    took = []
    compute_weights = cocktail.compute_weights

    def timed(*args: Any, **kwargs: Any) -> list[float]:
        started = time.perf_counter()
        weights = compute_weights(*args, **kwargs)
        took.append(time.perf_counter() - started)
        return weights

    cocktail.compute_weights = timed
    kind = {"model_type": "encoder", "max_input_length": limit(job["models"][0])} if "query" in rows[0] else {}
    cocktail.mix_models_with_data(job["models"], **({"model_type": "decoder"} | kind), example_ata=rows)
    return took[0]


def swept(job: dict[str, Any]) -> float:
    """`sweep` over the weight of the second model."""
    from cocktail_hub import sweep

    recipe = {"ingredients": [{"model": model, "weight": 0.5} for model in job["models"]]}
    started = time.perf_counter()
    sweep(recipe, {"task": job["examples"]}, over="2", points=POINTS)
    return time.perf_counter() - started


def evaluated(job: dict[str, Any]) -> float:
    """`evaluate` of the models that the sweep would be over."""
    from cocktail_hub import evaluate

    started = time.perf_counter()
    evaluate(*job["finished"], examples={"task": job["examples"]}, generated=False)
    return time.perf_counter() - started


RUNS: dict[str, Callable[[dict[str, Any]], float]] = {
    "bare": bare,
    "softmax": weighed("softmax"),
    "ensemble": weighed("ensemble"),
    "lm-cocktail": original,
    "sweep": swept,
    "finished": evaluated,
}

if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in RUNS:
        with redirect_stdout(sys.stderr):
            import sentence_transformers  # noqa: F401 - what takes seconds to import is not part of a call

            took = RUNS[sys.argv[1]](json.loads(sys.argv[2]))
        print(took)
    else:
        main()

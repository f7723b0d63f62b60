"""Measure mixing: make checkpoints, run every contender as a whole process in turns, save medians, tables and plots.

Example: python benchmarks/run.py --work build/bench --case 1B:4:bfloat16 --case 0.1B:2:float32 --rounds 3
"""

from __future__ import annotations

import argparse
import compileall
import itertools
import os
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

from checkpoints import CODES, CONFIGS, Case, make
from contenders import CONTENDERS, ShardJob, interpreter
from meter import Measurement, measure
from results import Results, Row, machine

PACKAGE = Path(__file__).parent.parent / "cocktail_hub"
"""Ours, which is measured as it lies here."""
OUTPUTS = "outputs"
"""Folder for what the contenders make."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def main() -> None:
    given = _arguments()
    cases = given.case or [
        Case(size=size, count=count, dtype=dtype)
        for size, count, dtype in itertools.product(given.sizes, given.ingredients, given.dtypes)
    ]
    given.work.mkdir(parents=True, exist_ok=True)
    compileall.compile_dir(PACKAGE, quiet=1)  # as pip does with everything it installs, the peers among it
    results = Results.read(given.json)
    for case in cases:
        run_case(case, given, results)
        if not given.keep:
            shutil.rmtree(given.work / "models", ignore_errors=True)
    print(results.table())
    if given.docs:
        from plots import draw

        draw(results, given.docs)


def run_case(case: Case, given: argparse.Namespace, results: Results) -> None:
    """Run all contenders of a case in turns, round after round; what was measured is saved after each run."""
    names = [name for name in given.contenders if CONTENDERS[name].takes(case)]
    if left_out := [name for name in given.contenders if name not in names]:
        _say(f"{case}: not for {', '.join(left_out)}")
    for name in names:
        interpreter(given.work, CONTENDERS[name].environment)
    job = _prepare(case, given.work, base=any(CONTENDERS[name].needs_base for name in names))
    facts = {"case": str(case), "parameters": case.parameters, "count": case.count, "machine": machine()}
    rows = {name: Row(contender=name, **facts) for name in names}
    for number in range(given.warmup + given.rounds):
        for name in names:
            row = rows[name]
            if row.failure:
                continue
            found = _run_once(name, job, given)
            if found.exit_code or not _complete(job):
                row.failure = _last_line(job.work / f"{name}.log") or f"exit code {found.exit_code}"
            elif number >= given.warmup:
                row.runs.append(asdict(found) | {"cpu": found.cpu})
            results.put(row)
            results.write(given.json)
            _say(f"{case} {name}: {row.failure or f'{found.wall:.1f} s, {found.cpu:.1f} CPU s'}")
    shutil.rmtree(job.work / OUTPUTS, ignore_errors=True)


def _prepare(case: Case, work: Path, *, base: bool) -> ShardJob:
    """Make the checkpoints of a case."""
    folder = work / "models" / f"{case.size}-{case.dtype}"
    for number in range(0 if base else 1, case.count + 1):
        _say(f"checkpoint {folder.name} {number}")
        make(folder / str(number), case, number)
    models = tuple(folder / str(number) for number in range(1, case.count + 1))
    return ShardJob(case=case, base=folder / "0", models=models, output=work / OUTPUTS / "now", work=work)


def _run_once(name: str, job: ShardJob, given: argparse.Namespace) -> Measurement:
    """Run one contender on inputs that are in memory (or, with `--cold`, are not), with nothing left to be written.

    What was made before is kept until the end of the case if the disk has room: a virtual machine hands freed memory
    back to its host, and has to get it again from there, which takes longer than writing to it.
    """
    if shutil.disk_usage(job.work).free < 2 * job.case.nbytes:
        shutil.rmtree(job.output.parent, ignore_errors=True)
    job.output.parent.mkdir(exist_ok=True)
    if job.output.exists():
        job.output.rename(job.output.with_name(str(len(list(job.output.parent.iterdir())))))
    contender, cache = CONTENDERS[name], job.work / "cache"
    if contender.forgetful:
        cache = job.work / "forgotten"
        shutil.rmtree(cache, ignore_errors=True)
    command = contender.command(job)
    os.sync()
    if given.cold:
        for path in (job.work / "models").rglob("*.safetensors"):
            _forget(path)
    return measure(command, log=job.work / f"{name}.log", env=_environment(job.work, cache), timeout=given.timeout)


def _environment(work: Path, cache: Path) -> dict[str, str]:
    """Caches of their own, no network, no GPU, as many threads as each one likes: everyone the same."""
    own = {
        "HF_HOME": str(work / "hf"),
        "HF_HUB_OFFLINE": "1",
        "COCKTAIL_HUB_CACHE": str(cache),
        "CUDA_VISIBLE_DEVICES": "",
    }
    inherited = {name: value for name, value in os.environ.items() if name not in THREAD_VARIABLES}
    return {**inherited, **own}


def _forget(path: Path) -> None:
    """Ask the system to drop a file from memory."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _complete(job: ShardJob) -> bool:
    """Tell whether the output has weights as large as a model."""
    files = [*job.output.rglob("*.safetensors"), *job.output.rglob("pytorch_model*.bin")]
    return sum(file.stat().st_size for file in files) >= 0.99 * job.case.nbytes


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")[-300:]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints and environments")
    parser.add_argument("--sizes", nargs="+", choices=CONFIGS, default=["0.1B"])
    parser.add_argument("--ingredients", nargs="+", type=int, default=[2, 4])
    parser.add_argument("--dtypes", nargs="+", choices=CODES, default=["bfloat16"])
    parser.add_argument(
        "--case", action="append", type=Case.parse, help="SIZE:COUNT:DTYPE, instead of all combinations"
    )
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--rounds", type=int, default=3, help="counted runs of each contender")
    parser.add_argument("--warmup", type=int, default=1, help="runs before them that do not count")
    parser.add_argument("--timeout", type=float, default=900, help="seconds after which a run is killed")
    parser.add_argument("--cold", action="store_true", help="drop the inputs from memory before every run")
    parser.add_argument("--keep", action="store_true", help="keep the checkpoints")
    parser.add_argument("--json", type=Path, help="results; earlier ones in the file are kept unless measured again")
    parser.add_argument("--docs", type=Path, help="folder to draw plots into")
    given = parser.parse_args()
    given.work = given.work.absolute()
    given.json = given.json or given.work / "results.json"
    return given


if __name__ == "__main__":
    main()

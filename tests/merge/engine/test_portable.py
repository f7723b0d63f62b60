"""The same bytes on any processor: torch and numpy use the instructions of older ones."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np  # noqa: F401 - NUMPY is found where it was loaded
import pytest
import torch
from merge_helpers import model, save_all

from cocktail_hub.methods.registry import METHODS

MERGE_ALL = """
    import sys
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    import torch
    from merge_helpers import digests, mix, weights_for
    from cocktail_hub.merge.engine import workers
    from cocktail_hub.methods.registry import METHODS
    root, needs_torch = Path({root!r}), workers._wants_torch

    def as_if_it_were_not_there(plan):
        del sys.modules["torch"]
        wanted = needs_torch(plan)
        sys.modules["torch"] = torch
        return wanted

    if sys.argv[2] == "numpy":
        workers._wants_torch = as_if_it_were_not_there
    print(torch.backends.cpu.get_cpu_capability())
    for dtype in ("float32", "bfloat16", "float16"):
        folders = [root / dtype / f"m{{i}}" for i in range(3)]
        for method in sorted(METHODS):
            weights = weights_for(method)
            for out_dtype in (None, "bfloat16") if method in ("linear", "ties") else (None,):
                out = root / sys.argv[1] / dtype / method / str(out_dtype)
                mix(folders, out, method=method, weights=weights, dtype=out_dtype, threads=2)
                print(dtype, method, out_dtype, digests(out))
"""
NUMPY = sys.modules.get("numpy._core._multiarray_umath") or sys.modules["numpy.core._multiarray_umath"]  # since 2.0
CAPABILITIES = {"DEFAULT": ["default"], "AVX2": ["default", "avx2"], "AVX512": ["default", "avx2", "avx512"]}


def merged(tmp_path: Path, name: str, library: str, **environment: str) -> tuple[str, list[str]]:
    """Merge everything in another process; returns the instructions that torch uses there, and a line per mix."""
    code = textwrap.dedent(MERGE_ALL).format(tests=str(Path(__file__).parents[2]), root=str(tmp_path))
    command = [sys.executable, "-c", code, name, library]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True)
    first, *lines = done.stdout.splitlines()
    return first, lines


@pytest.mark.slow
def test_older_processors_give_the_same_bytes(tmp_path: Path) -> None:
    """Fused multiply-add, vector tails and NaN are where they would differ."""
    known = CAPABILITIES.get(torch.backends.cpu.get_cpu_capability(), ["default"])
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)):
        models = [model(seed, dtype) | {"large": torch.randn(1000, 301).to(dtype)} for seed in range(3)]
        for index, tensors in enumerate(models):
            tensors["large"][0, :4] = torch.tensor([float("nan"), float("inf"), -0.0, 1e-40 * index])
        save_all(tmp_path / name, models)
    found = []
    for capability in known:
        first, lines = merged(tmp_path, capability, "torch", ATEN_CPU_CAPABILITY=capability)
        assert capability == "default" or first == capability.upper()
        found.append(lines)
    for name, disabled in (("numpy", ""), ("numpy-old", " ".join(NUMPY.__cpu_dispatch__))):
        found.append(merged(tmp_path, name, "numpy", NPY_DISABLE_CPU_FEATURES=disabled)[1])
    assert all(lines == found[0] for lines in found)
    assert len(found[0]) == 3 * (len(METHODS) + 2)

"""The same bytes on any processor: torch is told to use the instructions of older ones."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from merging import model, save_all

MERGE_ALL = """
    import sys
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    import torch
    from merging import digests, mix
    from cocktail_hub.methods import METHODS
    root = Path({root!r})
    print(torch.backends.cpu.get_cpu_capability())
    for dtype in ("float32", "bfloat16", "float16"):
        folders = [root / dtype / f"m{{i}}" for i in range(3)]
        for method in sorted(METHODS):
            weights = [0.2, 0.3, 0.5] if method == "linear" else [0.6, 0.7]
            for out_dtype in (None, "bfloat16"):
                out = root / sys.argv[1] / dtype / method / str(out_dtype)
                mix(folders, out, method=method, weights=weights, dtype=out_dtype, threads=2)
                print(dtype, method, out_dtype, digests(out))
"""
CAPABILITIES = {"DEFAULT": ["default"], "AVX2": ["default", "avx2"], "AVX512": ["default", "avx2", "avx512"]}


@pytest.mark.slow
def test_older_processors_give_the_same_bytes(tmp_path: Path) -> None:
    """Fused multiply-add, vector tails and NaN are where they would differ."""
    known = CAPABILITIES.get(torch.backends.cpu.get_cpu_capability(), ["default"])
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)):
        models = [model(seed, dtype) | {"large": torch.randn(1000, 301).to(dtype)} for seed in range(3)]
        for index, tensors in enumerate(models):
            tensors["large"][0, :4] = torch.tensor([float("nan"), float("inf"), -0.0, 1e-40 * index])
        save_all(tmp_path / name, models)
    code = textwrap.dedent(MERGE_ALL).format(tests=str(Path(__file__).parent), root=str(tmp_path))
    found = []
    for capability in known:
        environment = os.environ | {"ATEN_CPU_CAPABILITY": capability}
        done = subprocess.run(
            [sys.executable, "-c", code, capability], env=environment, capture_output=True, text=True, check=True
        )
        first, *lines = done.stdout.splitlines()
        assert capability == "default" or first == capability.upper()
        found.append(lines)
    assert all(lines == found[0] for lines in found)
    assert len(found[0]) == 18

"""Memory is the same whatever the size of the model and the number of ingredients."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from merge_helpers import save_all

from cocktail_hub.merge.options import (
    ARENA_BYTES,
    COUNTING_BYTES,
    SEARCH_BYTES,
)

MEASURED_MERGE = """
    import sys, threading, time
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    from merge_helpers import mix, save
    import torch
    root = Path(sys.argv[1])

    def anonymous():
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("RssAnon"):
                return int(line.split()[1]) * 1024

    peak, done = [0], threading.Event()

    def watch():
        while not done.wait(0.002):
            peak[0] = max(peak[0], anonymous())

    warm = save(root / "warm", {{"x": torch.zeros(10).bfloat16()}})
    weights = {{"method": sys.argv[2]}} | {{"weights": [1 / int(sys.argv[4])] * int(sys.argv[4])}}
    count = int(sys.argv[4]) + (sys.argv[2] != "linear")
    mix([warm] * count, root / "warm-out", **weights)
    before = anonymous()
    watcher = threading.Thread(target=watch)
    watcher.start()
    mix([root / sys.argv[3] / f"m{{i % 2}}" for i in range(count)], root / "out", threads=2, **weights)
    done.set()
    watcher.join()
    print(peak[0] - before)
"""


def growth(root: Path, method: str, size: str, count: int) -> int:
    """Bytes of anonymous memory that a merge takes beyond those of a tiny one."""
    code = textwrap.dedent(MEASURED_MERGE).format(tests=str(Path(__file__).parents[2]))
    arguments = [sys.executable, "-c", code, str(root), method, size, str(count)]
    return int(subprocess.run(arguments, capture_output=True, text=True, check=True).stdout)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="measured through /proc")
def test_memory_does_not_grow_with_the_model_or_the_ingredients(tmp_path: Path) -> None:
    for name, rows in (("small", 2_000), ("large", 40_000)):
        save_all(tmp_path / name, [{"embed": torch.randn(rows, 1024).bfloat16()} for _ in range(2)])
    few = growth(tmp_path, "linear", "small", 2)
    large = growth(tmp_path, "linear", "large", 2)
    many = growth(tmp_path, "linear", "large", 10)
    ordered = growth(tmp_path, "ties", "large", 2)
    buffers = 2 * ARENA_BYTES
    slack = 8 * 2**20  # stacks of threads, the allocator
    assert max(few, large, many) < buffers + slack  # the large model has 80 MB per ingredient
    assert ordered < 2 * (ARENA_BYTES + 2 * SEARCH_BYTES + COUNTING_BYTES) + slack

"""`cocktail cache`."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from cli_helpers import run

from cocktail_hub.storage.cache import MANIFEST, Cache

pytestmark = pytest.mark.whole


def test_the_cache_is_listed_verified_and_pruned(recipe: Path, fresh_cache: Path) -> None:
    assert run("cache", "list").stdout.splitlines() == ["digest  size  last used  ingredients"]
    folder = Path(run("mix", recipe).stdout.strip())
    _, line = run("cache", "list").stdout.splitlines()
    assert line.startswith(folder.name[:12])
    assert line.endswith("0.75 acme/bert-a + 0.25 acme/bert-b")
    (entry,) = json.loads(run("cache", "list", "--json").stdout)
    assert (entry["digest"], entry["path"]) == (folder.name, str(folder))
    assert run("cache", "verify").exit_code == 0

    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    damaged = run("cache", "verify")
    assert damaged.exit_code == 1
    assert "model.safetensors has other content than was written" in damaged.stdout
    assert "1 mix(es) are damaged" in damaged.stderr

    assert run("cache", "prune", "--older-than", "1").stdout == ""
    gone = run("cache", "prune", "--all")
    assert gone.stdout == f"{folder.name}\n"
    assert Cache(fresh_cache).mixes() == []


@pytest.mark.parametrize(
    ("options", "gone"),
    [
        (("--older-than", "30"), "1"),
        (("--older-than", "41"), ""),
        (("--older-than", "0.5"), "12"),
        (("--older-than", "7d"), "1"),
        (("--older-than", "12h"), "12"),
        (("--older-than", "5 weeks"), "1"),
        (("--older-than", "6W"), ""),
        (("--max-size", "1500"), "1"),
        (("--max-size", "1MB"), ""),
    ],
)
def test_pruning_by_age_and_size(options: tuple[str, str], gone: str, fresh_cache: Path) -> None:
    cache = Cache(fresh_cache)
    for digit, days in (("1", 40), ("2", 1)):
        (cache.staging(digit * 64) / "model.safetensors").write_bytes(bytes(1000))
        path, then = cache.finish(digit * 64, {}).path, time.time() - days * 86_400
        os.utime(path / MANIFEST, (then, then))
    assert "(damaged)" in run("cache", "list").stdout  # no recipe.json
    assert sorted(run("cache", "prune", *options).stdout.split()) == [digit * 64 for digit in gone]


def test_pruning_asks_what_to_remove() -> None:
    done = run("cache", "prune")
    assert done.exit_code == 2
    assert "--older-than 30d, --max-size SIZE, or --all" in done.stderr


@pytest.mark.parametrize("time", ["-1", "soon", "7m", "d", "1.2.3", ""])
def test_a_time_that_is_none_is_wrong_usage(time: str) -> None:
    done = run("cache", "prune", "--older-than", time)
    assert done.exit_code == 2
    assert f"'{time}' is not a time. Write it like 12h, 7d or 2w; a number alone is days." in done.stderr

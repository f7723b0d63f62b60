"""A mix keeps all its weight files open at once, whatever the limit of the shell."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.checkpoint.reader import open_weights
from cocktail_hub.checkpoint.weight_files import read_weight_files
from cocktail_hub.errors import CheckpointError, MergeError, SourceError
from cocktail_hub.storage.disk import disk_errors
from cocktail_hub.storage.positional_file import keep_spare

if TYPE_CHECKING:
    from pathlib import Path

resource = pytest.importorskip("resource", reason="only systems of the Unix kind have such a limit")

ADVICE = (
    "A mix keeps the weight files of all its models open at the same time.\n"
    "Raise the limit (`ulimit -n 8192`, or ask the system's administrator), then run the same command again: "
    "finished shards are kept."
)
MIX = """
    import json, resource, sys
    from pathlib import Path

    soft, hard, out, *folders = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(soft), int(hard)))

    from cocktail_hub import MixOptions, mix
    from cocktail_hub.errors import CocktailError

    recipe = {"ingredients": [{"model": folder, "weight": 1 / len(folders)} for folder in folders]}
    try:
        mix(recipe, output=out, options=MixOptions(threads=2))
        print("limit", resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    except CocktailError as error:
        print(type(error).__name__, error)
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Five models of 30 files each."""
    from models import fill, small_llama

    found = []
    for seed in range(5):
        folder = tmp_path_factory.mktemp(f"model{seed}")
        fill(small_llama(), seed).save_pretrained(folder, max_shard_size=1)
        found.append(folder)
    return found


def made(folders: list[Path], out: Path, soft: int, hard: int) -> str:
    code = [sys.executable, "-c", textwrap.dedent(MIX), str(soft), str(hard), str(out), *map(str, folders)]
    environment = os.environ | {"COCKTAIL_HUB_CACHE": str(out.parent / "cache")}
    ran = subprocess.run(code, capture_output=True, text=True, env=environment, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.removesuffix("\n")


@pytest.mark.whole
def test_a_low_limit_is_raised_as_far_as_needed(folders: list[Path], tmp_path: Path) -> None:
    said = made(folders, tmp_path / "out", 100, 4096)
    assert 300 <= int(said.removeprefix("limit ")) <= 600
    assert len(load_file(tmp_path / "out" / "model.safetensors")) == 30


@pytest.mark.whole
def test_an_error_about_a_hard_limit_says_what_to_do(folders: list[Path], tmp_path: Path) -> None:
    kind, _, words = made(folders, tmp_path / "out", 100, 100).partition(" ")
    first, _, rest = words.partition("\n")
    assert kind == "CheckpointError"
    assert re.fullmatch(
        r"'model-000\d\d-of-00030.safetensors' of '.*model3.' cannot be opened: this process has reached "
        r"the limit on open files\.",
        first,
    )
    assert rest == ADVICE
    assert not (tmp_path / "out").exists()


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The limits: the initial ones, then those that were set. The real ones do not change."""
    limits = [(256, 1000)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: limits.append(new))
    return limits


@pytest.mark.parametrize(
    ("number", "soft", "hard", "then"),
    [
        (100, 256, 1000, 256),
        (128, 256, 1000, 512),
        (255, 256, 1000, 512),
        (0, 256, 1000, 512),
        (600, 700, 1000, 1000),
        (200, 256, resource.RLIM_INFINITY, 512),
        (20, 30, 1000, 276),
        (1000, 1024, 1024, 1024),
        (1000, resource.RLIM_INFINITY, resource.RLIM_INFINITY, resource.RLIM_INFINITY),
    ],
)
def test_the_limit_is_doubled_near_its_end_but_not_beyond_the_hard_limit(
    limit: list[tuple[int, int]], number: int, soft: int, hard: int, then: int
) -> None:
    limit[:] = [(soft, hard)]
    keep_spare(number)
    assert limit[-1] == (then, hard)


def test_a_system_that_raises_no_limit_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(*_: object) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refusing)
    keep_spare(255)


def test_a_system_without_such_limits_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)
    keep_spare(255)


def test_every_way_to_open_a_file_reports_the_limit_in_the_same_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = OSError(errno.EMFILE, "Too many open files")

    def refusing(*_: object, **__: object) -> None:
        raise full

    torch.save({"weight": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    files = LocalFiles(tmp_path, name="org/a")
    layout = read_weight_files(files)
    words = "this process has reached the limit on open files.\n" + ADVICE
    with pytest.raises(MergeError) as written, disk_errors(tmp_path):
        raise full
    assert str(written.value) == f"'{tmp_path}' cannot be written to: {words}"
    monkeypatch.setattr(torch, "load", refusing)
    with pytest.raises(CheckpointError) as pickled:
        open_weights(layout, tmp_path)
    assert str(pickled.value) == f"'pytorch_model.bin' of 'org/a' cannot be opened: {words}"
    monkeypatch.setattr(type(tmp_path), "open", refusing)
    with pytest.raises(SourceError) as read:
        files.read("pytorch_model.bin")
    assert str(read.value) == f"Cannot read 'pytorch_model.bin' of 'org/a': {words}"


def test_a_file_without_read_permission_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    torch.save({"weight": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    layout = read_weight_files(LocalFiles(tmp_path, name="org/a"))
    monkeypatch.setattr(torch, "load", refusing)
    with pytest.raises(CheckpointError) as caught:
        open_weights(layout, tmp_path)
    assert str(caught.value) == (
        "'pytorch_model.bin' of 'org/a' cannot be opened: [Errno 13] Permission denied.\n"
        "Without these weights the mix cannot be finished.\n"
        "Check the disk or network share, then run the same command again: finished shards are kept."
    )

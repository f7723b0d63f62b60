"""`kill -9` at any moment: whole results or none, nothing done twice, nothing left over, the same bytes."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError
from kill_harness import Forks
from models import ORG, SHARES, TOKEN, fill, push, root, small_llama, text_tokenizer

from cocktail_hub.cli.main import GRACE_PERIOD
from cocktail_hub.resolve.source import RECIPE_FILE
from cocktail_hub.storage.cache import JOURNAL, MANIFEST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cocktail_hub.testing import LoopbackHub

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL on Windows")]
API = HfApi(token=TOKEN)
SHARD = 10_000
"""Bytes of a weight file; the mixes have nine or more."""
KILLED = -signal.SIGKILL
ENDS = {signal.SIGINT: 130, signal.SIGTERM: -signal.SIGTERM}
"""Signal -> exit code."""


@pytest.fixture(scope="module")
def models() -> tuple[list[str], list[str]]:
    """Two models: as folders, and on the Hub."""
    names = [f"{ORG}/killed-{letter}" for letter in "ab"]
    for seed, name in enumerate(names):
        fill(small_llama(), seed).save_pretrained(root() / name)
        text_tokenizer().save_pretrained(root() / name)
        push(root() / name, name)
    return [str(root() / name) for name in names], names


class ScoringContext:
    """A command that is killed again and again in one folder, and what must hold whenever it is."""

    def __init__(self, forks: Forks, models: tuple[list[str], list[str]], kind: str) -> None:
        self.folder, self.forks, self.kind = forks.folder, forks, kind
        self.out, self.cache = self.folder / "out", self.folder / "cache"
        forks.environment["COCKTAIL_HUB_CACHE"] = str(self.cache)
        low = kind in ("low-disk", "push")
        forks.workers = kind == "workers"
        self._recipe = self.folder.with_name("recipe.json")
        weighted = zip(models[low], SHARES, strict=True)
        self._recipe.write_text(json.dumps({"ingredients": [{"model": m, "weight": w} for m, w in weighted]}))
        self._common = ["--max-shard-size", SHARD, "--cache-dir", self.folder.with_name("hub")]
        self._low = ["--low-disk"] if low else []
        self.repo = f"alice/killed-{random.getrandbits(64):x}"
        self.fresh()

    @property
    def command(self) -> list[object]:
        """The command line."""
        if self.kind == "push":
            return ["push", self._recipe, self.repo, "--token", TOKEN, *self._low, *self._common]
        where = [] if self.kind == "cache" else ["-o", self.out]
        again = ["--force"] if self.kind == "replace" else []
        return ["mix", self._recipe, *where, *again, *self._low, *self._common]

    def fresh(self) -> None:
        """Forget everything; where there is something to be replaced or copied, make that first."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        self.repo = f"alice/killed-{random.getrandbits(64):x}"
        if self.kind == "replace":
            self.forks.finish(["mix", self._recipe, "-o", self.out, "--max-shard-size", 3 * SHARD])
        if self.kind == "copy":
            self.forks.finish(["mix", self._recipe, *self._common])

    def usual(self) -> float:
        """Seconds that the command takes, with everything in memory; its result is there after that."""
        self.forks.finish(self.command)
        self.fresh()
        began = time.monotonic()
        self.forks.finish(self.command)
        return time.monotonic() - began

    def result(self) -> Path | None:
        """The folder under the final name."""
        if self.kind == "cache":
            return next((path for path in self.cache.glob("mixes/*") if not path.name.startswith(".")), None)
        return self.out if self.out.exists() else None

    def content(self) -> dict[str, Any] | None:
        """What people have of it: name -> content; `None` for nothing.

        Where files are read in parts, which of them were compared with their hash depends on where a run began.
        """
        if self.kind == "push":
            return self._published()
        folder = self.result()
        if folder is None:
            return None
        found: dict[str, Any] = {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        return without_materials(found, found[RECIPE_FILE]) if self.kind == "low-disk" else found

    def _published(self) -> dict[str, Any] | None:
        try:
            commits = len(API.list_repo_commits(self.repo))
        except RepositoryNotFoundError:
            return None
        # That of the new repo, ours, and one that says more of the hashes than a run that was killed before could.
        assert commits <= 3
        files = API.get_paths_info(self.repo, API.list_repo_files(self.repo))
        found = {file.path: file.blob_id for file in files if file.path not in (".gitattributes", "README.md")}
        assert bool(found) == (commits > 1)
        return without_materials(found, API.hf_hub_download(self.repo, RECIPE_FILE)) if found else None

    def finished(self) -> dict[str, tuple[int, int]]:
        """Finished weight files, entered in the journal or under their final name -> inode and time."""
        found = {path.name: path for path in self.folder.rglob("*.safetensors")}
        for journal in self.folder.rglob(JOURNAL):
            for name, (_, _, uploaded) in json.loads(journal.read_text())["finished"].items():
                if uploaded:
                    continue
                found.setdefault(name, journal.with_name(f"{name}.incomplete"))
        return {name: (path.stat().st_ino, path.stat().st_mtime_ns) for name, path in found.items()}

    def sent(self) -> set[str]:
        """Digests of the files that the journal says are uploaded."""
        journals = [
            json.loads(path.read_text())["finished"] for path in self.cache.glob(f"staging/*/weights/{JOURNAL}")
        ]
        return {sha256 for journal in journals for _, sha256, uploaded in journal.values() if uploaded}

    def litter(self) -> list[str]:
        """What should not be there after a success: anything but the result, digests, and the
        locks of two mixes, of the folder and of the cache's identity.
        """
        names = [path.name for path in self.folder.iterdir() if path.name not in ("out", "cache")]
        names += [path.name for path in self.cache.rglob("*") if path.name.endswith((".incomplete", ".partial"))]
        names += [path.name for path in (*self.cache.glob("staging/*"), *self.cache.glob("mixes/.*"))]
        return names + [path.name for path in list(self.cache.glob("locks/*.lock"))[4:]]


def without_materials(found: dict[str, Any], recipe: bytes | str) -> dict[str, Any]:
    """Leave out which files were compared with their hash; `recipe` is the content of recipe.json, or its path."""
    content = json.loads(recipe if isinstance(recipe, bytes) else Path(recipe).read_bytes())
    content["evidence"].pop("materials")
    return {name: blob for name, blob in found.items() if name != MANIFEST} | {RECIPE_FILE: content}


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    folder = tmp_path_factory.mktemp("killed") / "run"
    folder.mkdir()
    with Forks(folder) as forks:
        yield forks


def go_on(scene: ScoringContext, hub: LoopbackHub, whole: dict[str, Any]) -> None:
    """Run the command after a kill, to its end."""
    kept, sent = scene.finished(), scene.sent()
    hub.clear_requests()
    scene.forks.finish(scene.command)
    assert scene.content() == whole
    assert scene.litter() == []
    if scene.kind in ("output", "workers", "cache", "low-disk"):
        assert scene.finished().items() >= kept.items(), "finished files are not made again"
    again = [seen.path for seen in hub.requests if seen.method == "PUT" and seen.path.rpartition("/")[2] in sent]
    assert again == [], "what was sent is not sent again"


STRIDES = {"output": 3, "cache": 7, "copy": 5, "replace": 8, "low-disk": 8, "push": 12}
"""Kind of command -> of how many changes of the disk each is tried; with 1 for all, the test takes five minutes."""


@pytest.mark.parametrize("kind", STRIDES)
def test_a_kill_at_any_change_of_the_disk(
    kind: str, forks: Forks, hub: LoopbackHub, models: tuple[list[str], list[str]]
) -> None:
    """Runs are killed just before their n-th change, for n from the first to the last; the next run goes on."""
    scene = ScoringContext(forks, models, kind)
    before = scene.content()
    forks.finish(scene.command)
    whole = scene.content()
    assert whole
    for doom in range(1, 1000, STRIDES[kind]):
        scene.fresh()
        code, text = forks.run(scene.command, doom=doom)
        if code == 0:
            break
        assert code == KILLED, text
        assert scene.content() in (before, whole, None)
        go_on(scene, hub, whole)
    assert doom > 20, "there are many changes"


@pytest.mark.fuzz
@pytest.mark.parametrize(
    ("kind", "kills"), {"output": 15, "workers": 15, "cache": 10, "low-disk": 10, "push": 15}.items()
)
def test_kills_at_random_moments(
    kind: str, kills: int, forks: Forks, hub: LoopbackHub, models: tuple[list[str], list[str]]
) -> None:
    """One command is killed again and again, and begun anew whenever it was quicker."""
    scene, chance = ScoringContext(forks, models, kind), random.Random(kind)
    usual, whole = scene.usual(), scene.content()
    assert whole
    scene.fresh()
    killed = 0
    while killed < kills:
        kept = scene.finished()
        fork = forks.start(scene.command)
        time.sleep(chance.uniform(0, 0.8 * usual))
        fork.kill()
        code = fork.wait()
        killed += code == KILLED
        assert scene.content() in (whole, None)
        if kind != "push":
            assert scene.finished().items() >= kept.items(), "finished files are not made again"
        if code == 0 or killed % 5 == 0:
            go_on(scene, hub, whole)
            scene.fresh()
    go_on(scene, hub, whole)


@pytest.mark.fuzz
@pytest.mark.parametrize("number", ENDS, ids=lambda number: signal.Signals(number).name)
@pytest.mark.parametrize("kind", ["output", "workers", "low-disk", "push"])
def test_interrupts_at_random_moments(
    kind: str, number: int, forks: Forks, hub: LoopbackHub, models: tuple[list[str], list[str]]
) -> None:
    scene, chance = ScoringContext(forks, models, kind), random.Random(kind)
    usual, whole = scene.usual(), scene.content()
    assert whole
    for _ in range(6):
        scene.fresh()
        fork = forks.start(scene.command)
        time.sleep(0.01 + chance.uniform(0, 0.8 * usual))
        began = time.monotonic()
        fork.kill(number)
        ended = fork.wait()
        assert time.monotonic() - began < GRACE_PERIOD + 10
        assert ended in (0, ENDS[number]), fork.text  # it may have been quicker
        assert "Traceback" not in fork.text
        assert scene.content() in (whole, None)
        go_on(scene, hub, whole)


@pytest.mark.parametrize("kind", ["output", "cache", "copy"])
def test_five_processes_with_one_mix_and_two_of_them_killed(
    kind: str, forks: Forks, hub: LoopbackHub, models: tuple[list[str], list[str]]
) -> None:
    scene, chance = ScoringContext(forks, models, kind), random.Random(kind)
    forks.finish(scene.command)
    whole = scene.content()
    for _ in range(3):
        scene.fresh()
        started = [forks.start(scene.command, name=f"log{number}") for number in range(5)]
        for fork in started[:2]:
            time.sleep(chance.uniform(0, 0.2))
            fork.kill()
        codes = [fork.wait() for fork in started]
        texts = [fork.text for fork in started]
        assert codes[2:] == [0, 0, 0], texts
        assert set(codes[:2]) <= {0, KILLED}, texts
        assert sum("Merged " in text for text in texts) <= 1, texts
        assert scene.content() == whole
        assert scene.litter() == []


def test_an_interrupted_mix_with_other_weight_files_is_another_one(
    forks: Forks, hub: LoopbackHub, models: tuple[list[str], list[str]]
) -> None:
    scene = ScoringContext(forks, models, "output")
    assert forks.run(scene.command, doom=80)[0] == KILLED
    assert len(scene.finished()) > 2
    command = [3 * SHARD if word is SHARD else word for word in scene.command]
    forks.finish(command)
    other = scene.content()
    assert scene.litter() == []
    scene.fresh()
    forks.finish(command)
    assert scene.content() == other

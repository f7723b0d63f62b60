"""Merging on a real local Ray of two workers: the same bytes, whichever worker dies."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers
from merge_helpers import component, save_all
from models import SHARES, TOKEN, fill, published, root, text_tokenizer

from cocktail_hub import mix, publish
from cocktail_hub.checkpoint.files import FileState, LocalFiles
from cocktail_hub.checkpoint.reader import open_weights
from cocktail_hub.checkpoint.weight_files import read_weight_files
from cocktail_hub.errors import CheckpointError, DiskSpaceError, MergeError, MissingExtraError
from cocktail_hub.hub import Hub
from cocktail_hub.merge.engine.execute import MergeTask, execute
from cocktail_hub.merge.engine.on_ray import ATTEMPTS, make_shard, run_on_ray
from cocktail_hub.merge.inputs import ShardInputs
from cocktail_hub.merge.options import COUNTING_BYTES, SEARCH_BYTES, MixOptions
from cocktail_hub.merge.plan import plan_merge
from cocktail_hub.merge.run import plan_mix
from cocktail_hub.pipeline.mix import check_and_weigh, prepare
from cocktail_hub.resolve.source import RECIPE_FILE, load_recipe_source
from cocktail_hub.storage.cache import JOURNAL, MANIFEST
from cocktail_hub.storage.disk import sha256_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cocktail_hub.checkpoint.reader import TensorReader
    from cocktail_hub.merge.plan import MergePlan, ShardPlan
    from cocktail_hub.testing import LoopbackHub

pytestmark = [
    pytest.mark.whole,
    pytest.mark.ray,
    pytest.mark.timeout(900),  # one file after the other has a Ray
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def recipe() -> dict[str, Any]:
    """Two local models of 32 MB."""
    config = transformers.LlamaConfig(
        vocab_size=2000,
        hidden_size=512,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=0,
    )
    folders = [root() / f"ray-{letter}" for letter in "ab"]
    for seed, folder in enumerate(folders):
        fill(transformers.LlamaForCausalLM(config).bfloat16(), seed).save_pretrained(folder)
        text_tokenizer().save_pretrained(folder)
    return {"ingredients": [{"model": str(f), "weight": w} for f, w in zip(folders, SHARES, strict=True)]}


@pytest.fixture
def planned(recipe: dict[str, Any], tmp_path: Path) -> tuple[MergePlan, ShardInputs]:
    """A plan of seven files, and what they are made from."""
    options = MixOptions(max_shard_size="5MB")
    origin = load_recipe_source(recipe, options.hub)
    checked, _ = check_and_weigh(prepare(origin, options))
    inputs = ShardInputs(components=checked.components, models=checked.models, scratch=tmp_path / "partial")
    return plan_mix(checked, options.max_shard_size), inputs


execute_on_ray = partial(execute, run=run_on_ray)


class Assassin(threading.Thread):
    """Kills the first worker that begins a shard after `spared` others have begun one."""

    def __init__(self, folder: Path, spared: int) -> None:
        super().__init__()
        self._folder, self._spared = folder, spared
        self.seen: dict[str, str] = {}
        self.killed = 0
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.is_set():
            attempts: list[Path] = []
            with suppress(FileNotFoundError):  # the merge removes the folder at its end
                attempts += (self._folder / ATTEMPTS).glob("*-*")
            for attempt in attempts:
                if attempt.name not in self.seen:
                    self.seen[attempt.name] = attempt.name
                    if len(self.seen) > self._spared and not self.killed:
                        self.killed = int(attempt.name.partition("-")[0])
                        os.kill(self.killed, signal.SIGKILL)
            time.sleep(0.0005)


# before the tests with `ray`, which these would connect to


OWN_CLUSTER = """
    from cocktail_hub.cli import main
    from cocktail_hub.merge.engine import ray_cluster as cluster

    owned, Cluster = [], cluster.Cluster
    cluster.Cluster = lambda ray, own: owned.append(own) or Cluster(ray, own=own)
    try:
        main()
    finally:
        import ray

        assert owned == [True] and not ray.is_initialized()
"""


@pytest.mark.slow
@pytest.mark.usefixtures("no_other_ray")
def test_the_command_line_starts_a_cluster_of_its_own_and_stops_it(recipe: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs cocktail-hub[ray]")
    code = textwrap.dedent(OWN_CLUSTER)
    lines = ["ingredients:", *(f"  - {{model: '{i['model']}', weight: {i['weight']}}}" for i in recipe["ingredients"])]
    (tmp_path / "recipe.yaml").write_text("\n".join(lines))
    command = [sys.executable, "-c", code, "mix", str(tmp_path / "recipe.yaml"), "-o", str(tmp_path / "out")]
    done = subprocess.run(
        [*command, "--engine", "ray", "--max-shard-size", "10MB"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, str(tmp_path / "out")), done.stderr
    here = mix(recipe, output=tmp_path / "here", options=MixOptions(max_shard_size="10MB", force=True))
    for path in here.path.glob("*.safetensors"):
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
@pytest.mark.usefixtures("no_other_ray")
def test_a_killed_run_is_resumed_by_the_next_one(recipe: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs cocktail-hub[ray]")
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    run = "import sys; from cocktail_hub.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", run, "mix", "recipe.json", "-o", "out", "--engine", "ray", "--threads", "1"]
    command += ["--max-shard-size", "2MB"]
    driver = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    noted: list[str] = []
    while len(noted) < 2:
        assert driver.poll() is None
        time.sleep(0.001)
        for journal in tmp_path.glob(f".out.*.partial/{JOURNAL}"):
            noted = list(json.loads(journal.read_text())["finished"])
    driver.kill()
    driver.wait()
    (stage,) = tmp_path.glob(".out.*.partial")
    noted = list(json.loads((stage / JOURNAL).read_text())["finished"])
    kept = {name: (stage / name).stat().st_ino for name in noted}
    assert len(kept) >= 2
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    assert {name: (out / name).stat().st_ino for name in kept} == kept
    here = mix(recipe, output=tmp_path / "here", options=MixOptions(max_shard_size="2MB", force=True)).path
    assert names(out) == names(here)
    for path in here.glob("*.safetensors"):
        assert (out / path.name).read_bytes() == path.read_bytes()
    assert [path.name for path in tmp_path.glob(".out*")] == []


# with a cluster of this process


def test_a_worker_that_is_killed_is_replaced_and_the_bytes_are_those_of_threads(
    ray: Any, planned: tuple[MergePlan, ShardInputs], tmp_path: Path
) -> None:
    plan, inputs = planned
    assert len(plan.shards) == 7
    out = tmp_path / "ray"
    out.mkdir()
    assassin = Assassin(out, spared=3)
    assassin.start()
    moved: list[int] = []
    try:
        report = execute_on_ray(plan, inputs, out, threads=1, on_progress=moved.append)
    finally:
        assassin.over.set()
        assassin.join()
    assert assassin.killed
    assert len(assassin.seen) > len(plan.shards)  # a shard was begun again
    assert sum(moved) == plan.output_bytes
    assert report.threads == 2
    expected = execute(plan, inputs, tmp_path / "threads")
    assert report.digests == expected.digests
    assert report.bytes_read == expected.bytes_read == plan.input_bytes
    assert names(out) == names(tmp_path / "threads")
    for path in names(out):
        assert (out / path).read_bytes() == (tmp_path / "threads" / path).read_bytes()


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_what_a_method_reads_twice_is_counted_twice(ray: Any, tmp_path: Path) -> None:
    memory = (1 << 18) + 2 * SEARCH_BYTES + COUNTING_BYTES
    folders = save_all(tmp_path, [{"x": torch.randn(3600, 120).bfloat16()} for _ in range(3)])
    plan = plan_merge([component(folders)], weights=[1.0, 1.0], method="ties", parameters={"density": 0.3})
    report = execute_on_ray(plan, Folders(folders), tmp_path / "out", threads=1, max_memory=memory)
    here = execute(plan, Folders(folders), tmp_path / "here", threads=1, max_memory=memory)
    assert report.bytes_read == here.bytes_read > 2 * plan.input_bytes


class Folders:
    """Models in folders, opened for a shard; a worker can do so, too."""

    def __init__(self, folders: list[Path]) -> None:
        self.folders = folders

    @contextmanager
    def opened(self, shard: ShardPlan) -> Iterator[list[TensorReader]]:
        with ExitStack() as stack:
            layouts = [(read_weight_files(LocalFiles(folder)), folder) for folder in self.folders]
            yield [stack.enter_context(closing(open_weights(layout, folder))) for layout, folder in layouts]


class Stop(Exception):  # noqa: N818 - not an error
    """Ends a run from outside."""


def test_finished_shards_are_not_made_again(ray: Any, planned: tuple[MergePlan, ShardInputs], tmp_path: Path) -> None:
    plan, inputs = planned
    calls: list[int] = []

    def stop_after_three(count: int) -> None:
        calls.append(count)
        if len(calls) == 4:  # the first call tells what an earlier run has finished
            raise Stop

    with pytest.raises(Stop):
        execute_on_ray(plan, inputs, tmp_path / "out", threads=1, on_progress=stop_after_three)
    report = execute_on_ray(plan, inputs, tmp_path / "out", threads=1)
    assert report.bytes_written == plan.output_bytes - sum(calls)
    assert report.digests == execute(plan, inputs, tmp_path / "threads").digests


def test_one_runner_resumes_what_the_other_began(
    ray: Any, planned: tuple[MergePlan, ShardInputs], tmp_path: Path
) -> None:
    plan, inputs = planned
    calls: list[int] = []

    def stop(count: int) -> None:
        calls.append(count)
        if sum(calls) > plan.output_bytes / 2:
            raise Stop

    with pytest.raises(Stop):
        execute(plan, inputs, tmp_path / "out", on_progress=stop)
    report = execute_on_ray(plan, inputs, tmp_path / "out")
    assert 0 < report.bytes_written < plan.output_bytes
    assert report.digests == execute(plan, inputs, tmp_path / "threads").digests


def test_mixing_and_publishing_run_on_ray_with_the_same_bytes(
    ray: Any, hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COCKTAIL_HUB_CACHE", str(tmp_path / "cocktail"))
    recipe = published("llama").recipe
    options = {"hub": Hub(token=TOKEN, cache_dir=tmp_path / "hub"), "max_shard_size": 10_000}
    low = mix(recipe, output=tmp_path / "low", options=MixOptions(engine="ray", low_disk=True, **options))
    publish(recipe, "alice/on-ray", options=MixOptions(engine="ray", low_disk=True, **options))
    whole = mix(recipe, output=tmp_path / "whole", options=MixOptions(engine="ray", **options))
    here = mix(recipe, output=tmp_path / "here", options=MixOptions(force=True, **options))
    for path in here.path.iterdir():
        assert path.read_bytes() == (whole.path / path.name).read_bytes()
        if path.name not in (RECIPE_FILE, MANIFEST):  # which say what files were compared with their hash
            assert path.read_bytes() == (low.path / path.name).read_bytes()
    assert ray.is_initialized()
    pushed = Hub(token=TOKEN).api.get_paths_info("alice/on-ray", sorted(low.report["merged"].digests))
    assert {file.path: file.lfs.sha256 for file in pushed} == {
        file.path: sha256_of(low.path / file.path) for file in pushed
    }


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_an_error_of_a_task_is_raised_unchanged_and_not_retried(
    ray: Any, planned: tuple[MergePlan, ShardInputs], tmp_path: Path
) -> None:
    plan, inputs = planned
    files = inputs.models[0].body.files
    assert isinstance(files, LocalFiles)
    files._states["model.safetensors"] = FileState(1, 2, 3, 4)
    with pytest.raises(CheckpointError, match="changed while it was being mixed") as caught:
        execute_on_ray(plan, inputs, tmp_path / "out")
    assert caught.value.model == plan.components[0].models[0]
    assert not (tmp_path / "out" / ATTEMPTS).exists()


def test_more_threads_than_a_node_has_are_refused(
    ray: Any, planned: tuple[MergePlan, ShardInputs], tmp_path: Path
) -> None:
    plan, inputs = planned
    with pytest.raises(MergeError, match="3 threads per task, but a node of the Ray cluster has 2 processors"):
        execute_on_ray(plan, inputs, tmp_path / "out", threads=3)


def test_a_cluster_without_gpus_is_reported_at_once(
    ray: Any, planned: tuple[MergePlan, ShardInputs], tmp_path: Path
) -> None:
    plan, inputs = planned
    with pytest.raises(MergeError, match="no node of the Ray cluster has a GPU"):
        execute_on_ray(plan, inputs, tmp_path / "out", device="cuda")


def test_a_node_that_does_not_see_the_folder_says_so(planned: tuple[MergePlan, ShardInputs], tmp_path: Path) -> None:
    plan, inputs = planned
    task = MergeTask(plan=plan, inputs=inputs, folder=tmp_path / "elsewhere")
    with pytest.raises(MergeError, match="does not see the output folder"):
        make_shard(task, 0)


def test_a_full_disk_of_a_worker_is_a_disk_space_error(
    planned: tuple[MergePlan, ShardInputs], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    plan, inputs = planned
    (tmp_path / ATTEMPTS).mkdir()
    task = MergeTask(plan=plan, inputs=inputs, folder=tmp_path)
    monkeypatch.setattr(ShardInputs, "opened", full)
    with pytest.raises(DiskSpaceError, match=f"The disk of '{tmp_path}' has"):
        make_shard(task, 0)


def test_without_ray_the_extra_is_named(
    planned: tuple[MergePlan, ShardInputs], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r'pip install "\.\[ray\]"'):
        execute_on_ray(*planned, tmp_path / "out")

"""Chunks computed in other processes: the same bytes, the same errors, and no process left behind."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from merge_helpers import Tensors, model, opened, plan, save, save_all

from cocktail_hub.checkpoint.reader import SafetensorsReader
from cocktail_hub.errors import CheckpointError, IncompatibleError, MergeError
from cocktail_hub.merge.engine.execute import MergeTask, OpenModels, fill_shard
from cocktail_hub.merge.engine.processes import READY, FileOutput, WorkerProcess, can_open
from cocktail_hub.merge.engine.workers import WorkerPool
from cocktail_hub.merge.kernels.buffers import Buffers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cocktail_hub.merge.plan import MergePlan

ARENA = 1 << 18
pytestmark = pytest.mark.whole


class OneProcess(WorkerPool):
    """A pool whose only worker is a process."""

    local = Buffers(ARENA)  # type: ignore[assignment] - cuts chunks, makes none

    def __init__(self) -> None:
        self.process = WorkerProcess(ARENA)
        super().__init__([self.process])


@pytest.fixture
def elsewhere() -> Iterator[OneProcess]:
    pool = OneProcess()
    yield pool
    pool.close()
    assert pool.process._process.poll() is not None


def fill(made: MergePlan, folders: Sequence[Path], out: Path, pool: WorkerPool) -> tuple[bytes, int]:
    """The bytes of the first shard, and how many of them were reported."""
    out.mkdir()
    reported: list[int] = []
    with ExitStack() as stack:
        readers = opened(stack, folders)
        task = MergeTask(plan=made, inputs=OpenModels([readers]), folder=out)
        writer = fill_shard(task, made.shards[0], readers, pool, reported.append)
        writer.seal()
        writer.publish()
    return (out / made.shards[0].path).read_bytes(), sum(reported)


def fill_here(made: MergePlan, folders: Sequence[Path], out: Path) -> tuple[bytes, int]:
    return fill(made, folders, out, WorkerPool([Buffers(ARENA)]))


OPTIONS = {
    "linear": {"weights": [0.5, 0.3, 0.2]},
    "task_arithmetic": {"weights": [0.4, 0.6], "method": "task_arithmetic", "parameters": {"lambda": 0.7}},
    "ties": {"weights": [0.5, 0.5], "method": "ties"},
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("method", OPTIONS)
def test_other_processes_make_the_same_bytes(
    tmp_path: Path, method: str, dtype: torch.dtype, elsewhere: OneProcess
) -> None:
    folders = save_all(tmp_path, [model(seed, dtype) for seed in range(3)])
    made = plan(folders, **OPTIONS[method])
    expected = fill_here(made, folders, tmp_path / "here")
    assert fill(made, folders, tmp_path / "there", elsewhere) == expected
    assert elsewhere.process.bytes_read > 0
    assert expected[1] == made.output_bytes


def test_a_process_works_on_one_shard_after_the_other(tmp_path: Path, elsewhere: OneProcess) -> None:
    for number, seeds in enumerate([(0, 1), (2, 3)]):
        folders = save_all(tmp_path / str(number), [model(seed) for seed in seeds])
        made = plan(folders, weights=[0.5, 0.5])
        expected = fill_here(made, folders, tmp_path / f"here{number}")
        assert fill(made, folders, tmp_path / f"there{number}", elsewhere) == expected


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted as Linux lists them")
def test_a_process_has_two_threads(tmp_path: Path, elsewhere: OneProcess) -> None:
    folders = save_all(tmp_path, [model(0), model(1)])
    fill(plan(folders, weights=[0.5, 0.5]), folders, tmp_path / "out", elsewhere)
    assert len(list(Path(f"/proc/{elsewhere.process._process.pid}/task").iterdir())) == 2


def broken(tmp_path: Path, tensors: Tensors) -> tuple[MergePlan, list[Path]]:
    folders = [save(tmp_path / "m0", model(0)), save(tmp_path / "m1", model(1) | tensors)]
    return plan(folders, weights=[0.5, 0.5]), folders


def test_an_error_that_a_process_finds_is_raised_here(tmp_path: Path, elsewhere: OneProcess) -> None:
    made, folders = broken(tmp_path, {"scale": torch.tensor(float("nan"), dtype=torch.bfloat16)})
    with pytest.raises(IncompatibleError, match="'scale' of 'm1' holds NaN") as caught:
        fill(made, folders, tmp_path / "out", elsewhere)
    assert (caught.value.model, caught.value.tensor) == ("m1", "scale")
    assert list((tmp_path / "out").iterdir()) == []
    made, folders = broken(tmp_path, {"position_ids": torch.arange(12) + 1})
    with pytest.raises(IncompatibleError, match="the integers of 'position_ids' differ"):
        fill(made, folders, tmp_path / "again", elsewhere)


def test_a_model_that_has_changed_is_not_opened_again(tmp_path: Path) -> None:
    folders = save_all(tmp_path, [model(0)])
    with ExitStack() as stack:
        (source,) = opened(stack, folders)
        with closing(pickle.loads(pickle.dumps(source))) as again:
            assert again.specs == source.specs
        pickled = pickle.dumps(source)
        save(folders[0], model(1))
        with pytest.raises(CheckpointError, match=r"'model.safetensors' of 'm0' changed"):
            pickle.loads(pickled)


def test_a_killed_process_is_an_error_and_nothing_is_left(tmp_path: Path, elsewhere: OneProcess) -> None:
    folders = save_all(tmp_path, [model(0), model(1)])
    elsewhere.process._process.kill()
    with pytest.raises(
        MergeError, match=r"worker process of the merge was killed by signal 9.\n.*shards are kept.\nRun the same"
    ):
        fill(plan(folders, weights=[0.5, 0.5]), folders, tmp_path / "out", elsewhere)
    assert list((tmp_path / "out").iterdir()) == []


def test_an_answer_that_is_cut_short_is_a_dead_process(tmp_path: Path) -> None:
    folders = save_all(tmp_path, [model(0), model(1)])
    pool = OneProcess()
    with pool.process._process:
        pool.process._process.kill()
    for kept in (0, 1, 2):
        code = f"import sys; sys.stdout.buffer.write({(READY + pickle.dumps(1))[: len(READY) + kept]!r})"
        process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        pool.process._process, pool.process._orders, pool.process._answers = process, process.stdin, process.stdout
        pool.process._ready = False
        with pytest.raises(MergeError, match=r"A worker process of the merge (was killed by|ended with)"):
            fill(plan(folders, weights=[0.5, 0.5]), folders, tmp_path / f"out{kept}", pool)
        pool.close()


def test_an_error_of_the_disk_in_a_process_is_not_taken_for_its_death(
    tmp_path: Path, elsewhere: OneProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(job: object, output: FileOutput) -> object:
        return replaced(job, output=FileOutput(tmp_path / "nowhere" / "file"))

    replaced = dataclasses.replace
    folders = save_all(tmp_path, [model(0), model(1)])
    monkeypatch.setattr("cocktail_hub.merge.engine.processes.replace", gone)
    with pytest.raises(OSError, match="nowhere") as caught:
        fill(plan(folders, weights=[0.5, 0.5]), folders, tmp_path / "out", elsewhere)
    assert caught.value.errno == errno.ENOENT
    assert elsewhere.process._process.poll() is None


def test_a_process_that_cannot_begin_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = save_all(tmp_path, [model(0), model(1)])
    with monkeypatch.context() as patch:
        patch.setattr(sys, "path", [])
        lost = OneProcess()
    with pytest.raises(MergeError, match="ended with exit code 1"):
        fill(plan(folders, weights=[0.5, 0.5]), folders, tmp_path / "out", lost)
    lost.close()


def test_a_system_that_starts_no_process_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python3")
    with pytest.raises(MergeError, match=r"cannot be started: .*No such file.*\nNothing was merged.\n.*one thread"):
        WorkerProcess(ARENA)


def test_output_of_libraries_is_not_taken_for_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('hello from a library')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    folders = save_all(tmp_path, [model(0), model(1)])
    loud = OneProcess()
    try:
        assert fill(plan(folders, weights=[0.5, 0.5]), folders, tmp_path / "out", loud)[1] > 0
    finally:
        loud.close()


LEADER = """
    import sys, threading, time
    from pathlib import Path

    from cocktail_hub.merge.engine.processes import FileOutput, WorkerProcess
    from cocktail_hub.merge.kernels.buffers import ShardJob

    worker = WorkerProcess(1 << 18)
    if sys.argv[1] == "computing":
        job = ShardJob(method="linear", models=(), sources=(), output=FileOutput(Path("out")))
        threading.Thread(target=worker.make, args=(job, []), daemon=True).start()
        while not worker._ready:
            time.sleep(0.01)
    print(worker._process.pid, flush=True)
    time.sleep(600)
"""
LONG_COMPUTATION = """
import time
import cocktail_hub.merge.engine.processes as processes

processes.make_chunks = lambda *_: time.sleep(600)
"""


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL on Windows")
@pytest.mark.parametrize("moment", ["starting", "computing"])
def test_the_death_of_the_leading_process_ends_its_workers(tmp_path: Path, moment: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(LONG_COMPUTATION)
    paths = os.pathsep.join(map(str, (tmp_path, *sys.path)))
    leader = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(LEADER), moment],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": paths},
    )
    assert leader.stdout
    worker = int(leader.stdout.readline())
    leader.send_signal(signal.SIGKILL)
    leader.wait()
    leader.stdout.close()
    assert ended(worker, within=60)


def ended(pid: int, *, within: float) -> bool:
    """Whether a process that is nobody's child here ends in time; a dead one may stay in the table of a container."""
    stop = time.monotonic() + within
    while time.monotonic() < stop:
        try:
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def test_plain_files_can_be_read_by_another_process(tmp_path: Path) -> None:
    with ExitStack() as stack:
        readers = opened(stack, save_all(tmp_path, [model(0), model(1)]))
        assert all(type(reader) is SafetensorsReader for reader in readers)
        assert can_open([readers])
        assert not can_open([[*readers, object()]])


MIX = """
    import sys
    from cocktail_hub.cli import main
    from cocktail_hub.merge.engine import processes, workers

    workers.WORTH_PROCESSES = 0
    started = []
    start = processes.WorkerProcess.__init__
    processes.WorkerProcess.__init__ = lambda self, arena: started.append(start(self, arena))
    try:
        main(sys.argv[1:])
    finally:
        print(len(started), "started", "torch" in sys.modules)
"""


def test_the_command_line_mixes_in_processes_without_torch(tmp_path: Path) -> None:
    from models import fill as filled
    from models import small_llama

    folders = [tmp_path / name for name in ("a", "b")]
    for seed, folder in enumerate(folders):
        filled(small_llama(), seed).save_pretrained(folder)
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({"ingredients": [{"model": str(folder), "weight": 0.5} for folder in folders]}))
    files = []
    for threads in ("1", "3"):
        out = tmp_path / f"out{threads}"
        command = [sys.executable, "-c", textwrap.dedent(MIX), "mix", str(recipe), "-o", str(out), "--threads", threads]
        environment = os.environ | {"COCKTAIL_HUB_CACHE": str(tmp_path / "cache")}
        ran = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        assert ran.stdout.endswith(f"{int(threads) - 1} started False\n"), ran.stdout + ran.stderr
        files.append((out / "model.safetensors").read_bytes())
    assert files[0] == files[1]


MANY_FILES = """
    import os, resource, sys
    from pathlib import Path

    resource.setrlimit(resource.RLIMIT_NOFILE, (100, 4096))

    from merge_helpers import plan
    from test_processes import OneProcess, fill

    pool = OneProcess()
    folders = [Path(folder) for folder in sys.argv[2:]]
    fill(plan(folders, weights=[0.2] * 5), folders, Path(sys.argv[1]), pool)
    print(len(os.listdir(f"/proc/{pool.process._process.pid}/fd")))
    pool.close()
"""


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are counted as Linux lists them")
def test_a_process_opens_more_files_than_the_shell_lets_it(tmp_path: Path) -> None:
    from models import fill as filled
    from models import small_llama

    folders = [tmp_path / f"model{seed}" for seed in range(5)]
    for seed, folder in enumerate(folders):
        filled(small_llama(), seed).save_pretrained(folder, max_shard_size=1)  # 30 files
    here = Path(__file__).parent
    command = [sys.executable, "-c", textwrap.dedent(MANY_FILES), str(tmp_path / "out"), *map(str, folders)]
    paths = os.pathsep.join(map(str, (here, here.parents[1], *sys.path)))
    ran = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": paths}, check=False)
    assert ran.returncode == 0, ran.stderr
    assert 150 < int(ran.stdout) < 170

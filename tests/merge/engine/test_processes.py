"""Runs made in other processes: the same bytes, the same errors, and nobody left behind."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from merge_helpers import Tensors, model, opened, plan, save, save_all

from cocktail_hub.checkpoint.reader import SafetensorsReader
from cocktail_hub.errors import CheckpointError, IncompatibleError, MergeError
from cocktail_hub.merge.engine import backends as bench_module
from cocktail_hub.merge.engine import processes as process_bench
from cocktail_hub.merge.engine.backends import make_benches
from cocktail_hub.merge.engine.processes import ProcessBuffers, can_leave
from cocktail_hub.merge.engine.shard import Progress, fill_shard
from cocktail_hub.merge.engine.threads import WorkerPool
from cocktail_hub.merge.engine.worker import READY, REPORT_BYTES, Done, End, Failed, ReportedFile
from cocktail_hub.merge.kernels.buffers import Buffers
from cocktail_hub.storage.positional_file import PositionalFile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cocktail_hub.merge.engine.chunks import Chunk
    from cocktail_hub.merge.kernels.job import ShardJob
    from cocktail_hub.merge.plan import MergePlan

ARENA = 1 << 18
pytestmark = pytest.mark.whole


class Elsewhere(Buffers):
    """A bench of this process that has all its runs made in another one."""

    def __init__(self) -> None:
        super().__init__(ARENA)
        self.process = ProcessBuffers(ARENA)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        with self.process.at_work():
            yield

    def make(self, job: ShardJob, runs: Sequence[Chunk]) -> None:
        self.process.make(job, runs)

    def close(self) -> None:
        self.process.close()


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    bench = Elsewhere()
    yield bench
    bench.close()
    assert bench.process._process.poll() is not None


def fill(made: MergePlan, folders: Sequence[Path], out: Path, benches: Sequence[Any]) -> tuple[bytes, int]:
    """The bytes of the first shard, and how many of them were reported."""
    out.mkdir()
    reported: list[int] = []
    with ExitStack() as stack:
        sources = opened(stack, folders)
        writer = fill_shard(
            made, made.shards[0], sources, out, team=WorkerPool(benches), progress=Progress(reported.append)
        )
        writer.seal()
        writer.publish()
    return (out / made.shards[0].path).read_bytes(), sum(reported)


OPTIONS = {
    "linear": {"weights": [0.5, 0.3, 0.2]},
    "task_arithmetic": {"weights": [0.4, 0.6], "method": "task_arithmetic", "parameters": {"lambda": 0.7}},
    "ties": {"weights": [0.5, 0.5], "method": "ties"},
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("method", OPTIONS)
def test_other_processes_make_the_same_bytes(
    tmp_path: Path, method: str, dtype: torch.dtype, elsewhere: Elsewhere
) -> None:
    folders = save_all(tmp_path, [model(seed, dtype) for seed in range(3)])
    made = plan(folders, **OPTIONS[method])
    expected = fill(made, folders, tmp_path / "here", [Buffers(ARENA)])
    assert fill(made, folders, tmp_path / "there", [elsewhere]) == expected
    assert elsewhere.process.bytes_read > 0
    assert expected[1] == made.output_bytes


def test_a_process_serves_for_one_shard_after_the_other(tmp_path: Path, elsewhere: Elsewhere) -> None:
    for number, seeds in enumerate([(0, 1), (2, 3)]):
        folders = save_all(tmp_path / str(number), [model(seed) for seed in seeds])
        made = plan(folders, weights=[0.5, 0.5])
        expected = fill(made, folders, tmp_path / f"here{number}", [Buffers(ARENA)])
        assert fill(made, folders, tmp_path / f"there{number}", [elsewhere]) == expected


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted as Linux lists them")
def test_a_process_has_no_threads_but_those_that_compute_and_listen(tmp_path: Path, elsewhere: Elsewhere) -> None:
    folders = save_all(tmp_path, [model(0), model(1)])
    fill(plan(folders, weights=[0.5, 0.5]), folders, tmp_path / "out", [elsewhere])
    assert len(list(Path(f"/proc/{elsewhere.process._process.pid}/task").iterdir())) == 2


def broken(tmp_path: Path, tensors: Tensors) -> tuple[MergePlan, list[Path]]:
    folders = [save(tmp_path / "m0", model(0)), save(tmp_path / "m1", model(1) | tensors)]
    return plan(folders, weights=[0.5, 0.5]), folders


def test_what_is_wrong_with_a_model_is_told_by_whoever_finds_it(tmp_path: Path, elsewhere: Elsewhere) -> None:
    made, folders = broken(tmp_path, {"scale": torch.tensor(float("nan"), dtype=torch.bfloat16)})
    with pytest.raises(IncompatibleError, match="'scale' of 'm1' holds NaN") as caught:
        fill(made, folders, tmp_path / "out", [elsewhere])
    assert (caught.value.model, caught.value.tensor) == ("m1", "scale")
    assert list((tmp_path / "out").iterdir()) == []
    made, folders = broken(tmp_path, {"position_ids": torch.arange(12) + 1})
    with pytest.raises(IncompatibleError, match="the integers of 'position_ids' differ"):
        fill(made, folders, tmp_path / "again", [elsewhere])


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


def test_what_follows_each_other_is_reported_together(tmp_path: Path) -> None:
    path, told = tmp_path / "out", []
    path.write_bytes(bytes(100))
    with PositionalFile(path, write=True, create=False) as file:
        output = ReportedFile(file, lambda wrote: told.append(tuple(wrote)))
        for offset in (0, 3, 6, 50, 20):
            output.write(offset, memoryview(b"abc"))
        assert told == [(0, 9), (50, 3)]
        output.report()
        output.report()
        output.note(30, REPORT_BYTES)
    assert told[2:] == [(20, 3), (30, REPORT_BYTES)]
    assert path.read_bytes()[:10] == b"abcabcabc\0"
    assert output.path == path


def test_a_killed_process_is_an_error_and_nothing_is_left(tmp_path: Path, elsewhere: Elsewhere) -> None:
    folders = save_all(tmp_path, [model(0), model(1)])
    elsewhere.process._process.kill()
    with pytest.raises(
        MergeError, match=r"worker process of the merge was killed by signal 9.\n.*shards are kept.\nRun the same"
    ):
        fill(plan(folders, weights=[0.5, 0.5]), folders, tmp_path / "out", [elsewhere])
    assert list((tmp_path / "out").iterdir()) == []


class Pipe:
    """A pipe of which every use fails."""

    def __init__(self, error: OSError) -> None:
        self.error = error

    def write(self, data: bytes) -> None:
        raise self.error

    def close(self) -> None:
        raise self.error


def test_a_broken_pipe_of_any_name_is_a_dead_process(tmp_path: Path, elsewhere: Elsewhere) -> None:
    """Windows calls it an invalid argument."""
    folders = save_all(tmp_path, [model(0), model(1)])
    process = elsewhere.process
    process._orders.close()
    process._orders = Pipe(OSError(errno.EINVAL, "Invalid argument"))
    with pytest.raises(MergeError, match=r"A worker process of the merge (was killed by|ended with)"):
        fill(plan(folders, weights=[0.5, 0.5]), folders, tmp_path / "out", [elsewhere])
    elsewhere.close()
    assert process._process.returncode is not None


@pytest.mark.parametrize("kept", [0, 1, 20])
def test_an_answer_that_is_cut_short_is_a_dead_process(tmp_path: Path, elsewhere: Elsewhere, kept: int) -> None:
    folders = save_all(tmp_path, [model(0), model(1)])
    answers = elsewhere.process._answers
    elsewhere.process._answers = io.BytesIO(READY + pickle.dumps(Done(1))[:kept])
    with pytest.raises(MergeError, match=r"A worker process of the merge (was killed by|ended with)"):
        fill(plan(folders, weights=[0.5, 0.5]), folders, tmp_path / "out", [elsewhere])
    answers.close()


def test_an_error_of_the_disk_in_a_process_is_not_taken_for_its_death(elsewhere: Elsewhere) -> None:
    answers = elsewhere.process._answers
    full = Failed(OSError(errno.ENOSPC, "No space left on device"))
    elsewhere.process._answers = io.BytesIO(READY + pickle.dumps(full))
    with pytest.raises(OSError, match="No space left on device") as caught:
        elsewhere.process._order(End(), SimpleNamespace())
    assert caught.value.errno == errno.ENOSPC
    assert elsewhere.process._process.poll() is None
    answers.close()


def test_a_process_that_cannot_begin_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = save_all(tmp_path, [model(0), model(1)])
    with monkeypatch.context() as patch:
        patch.setattr(sys, "path", [])
        lost = Elsewhere()
    with pytest.raises(MergeError, match="ended with exit code 1"):
        fill(plan(folders, weights=[0.5, 0.5]), folders, tmp_path / "out", [lost])
    lost.close()


def test_a_system_that_starts_no_process_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python3")
    with pytest.raises(MergeError, match=r"cannot be started: .*No such file.*\nNothing was merged.\n.*one thread"):
        ProcessBuffers(ARENA)


def test_what_libraries_print_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('hello from a library')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    folders = save_all(tmp_path, [model(0), model(1)])
    loud = Elsewhere()
    try:
        assert fill(plan(folders, weights=[0.5, 0.5]), folders, tmp_path / "out", [loud])[1] > 0
    finally:
        loud.close()


LEADER = """
    import sys, time
    from cocktail_hub.merge.engine.processes import ProcessBuffers

    bench = ProcessBuffers(1 << 18)
    bench._wait_ready() if len(sys.argv) > 1 else None
    print(bench._process.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL on Windows")
@pytest.mark.parametrize("arguments", [[], ["ready"]])
def test_the_death_of_the_leading_process_ends_its_workers(arguments: list[str]) -> None:
    leader = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(LEADER), *arguments], stdout=subprocess.PIPE, text=True
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


def test_who_reads_plain_files_can_do_so_in_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as stack:
        sources = opened(stack, save_all(tmp_path, [model(0), model(1)]))
        assert all(type(source) is SafetensorsReader for source in sources)
        assert can_leave([sources])
        assert not can_leave([[*sources, object()]])
        for name, value in (("executable", "/opt/photo-editor"), ("executable", ""), ("frozen", True)):
            with monkeypatch.context() as patch:
                patch.setattr(sys, name, value, raising=False)
                assert not can_leave([sources])


def test_processes_are_started_where_there_is_enough_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kinds(threads: int, *, may_leave: bool = True) -> list[str]:
        team = WorkerPool(make_benches(made, threads, None, "cpu", may_leave=may_leave))
        team.close()
        return [type(bench).__name__ for bench in team.benches]

    made = plan(save_all(tmp_path, [model(0), model(1)]), weights=[0.5, 0.5])
    monkeypatch.delitem(sys.modules, "torch")
    assert kinds(2) == ["Buffers", "Buffers"]
    monkeypatch.setattr(bench_module, "WORTH_PROCESSES", made.input_bytes)
    assert kinds(3) == ["Buffers", "ProcessBuffers", "ProcessBuffers"]
    assert kinds(1) == ["Buffers"]
    assert kinds(2, may_leave=False) == ["Buffers", "Buffers"]


MIX = """
    import sys
    from cocktail_hub.cli import main
    from cocktail_hub.merge.engine import backends, processes

    backends.WORTH_PROCESSES = 0
    started = []
    start = processes.ProcessBuffers.__init__
    processes.ProcessBuffers.__init__ = lambda self, arena: started.append(start(self, arena))
    try:
        main(sys.argv[1:])
    finally:
        print(len(started), "started", "torch" in sys.modules)
"""


def test_the_command_line_mixes_on_processes_without_torch(tmp_path: Path) -> None:
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


def test_a_process_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_bench, "EXIT_SECONDS", 0.0)
    bench = ProcessBuffers(ARENA)
    bench.close()
    assert bench._process.returncode is not None


MANY_FILES = """
    import os, resource, sys
    from pathlib import Path

    resource.setrlimit(resource.RLIMIT_NOFILE, (100, 4096))

    from merge_helpers import plan
    from test_processes import Elsewhere, fill

    bench = Elsewhere()
    folders = [Path(folder) for folder in sys.argv[2:]]
    fill(plan(folders, weights=[0.2] * 5), folders, Path(sys.argv[1]), [bench])
    print(len(os.listdir(f"/proc/{bench.process._process.pid}/fd")))
    bench.close()
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

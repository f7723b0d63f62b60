from __future__ import annotations

import sys
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
import torch
from merge_helpers import model, opened, plan, save_all

from cocktail_hub.merge.engine import workers
from cocktail_hub.merge.engine.workers import WorkerPool, make_workers, runs_python
from cocktail_hub.merge.kernels.torch_buffers import TorchBuffers

if TYPE_CHECKING:
    from pathlib import Path

    from cocktail_hub.merge.kernels.buffers import Buffers


@pytest.fixture
def pool() -> WorkerPool:
    return WorkerPool([TorchBuffers(1 << 18) for _ in range(3)])


@pytest.mark.parametrize(("name", "value"), [("executable", "/opt/photo-editor"), ("executable", ""), ("frozen", True)])
def test_only_a_python_is_started_again(name: str, value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    assert runs_python()
    monkeypatch.setattr(sys, name, value, raising=False)
    assert not runs_python()


def test_every_task_is_done_once(pool: WorkerPool) -> None:
    done: list[int] = []
    pool.run(iter(range(100)), lambda buffers, task: done.append(task))
    assert sorted(done) == list(range(100))


def test_every_worker_is_closed_even_if_one_cannot_be() -> None:
    closed: list[int] = []

    class Stubborn:
        def __init__(self, number: int) -> None:
            self.number = number

        def close(self) -> None:
            closed.append(self.number)
            if self.number == 1:
                raise OSError("stuck")

    with pytest.raises(OSError, match="stuck"):
        WorkerPool([Stubborn(number) for number in range(3)]).close()
    assert sorted(closed) == [0, 1, 2]


def test_no_two_threads_share_buffers(pool: WorkerPool) -> None:
    users: dict[int, set[int]] = {}

    together = threading.Barrier(3)

    def note(buffers: Buffers, task: int) -> None:
        users.setdefault(id(buffers), set()).add(threading.get_ident())
        if task < 3:
            together.wait(60)

    pool.run(iter(range(30)), note)
    assert all(len(found) == 1 for found in users.values())
    assert len(users) == 3


def test_a_worker_computes_on_one_thread_and_keeps_tiny_numbers(pool: WorkerPool) -> None:
    seen: list[tuple[int, bool]] = []
    torch.set_flush_denormal(True)
    try:
        pool.run(
            iter(range(3)),
            lambda buffers, task: seen.append((torch.get_num_threads(), torch.tensor([1e-40]).mul(1).item() > 0)),
        )
    finally:
        torch.set_flush_denormal(False)
    assert seen == [(1, True)] * 3


def test_the_first_failure_stops_the_others_and_is_raised(pool: WorkerPool) -> None:
    done: list[int] = []

    def work(buffers: Buffers, task: int) -> None:
        if task == 5:
            raise ValueError("task 5")
        time.sleep(0.001)
        done.append(task)

    with pytest.raises(ValueError, match="task 5"):
        pool.run(iter(range(10_000)), work)
    assert len(done) < 5_000


def test_a_failure_of_the_tasks_themselves_is_raised(pool: WorkerPool) -> None:
    def tasks() -> object:
        yield 1
        raise KeyError("no more")

    with pytest.raises(KeyError, match="no more"):
        pool.run(tasks(), lambda buffers, task: None)


def test_an_interrupt_while_waiting_stops_the_threads(pool: WorkerPool, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []

    def interrupt(thread: threading.Thread, timeout: float | None = None) -> None:
        if timeout is not None:
            raise KeyboardInterrupt
        whole(thread)

    whole = threading.Thread.join
    monkeypatch.setattr(threading.Thread, "join", interrupt)
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        pool.run(iter(range(10**6)), lambda buffers, task: done.append(task) or time.sleep(0.001))
    assert threading.active_count() == before
    assert len(done) < 1000


def test_processes_are_started_where_there_is_enough_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = save_all(tmp_path, [model(0), model(1)])
    made = plan(folders, weights=[0.5, 0.5])
    with ExitStack() as stack:
        readers = opened(stack, folders)

        def kinds(threads: int, *models: object) -> list[str]:
            pool = WorkerPool(make_workers(made, threads, None, "cpu", [[*readers, *models]]))
            pool.close()
            return [type(worker).__name__ for worker in pool.workers]

        monkeypatch.delitem(sys.modules, "torch")
        assert kinds(2) == ["Buffers", "Buffers"]
        monkeypatch.setattr(workers, "WORTH_PROCESSES", made.input_bytes)
        assert kinds(3) == ["Buffers", "WorkerProcess", "WorkerProcess"]
        assert kinds(1) == ["Buffers"]
        assert kinds(2, object()) == ["Buffers", "Buffers"]

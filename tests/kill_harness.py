"""`cocktail` commands in processes of their own that are killed at any moment, also at their n-th change of the disk.

Run as a script, it reads commands from stdin, a line of JSON each. Everything is imported once; each command runs in a
fork, which takes a tenth of a second.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

MODULES = (
    "cli",
    "compat",
    "merge.engine.execute",
    "merge.run",
    "merge.small_files",
    "publishing.publish",
    "publishing.streaming",
    "search.weigh",
)
CHANGES = frozenset({"os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate"})
"""Audit events of calls that change a disk; `open` for writing is another."""
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclass
class Fork:
    """A command that was started."""

    pid: int
    log: Path
    answers: Any

    @property
    def text(self) -> str:
        """What it wrote to stdout and stderr."""
        return self.log.read_text(errors="replace")

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to its whole process group."""
        os.killpg(self.pid, number)

    def wait(self) -> int:
        """Its exit code; that of a signal is negative."""
        return self.answers(wait=self.pid)["code"]


@dataclass
class Forks:
    """Starts commands; `environment` goes to each of them."""

    folder: Path
    """Where their output and whatever they change lies."""
    environment: dict[str, str] = field(default_factory=dict)
    workers: bool = False
    """Whether merges have worker processes, however small they are."""

    def __enter__(self) -> Self:
        command = [sys.executable, __file__]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()

    def _ask(self, **job: Any) -> Any:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def start(self, arguments: Sequence[object], *, doom: int = 0, name: str = "log") -> Fork:
        """Begin `cocktail ARGUMENTS`, which is killed before its change number `doom` of anything in the folder."""
        log = self.folder.with_name(f"{self.folder.name}.{name}")
        job = {"arguments": [str(argument) for argument in arguments], "doom": doom, "folder": str(self.folder)}
        job["workers"] = self.workers
        answer = self._ask(**job, log=str(log), environment=self.environment)
        return Fork(pid=answer["pid"], log=log, answers=self._ask)

    def run(self, arguments: Sequence[object], *, doom: int = 0) -> tuple[int, str]:
        """Exit code and output of `cocktail ARGUMENTS`."""
        fork = self.start(arguments, doom=doom)
        return fork.wait(), fork.text

    def finish(self, arguments: Sequence[object]) -> str:
        """The output of `cocktail ARGUMENTS`, which must succeed."""
        code, text = self.run(arguments)
        assert code == 0, text
        return text


def _serve() -> None:
    for module in MODULES:
        importlib.import_module(f"cocktail_hub.{module}")
    from cocktail_hub.evaluation import load_check

    load_check._start = lambda *_, **__: None  # a process that takes seconds to import transformers
    for line in sys.stdin:
        job = json.loads(line)
        if "wait" in job:
            answer = {"code": os.waitstatus_to_exitcode(os.waitpid(job["wait"], 0)[1])}
        else:
            ready, begun = os.pipe()
            pid = os.fork()
            if pid == 0:
                _run(job, begun)
            os.read(ready, 1)
            os.close(ready)
            os.close(begun)
            answer = {"pid": pid}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _run(job: dict[str, Any], begun: int) -> None:
    """The life of a fork, which says so when it can be killed or interrupted."""
    from cocktail_hub.cli import main

    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.environ.update(job["environment"])
    if job["workers"]:
        _have_workers()
    sys.addaudithook(_Fate(job["folder"], job["doom"]))
    code: Any = 0
    os.write(begun, b".")
    try:
        main(job["arguments"])
    except SystemExit as error:
        code = error.code or 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _have_workers() -> None:
    from cocktail_hub.merge.engine import workers

    workers.WORTH_PROCESSES, workers._wants_torch = 0, lambda plan: False


class _Fate:
    """An audit hook that kills its process at the n-th change of a folder."""

    def __init__(self, folder: str, doom: int) -> None:
        self._folder, self._doom = folder, doom
        self._changes = itertools.count(1)  # two threads may ask at once

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in CHANGES or (event == "open" and arguments[2] & WRITING):
            path = arguments[0]
            name = "" if isinstance(path, int) else os.fsdecode(path)
            ours = name.startswith(self._folder) or not name.startswith("/")  # the latter: steps of `rmtree`
            if ours and next(self._changes) == self._doom:
                os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(60)  # a signal may take a moment to arrive


if __name__ == "__main__":
    _serve()

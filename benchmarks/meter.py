"""Run a command as a whole process and measure it from outside. Linux has every figure; macOS only time and RSS."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

INTERVAL = 0.05
"""Seconds between two looks at the memory of the process and its children."""
PROC = Path("/proc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One run of a command."""

    exit_code: int
    """0: it succeeded; below 0: the signal that ended it."""
    wall: float
    """Seconds from start to end."""
    user: float
    """CPU seconds in the program, children included."""
    system: float
    """CPU seconds in the kernel on its behalf."""
    peak_anonymous: int | None
    """Most bytes of anonymous memory (heap, buffers, tensors; no file pages) of all its processes together."""
    peak_resident: int
    """Most bytes resident, mapped files included."""
    read: int | None
    """Bytes that passed through read calls. Files that are mapped into memory do not count."""
    written: int | None
    """Bytes that passed through write calls."""
    disk_read: int | None
    """Bytes that had to be fetched from the disk."""

    @property
    def cpu(self) -> float:
        """CPU seconds."""
        return self.user + self.system


def measure(command: Sequence[str], *, log: Path, env: Mapping[str, str], timeout: float) -> Measurement:
    """Run `command`, its output going to the file `log`; after `timeout` seconds it is killed."""
    with log.open("wb") as out:
        start = time.perf_counter()
        process = subprocess.Popen(
            list(command), stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=dict(env)
        )
        watch = _Watch(process.pid)
        watch.start()
        killer = threading.Timer(timeout, process.kill)
        killer.start()
        if hasattr(os, "waitid"):
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # ended, but its numbers can still be read
        counted = _counters(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        killer.cancel()
        watch.stop()
    process.returncode = os.waitstatus_to_exitcode(status)
    return Measurement(
        exit_code=process.returncode,
        wall=wall,
        user=usage.ru_utime,
        system=usage.ru_stime,
        peak_anonymous=watch.anonymous or None,
        peak_resident=watch.resident or usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        read=counted.get("rchar"),
        written=counted.get("wchar"),
        disk_read=counted.get("read_bytes"),
    )


class _Watch(threading.Thread):
    """Looks at the memory of a process and its descendants until told to stop."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self._ended = threading.Event()
        self.anonymous = 0
        self.resident = 0

    def stop(self) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        while not self._ended.wait(INTERVAL):
            family = [_status(pid) for pid in _family(self._pid)]
            self.anonymous = max(self.anonymous, sum(status.get("RssAnon", 0) for status in family))
            highest = max((status.get("VmHWM", 0) for status in family), default=0)  # of one process, between two looks
            self.resident = max(self.resident, highest, sum(status.get("VmRSS", 0) for status in family))


def _family(pid: int) -> Iterator[int]:
    """Yield a process and its descendants."""
    yield pid
    for children in (PROC / str(pid) / "task").glob("*/children"):
        for child in _text(children).split():
            yield from _family(int(child))


def _status(pid: int) -> dict[str, int]:
    """Return the sizes in a process's status, in bytes."""
    fields = (line.split() for line in _text(PROC / str(pid) / "status").splitlines())
    return {field[0].rstrip(":"): int(field[1]) * 1024 for field in fields if field[-1:] == ["kB"]}


def _counters(pid: int) -> dict[str, int]:
    """Return what a process has read and written so far."""
    fields = (line.split(": ") for line in _text(PROC / str(pid) / "io").splitlines())
    return {name: int(value) for name, value in fields}


def _text(path: Path) -> str:
    """Return the text of a file of /proc; nothing once its process is gone, or where there is no /proc."""
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""

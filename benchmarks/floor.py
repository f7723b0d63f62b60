"""The floor: read every weight file with large plain reads and write one output as large as the first input.

Nothing is computed. By default the output is synced to disk, as a merge has to if it is to survive a power cut.
"""

from __future__ import annotations

import argparse
import os
from contextlib import ExitStack
from pathlib import Path

BLOCK = 16 << 20
"""Bytes read and written at a time."""


def copy(inputs: list[Path], output: Path, *, sync: bool) -> None:
    """Read all `inputs`, folders of safetensors files, and write the bytes of the first one to `output`."""
    view = memoryview(bytearray(BLOCK))
    output.mkdir(parents=True)
    for number, folder in enumerate(inputs):
        for source in sorted(folder.glob("*.safetensors")):
            target = output / source.name if number == 0 else None
            _stream(source, target, view, sync=sync)


def _stream(source: Path, target: Path | None, view: memoryview, *, sync: bool) -> None:
    with source.open("rb", buffering=0) as read, ExitStack() as opened:
        write = opened.enter_context(target.open("wb", buffering=0)) if target else None
        while count := read.readinto(view):
            if write:
                write.write(view[:count])
        if write and sync:
            os.fsync(write.fileno())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("inputs", nargs="+", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--no-sync", action="store_true")
    given = parser.parse_args()
    copy(given.inputs, given.output, sync=not given.no_sync)

"""Would the mix load as what it says it is? Tried beside the merge (`load_trial.py`), before the mix is finished.

A process of its own does it, so that a mix that needs no torch loads none; whoever loads the mix afterwards has the
libraries anyway, and tries it here. What came of it is kept: the same models with other weights are not tried again.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import warnings
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from cocktail_hub.errors import IncompatibleError
from cocktail_hub.evaluation.load_trial import LOADERS, Request, Verdict, try_loading
from cocktail_hub.merge.engine.workers import runs_python
from cocktail_hub.merge.small_files import write_file
from cocktail_hub.resolve.source import RECIPE_FILE
from cocktail_hub.storage.cache import JOURNAL, Cache
from cocktail_hub.storage.disk import write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cocktail_hub.compat.check import CompatibilityReport
    from cocktail_hub.merge.plan import MergePlan

_FORMAT = 1
"""Raised whenever the same mix may get another verdict."""
_PATIENCE = 600.0
"""Seconds that a process may take: some disks are slow, and no trial takes a minute."""
_LIBRARIES = ("torch", "transformers", "tokenizers")
_NOT_TRIED = Verdict(notes=("Whether the mix loads could not be tried: no process could be run for it.",), sure=False)


_HERE: ContextVar[bool] = ContextVar("whether mixes are tried in this process", default=False)


@contextmanager
def tried_here() -> Iterator[None]:
    """Try mixes in this process, which loads them next, instead of one of its own."""
    token = _HERE.set(True)
    try:
        yield
    finally:
        _HERE.reset(token)


class TrialHere:
    """A trial in this process, with what `LoadCheck` takes from another one."""

    def __init__(self, request: Request) -> None:
        self._request = request

    def communicate(self, timeout: float) -> tuple[bytes, None]:  # noqa: ARG002 - it cannot be cut short
        """The answer, as `serve` writes it."""
        from transformers.utils import logging

        level = logging.get_verbosity()
        logging.set_verbosity(logging.CRITICAL)  # all of it will be said when the mix is loaded
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return json.dumps(asdict(try_loading(self._request))).encode(), None
        finally:
            logging.set_verbosity(level)

    def kill(self) -> None:
        """Do nothing: it does not go on."""

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(self, *_: object) -> None:
        """Do nothing."""


class LoadCheck:
    """The check of one mix. It begins at once, and goes on until it is closed."""

    def __init__(self, folder: Path, plan: MergePlan, report: CompatibilityReport, *, trust_remote_code: bool) -> None:
        """Begin to check.

        Args:
            folder: of the mix; its small files are complete.
            plan: of its weights, which need not be there.
            report: on its ingredients.
            trust_remote_code: whether code that the mix carries or names may be run.
        """
        self._report = report
        shapes: dict[str, dict[str, tuple[int, ...]]] = {component.folder: {} for component in plan.components}
        for shard in plan.shards:
            shapes[plan.components[shard.component].folder] |= {t.name: t.shape for t in shard.tensors}
        self._request = Request(
            name=report.models[report.first].name,
            folder=str(folder),
            shapes=shapes,
            task=report.recipe.task,
            trust_remote_code=trust_remote_code,
        )
        self._file = Cache().root / "loads" / f"{_identity(self._request)}.json"
        self._process: subprocess.Popen[bytes] | TrialHere | None = None
        self._notes: tuple[str, ...] | None = None
        self._verdict: Verdict | None = None
        try:
            self._verdict = _verdict(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError, TypeError, KeyError):  # there is none, or it is damaged
            self._process = _start(self._request, light=True)

    def close(self) -> None:
        """End what still goes on."""
        if self._process is not None:
            self._process.kill()
            with suppress(OSError), self._process:
                pass

    def wait(self) -> tuple[str, ...]:
        """Wait for the end of the check. Returns what is worth knowing, a sentence each.

        Raises:
            IncompatibleError: tensors of the mix would start at random or not fit, or its tokenizer would not load.
        """
        if self._notes is not None:
            return self._notes
        verdict = self._verdict or _answer(self._process)
        if verdict.error or not verdict.sure:  # once more, with all libraries, and with the ingredients' own files
            with tempfile.TemporaryDirectory(prefix="cocktail-", ignore_cleanup_errors=True) as scratch:
                request = replace(self._request, givers=self._write_givers(Path(scratch)))
                self._process = _start(request, light=False)
                verdict = _answer(self._process)
        if verdict.error:
            raise IncompatibleError(verdict.error, model=self._request.name, tensor=verdict.tensor)
        if verdict.sure:
            with suppress(OSError):  # a cache of others may be read-only
                write_atomically(self._file, json.dumps(asdict(verdict)), sync=False)
        self._notes = verdict.notes
        return verdict.notes

    def _write_givers(self, scratch: Path) -> dict[str, str]:
        """Write the small files of the models that give tokenizer and processor; returns their folders."""
        folders = {}
        for group in LOADERS:
            if giver := self._report.giver(group):
                for path in giver.model_files.carried:
                    write_file(scratch / group / path, giver.files.read(path))
                folders[group] = str(scratch / group / giver.model_files.main)
        return folders


def _identity(request: Request) -> str:
    """What a verdict depends on: libraries, tensors, and the small files, without the weights that the recipe gives."""
    libraries = [f"{name} {version(name)}" for name in _LIBRARIES]
    files = {}
    for path in sorted(Path(request.folder).rglob("*")):
        if path.is_file() and path.name not in (RECIPE_FILE, JOURNAL) and path.suffix != ".safetensors":
            content = path.read_bytes()
            if path.name == "config.json":
                content = json.dumps({**json.loads(content), "cocktail": None}).encode()
            files[path.relative_to(request.folder).as_posix()] = hashlib.sha256(content).hexdigest()
    facts = [_FORMAT, libraries, files, asdict(replace(request, folder=""))]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _verdict(text: str | bytes) -> Verdict:
    """A verdict from JSON. Raises ValueError, KeyError or TypeError if it is none."""
    found = json.loads(text)
    return Verdict(**found | {"notes": tuple(found["notes"])})


def _start(request: Request, *, light: bool) -> subprocess.Popen[bytes] | TrialHere | None:
    """Start a process that tries a request (see `serve`); `None` where there can be none."""
    if _HERE.get():
        return TrialHere(request)
    if not runs_python():
        return None
    path = [str(folder) for folder in sys.path]
    code = f"import sys; sys.path[:] = {path}; from {Request.__module__} import serve; serve({light=})"
    offline = {} if request.trust_remote_code else {"HF_HUB_OFFLINE": "1"}  # code may be in another repo
    with suppress(OSError):
        process = subprocess.Popen(  # noqa: S603 - this very Python
            [sys.executable, "-W", "ignore", "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | offline,
            start_new_session=True,  # an interrupt is for this process, which then ends that one
        )
        with suppress(OSError):  # it ended at once, which its missing answer will show
            orders = cast("BinaryIO", process.stdin)
            orders.write(json.dumps(asdict(request)).encode() + b"\n")
            orders.flush()
        return process
    return None


def _answer(process: subprocess.Popen[bytes] | TrialHere | None) -> Verdict:
    """Wait for a process. One that ends without an answer says nothing about the mix."""
    if process is None:
        return _NOT_TRIED
    try:
        return _verdict(process.communicate(timeout=_PATIENCE)[0].splitlines()[-1])
    except (OSError, ValueError, IndexError, TypeError, KeyError, subprocess.TimeoutExpired):
        return _NOT_TRIED

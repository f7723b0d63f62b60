"""What goes on behind the page: one folder, one form and one command at a time for each tab."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cocktail_hub.cli.output import size
from cocktail_hub.cli.ui.form import Form
from cocktail_hub.errors import DiskSpaceError, MergeError, RecipeError
from cocktail_hub.hub import Hub
from cocktail_hub.merge.options import MixOptions
from cocktail_hub.pipeline.mix import check
from cocktail_hub.recipe import dump_yaml, parse_recipe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cocktail_hub.compat.preview import Preview

MOST_COMMANDS = 2
"""Commands that run at once on a public page."""
UNSEEN = 900.0
"""Seconds after which a public page forgets a tab that no longer asks."""
_BAR = re.compile(r"([^\r\n|]*?):?\s*(\d+)%\|[^|]*\|\s*([^\r\n]*)")


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command of `cocktail` in a process of its own, whichever tabs come and go."""

    verb: str
    """Its name."""
    recipe: dict[str, Any]
    """What it works on."""
    folder: Path
    """Where its output goes."""
    process: subprocess.Popen[bytes]
    """The process."""

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.process.poll() is None

    def concerns(self, recipe: dict[str, Any]) -> bool:
        """Whether it worked on this recipe; a sweep tries every weight, so that for one they do not count."""
        names, other = ([one["model"] for one in each["ingredients"]] for each in (self.recipe, recipe))
        if self.verb != "sweep":
            return self.recipe == recipe
        return {**self.recipe, "ingredients": names} == {**recipe, "ingredients": other}

    @property
    def progress(self) -> tuple[str, int | None, str]:
        """What it does, how many percent are done if that is known, and details."""
        said = self._said[-2000:]
        bars = _BAR.findall(said)
        if bars:
            title, percent, rest = bars[-1]
            return title.strip() or self.verb, int(percent), rest.strip()
        return "Reading the models", None, ""

    @property
    def result(self) -> dict[str, Any] | None:
        """What it found; `None` if it has not ended, or failed."""
        if self.running or self.process.returncode:
            return None
        found: dict[str, Any] = json.loads((self.folder / "stdout").read_text(encoding="utf-8"))
        return found

    @property
    def error(self) -> str:
        """Why it ended early."""
        lines = [line for line in re.split(r"[\r\n]+", self._said) if "%|" not in line]
        text = "\n".join(lines).strip()
        return text.rpartition("Error: ")[2] or f"`cocktail {self.verb}` ended with code {self.process.returncode}."

    @property
    def _said(self) -> str:
        return (self.folder / "stderr").read_text(encoding="utf-8", errors="replace")

    def stop(self) -> None:
        """Interrupt it; finished work is kept."""
        if self.running:
            self.process.send_signal(signal.SIGINT if os.name != "nt" else signal.SIGTERM)


@dataclass(kw_only=True)
class Session:
    """What one tab has chosen and started; a reload finds it again."""

    folder: Path
    """Everything that it writes."""
    public: bool
    """Whether strangers use the page."""
    largest: int
    """Most bytes that a mix may download and write on a public page."""
    form: Form = field(default_factory=Form)
    """What is filled in."""
    command: Command | None = None
    """The latest command."""
    finished: list[Command] = field(default_factory=list)
    """Earlier ones that succeeded."""
    seen: float = field(default_factory=time.monotonic)
    """When the tab last asked."""

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        """Verb -> what the latest command found that was about the recipe of the form."""
        if self.command and self.command not in self.finished and self.command.result is not None:
            self.finished.append(self.command)
        return {one.verb: one.result or {} for one in self.finished if one.concerns(self.form.recipe)}

    def options(self, token: str = "") -> MixOptions:
        """How to read models; on a public page without the token of its host, and into the session's folder."""
        own = token or (False if self.public else None)
        return MixOptions(hub=Hub(token=own, cache_dir=self.folder / "hub" if self.public else None))

    def check(self, token: str = "") -> Preview:
        """What the mix would take.

        Raises:
            CocktailError: it cannot be made, or not on this page.
        """
        if self.public:
            self.form.refuse_local()
        found = check(self.form.recipe, options=self.options(token))
        if self.public and found.to_download + found.output_bytes > self.largest:
            raise DiskSpaceError(
                f"This mix takes {size(found.to_download + found.output_bytes)}, but this page makes mixes of up to "
                f"{size(self.largest)}.\nIts disk and its time are shared by all who use it.\n"
                "Run `cocktail ui` on your own machine, or duplicate this Space on larger hardware."
            )
        return found

    def start(self, verb: str, arguments: Sequence[str] = (), *, token: str = "") -> Command:
        """Start a command on the recipe of the form.

        Raises:
            CocktailError: one is running already, or the mix cannot be made.
        """
        if self.command and self.command.running:
            raise MergeError(
                f"`cocktail {self.command.verb}` is still running.\nOne thing at a time is done here.\n"
                "Wait until it is done, or stop it."
            )
        if len(self.form.models) < 1:
            raise RecipeError("No models are chosen.\nA mix is made of models.\nChoose two or more under Models.")
        if self.public:
            self.check(token)
        folder = Path(tempfile.mkdtemp(prefix=f"{verb}-", dir=self.folder))
        (folder / "recipe.json").write_text(json.dumps(self.form.recipe), encoding="utf-8")
        line = [sys.executable, "-m", "cocktail_hub.cli", verb, str(folder / "recipe.json"), *arguments, "--json"]
        changes = {"HF_HUB_DISABLE_PROGRESS_BARS": "0", "PYTHONIOENCODING": "utf-8"}
        if self.public:
            line += ["--cache-dir", str(self.folder / "hub")]
            changes |= {
                "COCKTAIL_HUB_CACHE": str(self.folder / "mixes"),
                "HF_TOKEN": "",
                "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
            }
        if token:
            line += ["--token", "-"]
        with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
            process = subprocess.Popen(  # noqa: S603 - ourselves
                line, stdin=subprocess.PIPE, stdout=out, stderr=err, cwd=folder, env=os.environ | changes
            )
        if process.stdin is not None:
            process.stdin.write(token.encode() + b"\n")
            process.stdin.close()
        self.command = Command(verb=verb, recipe=self.form.recipe, folder=folder, process=process)
        return self.command

    def recipe_file(self, recipe: dict[str, Any]) -> Path:
        """Write a recipe as a file to download."""
        path = self.folder / "recipe.yaml"
        path.write_text(dump_yaml(parse_recipe(json.dumps(recipe))), encoding="utf-8")
        return path


class Sessions:
    """All tabs of a page.

    Args:
        public: whether strangers use it.
        largest: most bytes that a mix may download and write on a public page.
    """

    def __init__(self, *, public: bool, largest: int) -> None:
        self.public, self.largest = public, largest
        self._folder = tempfile.TemporaryDirectory(prefix="cocktail-ui-", ignore_cleanup_errors=True)
        self._known: dict[str, Session] = {}
        self._lock = threading.Lock()

    def of(self, name: str) -> Session:
        """The session of a tab: a new one for a new name, and for a page that is still loading and has none."""
        name = name or secrets.token_hex()
        with self._lock:
            if name not in self._known:
                folder = Path(tempfile.mkdtemp(dir=self._folder.name))
                self._known[name] = Session(folder=folder, public=self.public, largest=self.largest)
            found = self._known[name]
            found.seen = time.monotonic()
            gone = [key for key, one in self._known.items() if self.public and found.seen - one.seen > UNSEEN]
            for key in gone:
                self._end(self._known.pop(key))
        return found

    def require_room(self) -> None:
        """Raise MergeError if as many commands run as a public page allows."""
        running = sum(one.command is not None and one.command.running for one in self._known.values())
        if self.public and running >= MOST_COMMANDS:
            raise MergeError(
                f"{running} mixes are being made here right now.\nMore at once would take the memory of this machine.\n"
                "Try again in a few minutes, or run `cocktail ui` on your own machine."
            )

    def close(self) -> None:
        """Stop what runs, and remove every folder."""
        for one in self._known.values():
            self._end(one)
        self._folder.cleanup()

    @staticmethod
    def _end(session: Session) -> None:
        if session.command and session.command.running:
            session.command.process.kill()
            session.command.process.wait()
        shutil.rmtree(session.folder, ignore_errors=True)

"""The files of one ingredient, in a local folder or on the Hub."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple, Protocol

from cocktail_hub.errors import CheckpointError, SourceError, did_you_mean
from cocktail_hub.storage.disk import LARGEST_SETTINGS, require_small
from cocktail_hub.storage.positional_file import too_many_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MOST_SETTINGS = 500_000
"""Values in a config, an index or other settings: an index of 150,000 tensors has a third of them."""
SKIPPED_FOLDERS = frozenset({".git", ".cache"})
"""Folders of version control and of the Hub client: never part of a model."""
_REPO, _COMMIT = re.compile("(model|dataset|space)s--.+"), re.compile("[0-9a-f]{40}")
"""Names of a repository's folder in the Hub's cache, and of a snapshot in it."""
_SHARED_BLOBS_MARK = ".huggingface-shared-blobs"
"""File by which huggingface_hub marks the folder of blobs downloaded over Xet, shared by all repositories."""


class FileState(NamedTuple):
    """What changes when a file is written to or replaced.

    Programs can reset all of it but `changed`; on Windows, where that is the time of creation, all of it.
    """

    size: int
    modified: int
    changed: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileState:
        """The state in the result of `os.stat`."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)

    @classmethod
    def at(cls, path: Path) -> FileState | None:
        """The state of the file at a path; `None` if it is gone."""
        try:
            return cls.of(path.stat())
        except OSError:
            return None


class RepoFiles(Protocol):
    """Read access to a repository or folder. Paths are posix and relative to its root."""

    @property
    def name(self) -> str:
        """Hub id or folder, for messages."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """Every file -> its size in bytes."""

    def read(self, path: str) -> bytes:
        """Return the content of a small file. Raises SourceError if there is none, or it is not small."""

    def read_range(self, path: str, start: int, stop: int) -> bytes:
        """Return bytes `start:stop` of a file. Raises SourceError if they cannot be read."""


class LocalFiles:
    """A folder on this machine.

    A link inside it may point to another file inside it. In a snapshot of the Hub's cache, links also point to
    the blobs of the same repository, and those to the blobs shared by the whole cache. Every other link is
    refused: a model must not read files outside of its folder. `any_link` is for folders whose links are our own.
    """

    def __init__(self, root: Path | str, *, name: str | None = None, any_link: bool = False) -> None:
        self.root = Path(root)
        """The folder, unresolved."""
        self.name = name or str(root)
        if not self.root.is_dir():
            raise SourceError(f"There is no folder '{root}'.\nAn ingredient is a Hub id or an existing local folder.")
        real_root = self.root.resolve()
        self._any_link = any_link
        self._allowed = (real_root, *(_blobs_of_snapshot(self.root) or _blobs_of_snapshot(real_root)))
        states: dict[str, FileState] = {}
        for folder, subfolders, names in os.walk(self.root):
            subfolders[:] = [name for name in subfolders if name not in SKIPPED_FOLDERS]
            for path in (Path(folder, name) for name in names):
                # neither a dangling link nor a file that was removed in the meantime is listed
                if path.is_file() and (state := FileState.at(path)):
                    states[path.relative_to(self.root).as_posix()] = state
        self._states = dict(sorted(states.items()))
        self.sizes: dict[str, int] = {path: state.size for path, state in self._states.items()}

    def require_unchanged(self, paths: Iterable[str]) -> None:
        """Raise CheckpointError if a file was written to, replaced or removed since the folder was listed."""
        for path in paths:
            if FileState.at(self.root / path) != self._states[path]:
                raise file_changed(path, self.name)

    def path(self, path: str) -> Path:
        """Return the local path of a file.

        Raises:
            SourceError: there is no such file, or it is a link that leaves the folder.
        """
        if path not in self.sizes:
            raise SourceError(f"'{self.name}' has no file '{path}'. {did_you_mean(path, self.sizes)}")
        full = self.root / PurePosixPath(path)
        real = full.resolve()
        if not self._any_link and not any(map(real.is_relative_to, self._allowed)):
            raise SourceError(
                f"'{path}' of '{self.name}' is a link to '{real}', outside of its folder.\n"
                "Through such links a model could read any file of this machine, so they are not followed.\n"
                "Put the file itself into the folder, or name the folder that holds it."
            )
        return full

    def read(self, path: str) -> bytes:
        """Return the content of a small file."""
        require_small(path, self.name, self.sizes.get(path, 0))
        return self.read_range(path, 0, self.sizes.get(path, 0))

    def read_range(self, path: str, start: int, stop: int) -> bytes:
        """Return bytes `start:stop` of a file."""
        full = self.path(path)
        try:
            with full.open("rb") as file:
                file.seek(start)
                data = file.read(stop - start)
        except OSError as error:
            what = f"Cannot read '{path}' of '{self.name}'"
            raise SourceError(too_many_files(error, what) or f"{what}: {error}.") from error
        if len(data) != stop - start:
            raise SourceError(
                f"'{path}' of '{self.name}' ended at byte {start + len(data)}, but {stop} were expected.\n"
                "It was changed or truncated after it was listed. Download or save it again."
            )
        return data


def _blobs_of_snapshot(root: Path) -> tuple[Path, ...]:
    """Return the blob folders of the Hub cache if `root` is a snapshot or inside of one.

    They are `…/models--org--name/blobs` beside `…/models--org--name/snapshots/<commit>`, and `…/blobs`, shared by all
    repositories, if the client has marked it so. In a folder that somebody unpacked and that merely looks like this,
    they could be links to anywhere: the client makes folders.
    """
    absolute = Path(os.path.abspath(root))  # noqa: PTH100 - resolve() would follow the links this looks at
    for folder in (absolute, *absolute.parents):
        repo = folder.parent.parent
        if folder.parent.name == "snapshots" and _REPO.fullmatch(repo.name) and _COMMIT.fullmatch(folder.name):
            shared = repo.parent / "blobs"
            found = (repo / "blobs", *((shared,) if (shared / _SHARED_BLOBS_MARK).is_file() else ()))
            return tuple(blobs.resolve() for blobs in found if blobs.is_dir() and not blobs.is_symlink())
    return ()


def read_settings(files: RepoFiles, path: str) -> bytes:
    """The content of a file of JSON that is soon parsed. Raises SourceError if there is none, or too much in it."""
    require_small(path, files.name, files.sizes.get(path, 0), LARGEST_SETTINGS)
    content = files.read(path)
    values = sum(map(content.count, (b",", b"[", b"{")))
    if values > MOST_SETTINGS:
        raise SourceError(
            f"'{path}' of '{files.name}' has about {values:,} values, more than the {MOST_SETTINGS:,} that are read.\n"
            "No real one has half as many.\nLook whether something else was saved under this name."
        )
    return content


def file_changed(file: str, model: str) -> CheckpointError:
    """The error for a file that was written to or replaced since it was opened or listed."""
    return CheckpointError(
        f"'{file}' of '{model}' changed while it was being mixed.\n"
        "Part of the mix would come from the old file and part from the new one.\n"
        "Wait until nothing writes to it, then mix again.",
        model=model,
    )


def unreadable(what: str, error: OSError, model: str) -> CheckpointError:
    """The error for weights that the system cannot read; `what` is a sentence without its full stop."""
    return CheckpointError(
        too_many_files(error, what)
        or f"{what}: {error}.\nWithout these weights the mix cannot be finished.\n"
        "Check the disk or network share, then run the same command again: finished shards are kept.",
        model=model,
    )

"""The files of one ingredient, wherever they lie."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple, Protocol

from cocktail_hub.errors import CheckpointError, SourceError, did_you_mean
from cocktail_hub.storage.positional_file import too_many_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

SKIPPED_FOLDERS = frozenset({".git", ".cache"})
"""Folders of version control and of the Hub client: never part of a model."""
SHARED_BLOBS_MARK = ".huggingface-shared-blobs"
"""File by which huggingface_hub marks the folder of contents that came over Xet, shared by all repositories."""


class FileState(NamedTuple):
    """What changes when a file is written to or replaced.

    Programs can set back all of it but `changed`; on Windows, where that is the time of creation, all of it.
    """

    size: int
    modified: int
    changed: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileState:
        """The stamp of a file, from what the system says of it."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


class RepoFiles(Protocol):
    """Read access to a repository or folder. Paths are posix and relative to its root."""

    @property
    def name(self) -> str:
        """What to call it in messages: a Hub id or a folder."""
        ...

    @property
    def sizes(self) -> Mapping[str, int]:
        """Every file -> its size in bytes."""
        ...

    def read(self, path: str) -> bytes:
        """Return the whole of a small file. Raises SourceError if there is none."""
        ...

    def read_range(self, path: str, start: int, stop: int) -> bytes:
        """Return bytes `start:stop` of a file. Raises SourceError if they cannot be read."""
        ...


class LocalFiles:
    """A folder on this machine.

    A link inside it may point to another file inside it. In a snapshot of the Hub's cache, links also point to
    the blobs of the same repository, and those to the blobs that the whole cache shares. Every other link is
    refused: a model must not reach out of its folder.
    """

    def __init__(self, root: Path | str, *, name: str | None = None) -> None:
        self.root = Path(root)
        """The folder as it was given."""
        self.name = name or str(root)
        if not self.root.is_dir():
            raise SourceError(f"There is no folder '{root}'.\nAn ingredient is a Hub id or an existing local folder.")
        self._real_root = self.root.resolve()
        blobs = _blobs_of_snapshot(self.root) or _blobs_of_snapshot(self._real_root)
        self._allowed = (self._real_root, *blobs)
        self._stamps = dict(sorted(self._walk()))
        self.sizes: dict[str, int] = {path: stamp.size for path, stamp in self._stamps.items()}

    def _walk(self) -> Iterator[tuple[str, FileState]]:
        for folder, subfolders, names in os.walk(self.root):
            subfolders[:] = [name for name in subfolders if name not in SKIPPED_FOLDERS]
            for name in names:
                path = Path(folder, name)
                with suppress(FileNotFoundError):  # gone in this moment
                    if path.is_file():  # a dangling link is no file
                        yield path.relative_to(self.root).as_posix(), FileState.of(path.stat())

    def require_unchanged(self, paths: Iterable[str]) -> None:
        """Refuse to go on with files that are not what they were when the folder was listed.

        Raises:
            CheckpointError: one was written to, replaced or removed since.
        """
        for path in paths:
            try:
                now = FileState.of((self.root / path).stat())
            except OSError:
                now = None
            if now != self._stamps[path]:
                raise file_changed(path, self.name)

    def path(self, path: str) -> Path:
        """Return where a file lies on this machine.

        Raises:
            SourceError: there is no such file, or it is a link that leaves the folder.
        """
        if path not in self.sizes:
            raise SourceError(f"'{self.name}' has no file '{path}'. {did_you_mean(path, self.sizes)}")
        full = self.root / PurePosixPath(path)
        real = full.resolve()
        if not any(real.is_relative_to(folder) for folder in self._allowed):
            raise SourceError(
                f"'{path}' of '{self.name}' is a link to '{real}', outside of its folder.\n"
                "A model could read any file of this machine that way, so such links are not followed.\n"
                "Put the file itself into the folder, or name the folder that holds it."
            )
        return full

    def read(self, path: str) -> bytes:
        """Return the whole of a small file."""
        return self.read_range(path, 0, self.sizes.get(path, 0))

    def read_range(self, path: str, start: int, stop: int) -> bytes:
        """Return bytes `start:stop` of a file."""
        try:
            with self.path(path).open("rb") as file:
                file.seek(start)
                data = file.read(stop - start)
        except OSError as error:
            if isinstance(error, SourceError):
                raise
            what = f"Cannot read '{path}' of '{self.name}'"
            raise SourceError(too_many_files(error, what) or f"{what}: {error}.") from error
        if len(data) != stop - start:
            raise SourceError(
                f"'{path}' of '{self.name}' ended at byte {start + len(data)}, but {stop} were expected.\n"
                "Something changed or truncated it after it was listed. Download or save it again."
            )
        return data


def _blobs_of_snapshot(root: Path) -> tuple[Path, ...]:
    """Return the folders with the contents of a Hub cache's snapshot, if `root` is one or lies in one.

    They are `…/models--org--name/blobs` beside `…/models--org--name/snapshots/<commit>`, and `…/blobs`, which all
    repositories share if the client has marked it so.
    """
    absolute = Path(os.path.abspath(root))  # noqa: PTH100 - resolve() would follow the links this looks at
    for folder in (absolute, *absolute.parents):
        blobs = folder.parent.parent / "blobs"
        if folder.parent.name == "snapshots" and blobs.is_dir():
            shared = blobs.parent.parent / "blobs"
            return tuple(b.resolve() for b in (blobs, *((shared,) if (shared / SHARED_BLOBS_MARK).is_file() else ())))
    return ()


def file_changed(file: str, model: str) -> CheckpointError:
    """Say that a file is not what it was when the mix began."""
    return CheckpointError(
        f"'{file}' of '{model}' changed while it was being mixed.\n"
        "Part of the mix would come from the old file and part from the new one.\n"
        "Wait until nothing writes to it, then mix again.",
        model=model,
    )

"""Site: everything that the requests to one Hub share."""

from __future__ import annotations

import re
import shutil
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cocktail_hub.testing.blobs import BlobStore
from cocktail_hub.testing.commits import Commit, Entry
from cocktail_hub.testing.http_error import HttpError
from cocktail_hub.testing.large_files import GITATTRIBUTES
from cocktail_hub.testing.repos import Repo
from cocktail_hub.testing.xet import XetStore

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cocktail_hub.testing.faults import Fault
    from cocktail_hub.testing.users import User

LFS_THRESHOLD = 10 * 1024 * 1024
"""Bytes above which the Hub holds a file outside git, whatever its name."""

_NAME = re.compile(r"[A-Za-z0-9](?:[\w.-]{0,94}[A-Za-z0-9])?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request that the Hub answered."""

    method: str
    """GET, HEAD, POST, PUT or DELETE."""
    path: str
    """Path and query, as they were sent (percent-encoded)."""
    status: int
    """Of the answer."""
    headers: Mapping[str, str]
    """Of the request, names in lower case."""
    sent: int
    """Bytes in the body of the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How this Hub behaves."""

    xet: bool = False
    """Whether tokens for Xet are handed out."""
    lfs_threshold: int = LFS_THRESHOLD
    """Files of more bytes go to LFS, whatever their name."""
    multipart_chunk: int | None = None
    """Files of more bytes are asked for in parts of this size over plain LFS; None for never."""


class Site:
    """Users, repos and bodies of one Hub, kept under `root`, except for the users.

    Anything that is read without `lock` is replaced, never changed in place; whoever changes something holds it.
    """

    def __init__(self, root: Path, settings: Settings) -> None:
        self.settings = settings
        self.lock = threading.RLock()
        self.users: dict[str, User] = {}
        self.log: list[Request] = []
        self.faults: list[Fault] = []
        self.url = self.cdn_url = ""  # known once the server listens
        self.blobs = BlobStore(root / "blobs")
        self.xet = XetStore(root / "xet")
        self.parts = root / "parts"
        self._rebuilding = threading.Lock()
        self._folder = root / "repos"
        loaded = [Repo.load(path.parent) for path in self._folder.glob("*/*/*/repo.json")]
        self.repos = {(repo.kind, repo.id): repo for repo in loaded}

    def create_repo(self, kind: str, repo_id: str, *, author: str, private: bool) -> Repo:
        """Add a repo with the one commit that every new repo on the Hub has.

        Raises:
            HttpError: 400, not a name for a repo.
        """
        repo = Repo(folder=self._home(kind, repo_id), kind=kind, id=repo_id, private=private)
        sha256 = self.blobs.add([GITATTRIBUTES])
        tree = {".gitattributes": Entry.regular(GITATTRIBUTES, sha256)}
        repo.add(Commit.make(tree, parent=None, title="initial commit", author=author), "refs/heads/main")
        self.repos = {**self.repos, (kind, repo_id): repo}
        return repo

    def find(self, kind: str, repo_id: str) -> Repo | None:
        """The repo of a name, be it in other letters or one that it had before it was moved."""
        found = self.repos.get((kind, repo_id))
        asked = repo_id.lower()
        named = [repo for (its, name), repo in self.repos.items() if its == kind and asked == name.lower()]
        former = [repo for (its, _), repo in self.repos.items() if its == kind and asked in map(str.lower, repo.former)]
        return found or next(iter([*named, *former]), None)

    def delete_repo(self, repo: Repo) -> None:
        """Forget a repo. Its bodies stay: other repos may hold them too."""
        self.repos = {key: kept for key, kept in self.repos.items() if kept is not repo}
        shutil.rmtree(repo.folder)

    def move_repo(self, repo: Repo, repo_id: str) -> None:
        """Give a repo another name."""
        target = self._home(repo.kind, repo_id)
        target.parent.mkdir(parents=True, exist_ok=True)
        repo.folder.rename(target)
        self.repos = {key: kept for key, kept in self.repos.items() if kept is not repo} | {(repo.kind, repo_id): repo}
        repo.folder, repo.id, repo.former = target, repo_id, (*repo.former, repo.id)
        repo.save()

    def _home(self, kind: str, repo_id: str) -> Path:
        namespace, _, name = repo_id.partition("/")
        if not (_NAME.fullmatch(namespace) and _NAME.fullmatch(name)) or ".." in repo_id or "--" in repo_id:
            raise HttpError(400, f"Invalid repo name: {repo_id!r}")
        return self._folder / kind / namespace / name

    def size(self, sha256: str) -> int | None:
        """Bytes in a body, however it was uploaded; None if it was not."""
        file = self.xet.file(sha256)
        return file.size if file else self.blobs.size(sha256)

    def body(self, sha256: str) -> Path:
        """A body as a plain file; one that came over Xet is put together at the first call.

        Raises:
            HttpError: 404, never uploaded.
        """
        if sha256 not in self.blobs:
            file = self.xet.file(sha256)
            if file is None:
                raise HttpError(404, f"No body with sha256 {sha256}")
            with self._rebuilding:
                if sha256 not in self.blobs:  # another thread may have been quicker
                    self.xet.rebuild(file, f"{self.url}/_self", self.blobs)
        return self.blobs.path(sha256)

"""Commits: one state of a repo's files each, immutable."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def timestamp() -> str:
    """Now, as the Hub writes it."""
    return dt.datetime.now(dt.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def git_blob_id(body: bytes) -> str:
    """The name that git gives to a file body: what the Hub calls its oid."""
    return hashlib.sha1(b"blob %d\0" % len(body) + body, usedforsecurity=False).hexdigest()


def lfs_pointer(sha256: str, size: int) -> bytes:
    """The text that git holds in place of a large file."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file in a commit."""

    oid: str
    """Git's name for the body, or for the LFS pointer to it; 40 hex digits."""
    size: int
    """Bytes in the body."""
    sha256: str
    """Where the body is kept."""
    lfs: bool
    """Whether git holds only a pointer."""

    @classmethod
    def regular(cls, body: bytes, sha256: str) -> Entry:
        """A file that git holds itself."""
        return cls(oid=git_blob_id(body), size=len(body), sha256=sha256, lfs=False)

    @classmethod
    def large(cls, sha256: str, size: int) -> Entry:
        """A file that LFS or Xet holds."""
        return cls(oid=git_blob_id(lfs_pointer(sha256, size)), size=size, sha256=sha256, lfs=True)

    @property
    def etag(self) -> str:
        """What a change of the body changes, and the client names it by in its cache."""
        return self.sha256 if self.lfs else self.oid


Tree = dict[str, Entry]
"""Path, with forward slashes -> file. Never changed once it is in a commit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """The files of a repo at one moment, and who brought them there."""

    id: str
    """40 hex digits."""
    parent: str | None
    """Id of the commit before; None for the first."""
    title: str
    """First line of the message."""
    message: str
    """The rest of it."""
    author: str
    """Name of a user."""
    date: str
    """ISO 8601, in UTC."""
    tree: Tree
    """All files, not only the changed ones."""

    @classmethod
    def make(cls, tree: Tree, *, parent: str | None, title: str, message: str = "", author: str) -> Commit:
        """A new commit, dated now, with an id that no other has."""
        oids = sorted((path, entry.oid) for path, entry in tree.items())
        identity = json.dumps([parent, title, message, author, time.time_ns(), oids]).encode()
        return cls(
            id=hashlib.sha1(identity, usedforsecurity=False).hexdigest(),
            parent=parent,
            title=title,
            message=message,
            author=author,
            date=timestamp(),
            tree=tree,
        )

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Commit:
        """The reverse of `to_dict`."""
        return cls(**{**value, "tree": {path: Entry(**entry) for path, entry in value["tree"].items()}})

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return asdict(self)


def files_under(tree: Tree, folder: str) -> list[str]:
    """The sorted paths of the files in `folder` and below; all of them if it is ""."""
    prefix = folder.strip("/") + "/" if folder.strip("/") else ""
    return sorted(path for path in tree if path.startswith(prefix))


def changes(old: Tree, new: Tree) -> tuple[Tree, list[str]]:
    """What leads from `old` to `new`: files added or replaced, and paths deleted."""
    added = {path: entry for path, entry in new.items() if old.get(path) != entry}
    return added, [path for path in old if path not in new]


def edited(tree: Tree, added: Mapping[str, Entry], deleted: Iterable[str]) -> Tree:
    """`tree` without the `deleted` paths, and with the `added` files."""
    gone = set(deleted)
    return {path: entry for path, entry in tree.items() if path not in gone} | dict(added)

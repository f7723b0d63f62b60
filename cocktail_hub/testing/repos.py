"""Repo: commits, the names that point to them, pull requests, and who may see them."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from cocktail_hub.testing.commits import Commit, files_under, timestamp
from cocktail_hub.testing.http_error import revision_not_found

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cocktail_hub.testing.commits import Entry

Gate = Literal["auto", "manual", False]
"""How access to a gated repo is granted on the Hub; False for an open repo."""

COMMIT_ID = re.compile(r"[0-9a-f]{40}")
_SHORT_ID = re.compile(r"[0-9a-f]{7,39}")


@dataclass(slots=True, kw_only=True)
class Discussion:
    """A conversation on a repo; with a branch of its own, refs/pr/N, if it is a pull request."""

    num: int
    """From 1."""
    title: str
    """Also the title of the merge commit."""
    author: str
    """Name of a user."""
    created: str
    """ISO 8601, in UTC."""
    status: str
    """draft, open, closed or merged."""
    base: str | None
    """Commit of main that a pull request started from; None for a plain discussion."""
    merge_commit: str | None = None
    """Commit of main in which it was merged."""
    events: list[dict[str, Any]] = field(default_factory=list)
    """Comments and changes of status, as the API shows them."""

    @property
    def ref(self) -> str:
        """The branch of a pull request."""
        return f"refs/pr/{self.num}"

    def log(self, kind: str, author: str, data: dict[str, Any]) -> dict[str, Any]:
        """Add an event and return it."""
        event = {
            "id": f"event-{self.num}-{len(self.events)}",
            "type": kind,
            "createdAt": timestamp(),
            "author": {"name": author},
            "data": data,
        }
        self.events.append(event)
        return event

    def comment(self, author: str, text: str) -> dict[str, Any]:
        """Add a comment and return it as an event."""
        return self.log("comment", author, {"edited": False, "hidden": False, "latest": {"raw": text}})


@dataclass(slots=True, kw_only=True)
class Repo:
    """A repo, mirrored in `folder` at every change.

    Readers take no lock: `refs` and `commits` are replaced, never changed in place. Writers hold the Site's lock.
    """

    folder: Path
    """Holds repo.json, and each commit in commits/."""
    kind: str
    """model, dataset or space."""
    id: str
    """namespace/name."""
    private: bool = False
    """Seen by members of the namespace only."""
    gated: Gate = False
    """Whether only members and `admitted` users may read the files; all see that it exists."""
    admitted: tuple[str, ...] = ()
    """Names of users who were granted access to a gated repo."""
    former: tuple[str, ...] = ()
    """Ids from before it was moved, which still lead to it."""
    created: str = field(default_factory=timestamp)
    """ISO 8601, in UTC."""
    refs: dict[str, str] = field(default_factory=dict)
    """Full name, such as refs/heads/main, refs/tags/v1 or refs/pr/1 -> commit id."""
    discussions: dict[int, Discussion] = field(default_factory=dict)
    """By number."""
    commits: dict[str, Commit] = field(default_factory=dict)
    """By id."""

    @property
    def namespace(self) -> str:
        """The user or organization that it belongs to."""
        return self.id.split("/")[0]

    @property
    def route(self) -> str:
        """Its path on the website: "alice/bert" or "datasets/alice/news"."""
        return self.id if self.kind == "model" else f"{self.kind}s/{self.id}"

    def resolve(self, revision: str) -> Commit:
        """The commit that a branch, a tag, a full ref, or a commit id (7 digits suffice) names.

        Raises:
            HttpError: 404 RevisionNotFound.
        """
        for ref in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision, f"refs/{revision}"):
            if ref in self.refs:
                return self.commits[self.refs[ref]]
        if COMMIT_ID.fullmatch(revision) and revision in self.commits:
            return self.commits[revision]
        if _SHORT_ID.fullmatch(revision):
            found = [commit for commit in self.commits if commit.startswith(revision)]
            if len(found) == 1:
                return self.commits[found[0]]
        raise revision_not_found(revision)

    def history(self, commit: Commit) -> Iterator[Commit]:
        """Yield `commit` and those before it, newest first."""
        yield commit
        while commit.parent is not None:
            commit = self.commits[commit.parent]
            yield commit

    def last_change(self, path: str, commit: Commit) -> Commit:
        """The newest commit, up to `commit`, that brought a file or folder in its present form."""

        def state(of: Commit) -> list[tuple[str, Entry | None]]:
            return [(file, of.tree.get(file)) for file in (path, *files_under(of.tree, path))]

        present = state(commit)
        return list(itertools.takewhile(lambda earlier: state(earlier) == present, self.history(commit)))[-1]

    def add(self, commit: Commit, ref: str) -> None:
        """Keep a commit and let `ref` point to it."""
        _write_json(self.folder / "commits" / f"{commit.id}.json", commit.to_dict())
        self.commits = {**self.commits, commit.id: commit}
        self.point(ref, commit.id)

    def point(self, ref: str, commit: str | None) -> None:
        """Let `ref` point to a commit; None removes it."""
        refs = {name: target for name, target in self.refs.items() if name != ref}
        self.refs = refs if commit is None else {**refs, ref: commit}
        self.save()

    def open_discussion(self, author: str, title: str, text: str, *, base: Commit | None, status: str) -> Discussion:
        """Begin a discussion, or a pull request that starts from `base`."""
        talk = Discussion(
            num=max(self.discussions, default=0) + 1,
            title=title,
            author=author,
            created=timestamp(),
            status=status,
            base=base.id if base else None,
        )
        talk.comment(author, text)
        self.discussions = {**self.discussions, talk.num: talk}
        if base:
            self.point(talk.ref, base.id)
        self.save()
        return talk

    def save(self) -> None:
        """Write everything but the commits to repo.json."""
        names = ("kind", "id", "private", "gated", "admitted", "former", "created", "refs")
        value = {name: getattr(self, name) for name in names}
        value["discussions"] = [asdict(talk) for talk in self.discussions.values()]
        _write_json(self.folder / "repo.json", value)

    @classmethod
    def load(cls, folder: Path) -> Repo:
        """Read a repo back."""
        value = json.loads((folder / "repo.json").read_text(encoding="utf-8"))
        talks = [Discussion(**talk) for talk in value.pop("discussions")]
        found = [json.loads(path.read_text(encoding="utf-8")) for path in (folder / "commits").glob("*.json")]
        return cls(
            **{**value, "admitted": tuple(value["admitted"]), "former": tuple(value.get("former", ()))},
            folder=folder,
            discussions={talk.num: talk for talk in talks},
            commits={commit["id"]: Commit.from_dict(commit) for commit in found},
        )


def _write_json(path: Path, value: object) -> None:
    """Write a file wholly, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(value), encoding="utf-8")
    beside.replace(path)

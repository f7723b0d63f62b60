"""What happened to a repo on the Hub between two of its commits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import huggingface_hub

from cocktail_hub.hub.errors import hub_errors

if TYPE_CHECKING:
    from cocktail_hub.hub.client import Hub


@dataclass(frozen=True, kw_only=True)
class History:
    """The commits after one commit, up to another, and the files that differ."""

    commits: tuple[str, ...]
    """`2026-11-29 3f2a1b0c Title` for each, newest first; empty if the first is not among the other's ancestors."""
    files: tuple[str, ...]
    """`changed config.json`, `added ...` or `removed ...` for each, by name."""


def require_access(repo_id: str, hub: Hub) -> None:
    """Raise SourceError if the files of a repo cannot be downloaded: it is gone, private or gated."""
    with hub_errors(repo_id):
        hub.api.auth_check(repo_id)


def history_between(repo_id: str, old: str, new: str, hub: Hub) -> History:
    """Compare two commits of a repo. Raises SourceError."""
    with hub_errors(repo_id, new):
        known = hub.api.list_repo_commits(repo_id, revision=new)
        ids = [commit.commit_id for commit in known]
        later = known[: ids.index(old)] if old in ids else []
        after = _contents(repo_id, new, hub)
    with hub_errors(repo_id, old):
        before = _contents(repo_id, old, hub)
    words = {path: "changed" for path in before.keys() & after.keys() if before[path] != after[path]}
    words |= dict.fromkeys(after.keys() - before.keys(), "added")
    words |= dict.fromkeys(before.keys() - after.keys(), "removed")
    return History(
        commits=tuple(f"{c.created_at:%Y-%m-%d} {c.commit_id[:8]} {c.title}" for c in later),
        files=tuple(f"{word} {path}" for path, word in sorted(words.items())),
    )


def _contents(repo_id: str, commit: str, hub: Hub) -> dict[str, str]:
    """Path -> git's name for the content."""
    tree = hub.api.list_repo_tree(repo_id, recursive=True, revision=commit)
    return {entry.path: entry.blob_id for entry in tree if isinstance(entry, huggingface_hub.RepoFile)}

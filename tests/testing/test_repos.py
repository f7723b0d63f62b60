"""Repos without a server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cocktail_hub.testing.commits import Commit, Entry
from cocktail_hub.testing.http_error import HttpError
from cocktail_hub.testing.repos import Repo

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    """Three commits on main; the first and second are also known by other names."""
    repo = Repo(folder=tmp_path, kind="model", id="alice/bert")
    parent = None
    for body in ("one", "two", "three"):
        tree = {"a": Entry.regular(body.encode(), body), "same": Entry.regular(b"same", "same")}
        commit = Commit.make(tree, parent=parent, title=body, author="alice")
        repo.add(commit, "refs/heads/main")
        parent = commit.id
    one, two, _ = repo.history(repo.resolve("main"))
    repo.point("refs/tags/v1", two.id)
    repo.point("refs/pr/1", one.id)
    return repo


def test_a_revision_is_a_branch_a_tag_a_ref_or_a_commit(repo: Repo) -> None:
    three, two, one = repo.history(repo.resolve("main"))
    assert [commit.title for commit in (one, two, three)] == ["one", "two", "three"]
    assert repo.resolve("refs/heads/main") == repo.resolve("refs/pr/1") == repo.resolve("pr/1") == three
    assert repo.resolve("v1") == two
    assert repo.resolve(one.id) == repo.resolve(one.id[:7]) == one
    for unknown in ("nope", one.id[:6], "f" * 40):
        with pytest.raises(HttpError, match=f"Invalid rev id: {unknown}") as caught:
            repo.resolve(unknown)
        assert (caught.value.status, caught.value.code) == (404, "RevisionNotFound")


def test_a_file_was_last_changed_where_it_became_what_it_is(repo: Repo) -> None:
    three, two, one = repo.history(repo.resolve("main"))
    assert repo.last_change("a", three) == three
    assert repo.last_change("a", two) == two
    assert repo.last_change("same", three) == one


def test_a_folder_was_last_changed_with_a_file_in_it(repo: Repo) -> None:
    files = ({"x/y/a": "1"}, {"x/y/a": "1", "x/b": "1"}, {"x/y/a": "1", "x/b": "1", "c": "1"}, {"x/y/a": "1", "c": "1"})
    commits, parent = [], None
    for tree in files:
        entries = {path: Entry.regular(body.encode(), "0" * 64) for path, body in tree.items()}
        commits.append(Commit.make(entries, parent=parent, title="", author="alice"))
        repo.add(commits[-1], "refs/heads/main")
        parent = commits[-1].id
    assert [repo.last_change("x", commit) for commit in commits] == [commits[0], commits[1], commits[1], commits[3]]
    assert repo.last_change("x/y", commits[3]) == commits[0]


def test_a_repo_survives_being_written_down(repo: Repo) -> None:
    repo.gated, repo.admitted, repo.former = "manual", ("bob",), ("alice/earlier",)
    repo.open_discussion("bob", "Why?", "text", base=repo.resolve("main"), status="open")
    assert Repo.load(repo.folder) == repo


def test_a_removed_name_is_gone(repo: Repo) -> None:
    repo.point("refs/tags/v1", None)
    with pytest.raises(HttpError, match="v1"):
        Repo.load(repo.folder).resolve("v1")

"""Commits and trees."""

from __future__ import annotations

from cocktail_hub.testing.commits import Commit, Entry, changes, edited, files_under, git_blob_id

_A, _B = Entry.regular(b"A", "sha-of-a"), Entry.regular(b"B", "sha-of-b")


def test_a_body_has_the_name_that_git_gives_it() -> None:
    assert git_blob_id(b"") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    assert git_blob_id(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_a_large_file_is_named_by_its_pointer_in_git_and_by_its_body_in_lfs() -> None:
    entry = Entry.large("0" * 64, 12)
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12\n"
    assert (entry.oid, entry.etag) == (git_blob_id(pointer), "0" * 64)
    assert _A.etag == git_blob_id(b"A")


def test_a_commit_survives_being_written_down() -> None:
    commit = Commit.make({"a": _A}, parent="0" * 40, title="t", message="m", author="alice")
    assert Commit.from_dict(commit.to_dict()) == commit


def test_two_commits_of_the_same_are_two() -> None:
    first, second = (Commit.make({"a": _A}, parent=None, title="t", author="alice") for _ in range(2))
    assert first.id != second.id


def test_a_folder_holds_what_is_below_it_and_no_more() -> None:
    tree = {"x/b": _B, "x/a": _A, "xy": _A, "y/x/a": _A}
    assert files_under(tree, "x") == files_under(tree, "x/") == ["x/a", "x/b"]
    assert files_under(tree, "") == ["x/a", "x/b", "xy", "y/x/a"]


def test_changes_lead_from_one_tree_to_the_other() -> None:
    old, new = {"same": _A, "changed": _A, "gone": _A}, {"same": _A, "changed": _B, "new": _B}
    assert changes(old, new) == ({"changed": _B, "new": _B}, ["gone"])
    assert edited(old, *changes(old, new)) == new

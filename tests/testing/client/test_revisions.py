"""Branches, tags, commits and pull requests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from huggingface_hub import CommitOperationAdd
from huggingface_hub.errors import HfHubHTTPError, RevisionNotFoundError

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def _text(api: HfApi, repo: str, name: str, revision: str | None = None) -> str:
    return Path(api.hf_hub_download(repo, name, revision=revision)).read_text(encoding="utf-8")


def test_a_branch_has_files_of_its_own(api: HfApi, filled: str) -> None:
    api.create_branch(filled, branch="dev/x")
    api.create_branch(filled, branch="dev/x", exist_ok=True)
    with pytest.raises(HfHubHTTPError, match=r"Reference refs/heads/dev/x already exists") as caught:
        api.create_branch(filled, branch="dev/x")
    assert caught.value.response.status_code == 409
    api.upload_file(path_or_fileobj=b"dev", path_in_repo="dev.txt", repo_id=filled, revision="dev/x")
    assert _text(api, filled, "dev.txt", "dev/x") == "dev"
    assert "dev.txt" not in api.list_repo_files(filled)
    assert [branch.name for branch in api.list_repo_refs(filled).branches] == ["main", "dev/x"]
    api.delete_branch(filled, branch="dev/x")
    assert [branch.name for branch in api.list_repo_refs(filled).branches] == ["main"]
    with pytest.raises(HfHubHTTPError, match="Cannot delete refs/heads/main"):
        api.delete_branch(filled, branch="main")


def test_a_tag_stays_where_it_was_put(api: HfApi, filled: str) -> None:
    tagged = api.model_info(filled).sha
    api.create_tag(filled, tag="v1.0", tag_message="first")
    with pytest.raises(HfHubHTTPError, match=r"Reference refs/tags/v1\.0 already exists"):
        api.create_tag(filled, tag="v1.0")
    newer = api.upload_file(path_or_fileobj=b"B", path_in_repo="a.txt", repo_id=filled).oid
    assert api.model_info(filled, revision="v1.0").sha == tagged
    assert api.resolve_revision(filled, revision="v1.0").resolved == tagged
    assert [_text(api, filled, "a.txt", name) for name in ("v1.0", tagged, "main", newer)] == ["A", "A", "B", "B"]
    with pytest.raises(HfHubHTTPError, match="not a branch"):
        api.upload_file(path_or_fileobj=b"C", path_in_repo="a.txt", repo_id=filled, revision="v1.0")
    api.delete_tag(filled, tag="v1.0")
    with pytest.raises(RevisionNotFoundError):
        api.model_info(filled, revision="v1.0")


def test_anyone_proposes_and_members_merge(api: HfApi, bob: HfApi, filled: str) -> None:
    proposed = bob.upload_file(path_or_fileobj=b"pr", path_in_repo="pr.txt", repo_id=filled, create_pr=True)
    assert (proposed.pr_num, proposed.pr_revision) == (1, "refs/pr/1")
    assert _text(bob, filled, "pr.txt", "refs/pr/1") == "pr"
    assert not api.file_exists(filled, "pr.txt")
    bob.upload_file(path_or_fileobj=b"more", path_in_repo="more.txt", repo_id=filled, revision="refs/pr/1")
    with pytest.raises(HfHubHTTPError, match="no right to write"):
        bob.merge_pull_request(filled, 1)
    api.upload_file(path_or_fileobj=b"meanwhile", path_in_repo="main.txt", repo_id=filled)
    api.comment_discussion(filled, 1, comment="Thanks")
    api.merge_pull_request(filled, 1)
    assert {"pr.txt", "more.txt", "main.txt"} <= set(api.list_repo_files(filled))
    details = api.get_discussion_details(filled, 1)
    assert (details.status, details.author, details.merge_commit_oid) == ("merged", "bob", api.model_info(filled).sha)
    assert [event.type for event in details.events] == ["comment", "comment", "status-change"]


def test_a_proposal_that_main_has_overtaken_is_not_merged(api: HfApi, bob: HfApi, filled: str) -> None:
    bob.upload_file(path_or_fileobj=b"theirs", path_in_repo="a.txt", repo_id=filled, create_pr=True)
    api.upload_file(path_or_fileobj=b"ours", path_in_repo="a.txt", repo_id=filled)
    assert api.get_discussion_details(filled, 1).conflicting_files == ["a.txt"]
    with pytest.raises(HfHubHTTPError, match=r"Changed both here and on main: a\.txt"):
        api.merge_pull_request(filled, 1)
    assert _text(api, filled, "a.txt") == "ours"


def test_a_folder_is_proposed_as_one_pull_request(
    api: HfApi, bob: HfApi, filled: str, weights: bytes, tmp_path: Path
) -> None:
    (tmp_path / "p.json").write_text("{}", encoding="utf-8")
    (tmp_path / "p.safetensors").write_bytes(weights[::-1])
    proposed = bob.upload_folder(folder_path=tmp_path, repo_id=filled, create_pr=True, commit_message="Propose")
    assert proposed.pr_num == 1
    assert {"p.json", "p.safetensors"} <= set(api.list_repo_files(filled, revision="refs/pr/1"))
    refs = api.list_repo_refs(filled, include_pull_requests=True)
    assert [pull.ref for pull in refs.pull_requests] == ["refs/pr/1"]
    api.change_discussion_status(filled, 1, new_status="closed")
    assert [(talk.num, talk.status, talk.is_pull_request) for talk in api.get_repo_discussions(filled)] == [
        (1, "closed", True)
    ]


def test_a_discussion_is_not_a_pull_request(api: HfApi, bob: HfApi, filled: str) -> None:
    talk = bob.create_discussion(filled, "A question", description="Why?")
    assert (talk.num, talk.status, talk.is_pull_request) == (1, "open", False)
    operations = [CommitOperationAdd("x.txt", b"x")]
    assert api.create_commit(filled, operations, commit_message="next", create_pr=True).pr_num == 2
    api.change_discussion_status(filled, 1, "closed")
    listed = {
        (kind, status): [talk.num for talk in api.get_repo_discussions(filled, **options)]
        for kind in ("all", "discussion", "pull_request")
        for status in ("all", "open", "closed")
        for options in [{"discussion_type": kind, "discussion_status": status}]
    }
    assert listed == {
        ("all", "all"): [2, 1],
        ("all", "open"): [2],
        ("all", "closed"): [1],
        ("discussion", "all"): [1],
        ("discussion", "open"): [],
        ("discussion", "closed"): [1],
        ("pull_request", "all"): [2],
        ("pull_request", "open"): [2],
        ("pull_request", "closed"): [],
    }
    bob.rename_discussion(filled, 1, "Another question")
    assert api.get_discussion_details(filled, 1).title == "Another question"


def test_a_proposal_starts_from_a_branch(api: HfApi, filled: str) -> None:
    start = api.model_info(filled).sha
    api.create_branch(filled, branch="dev")
    api.upload_file(path_or_fileobj=b"B", path_in_repo="a.txt", repo_id=filled)
    new = [CommitOperationAdd("x.txt", b"x")]
    proposed = api.create_commit(filled, new, commit_message="x", revision="dev", create_pr=True)
    assert _text(api, filled, "a.txt", proposed.pr_revision) == "A"
    assert _text(api, filled, "x.txt", proposed.pr_revision) == "x"
    with pytest.raises(RevisionNotFoundError, match=f"Invalid rev id: {start}"):
        api.upload_file(path_or_fileobj=b"y", path_in_repo="y.txt", repo_id=filled, revision=start, create_pr=True)


@pytest.mark.parametrize("name", ["two words", "a..b", "a~1", "a.lock", "/a", "a/", ".a", "a:b", "a\\b"])
def test_a_name_that_git_refuses_names_nothing(api: HfApi, filled: str, name: str) -> None:
    with pytest.raises(HfHubHTTPError, match="Not a valid name for a reference"):
        api.create_tag(filled, tag=name)
    assert api.list_repo_refs(filled).tags == []


def test_a_history_comes_as_html_if_asked(api: HfApi, filled: str) -> None:
    api.upload_file(path_or_fileobj=b"B", path_in_repo="a.txt", repo_id=filled, commit_message="a <b>")
    plain, html = (api.list_repo_commits(filled, formatted=formatted)[0] for formatted in (False, True))
    assert (plain.title, plain.formatted_title) == ("a <b>", None)
    assert (html.title, html.formatted_title, html.formatted_message) == ("a <b>", "a &lt;b&gt;", "")

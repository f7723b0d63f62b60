"""What the client writes."""

from __future__ import annotations

import hashlib
import io
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi, get_session
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

from cocktail_hub.testing import LoopbackHub

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.whole


def _commits(hub: LoopbackHub) -> list[str]:
    return [request.path for request in hub.requests if request.method == "POST" and "/commit/" in request.path]


def test_a_new_repo_is_created_once(api: HfApi, hub: LoopbackHub) -> None:
    url = api.create_repo("alice/only-once")
    assert str(url) == f"{hub.url}/alice/only-once"
    assert url.repo_id == "alice/only-once"
    assert api.create_repo("alice/only-once", exist_ok=True).repo_id == "alice/only-once"
    with pytest.raises(HfHubHTTPError, match="already created this model repo") as caught:
        api.create_repo("alice/only-once")
    assert caught.value.response.status_code == 409


@pytest.mark.parametrize("name", ["alice/..", "alice/a--b", "alice/a..b", "alice/-a", "alice/a%2Fb"])
def test_a_repo_cannot_have_a_name_that_the_hub_refuses(token: str, hub: LoopbackHub, name: str) -> None:
    """Asked without the client, which would not let them through."""
    body = {"organization": "alice", "name": name.removeprefix("alice/")}
    answer = get_session().post(f"{hub.url}/api/repos/create", json=body, headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 400
    assert answer.json() == {"error": f"Invalid repo name: {name!r}"}


def test_a_small_file_is_one_commit(api: HfApi, repo: str) -> None:
    info = api.upload_file(path_or_fileobj=b"hi", path_in_repo="hi.txt", repo_id=repo, commit_message="Say hi")
    commits = api.list_repo_commits(repo)
    assert [(commit.title, commit.authors) for commit in commits] == [
        ("Say hi", ["alice"]),
        ("initial commit", ["alice"]),
    ]
    assert commits[0].commit_id == info.oid == api.model_info(repo).sha
    assert info.commit_url.endswith(f"/{repo}/commit/{info.oid}")


def test_a_large_file_is_known_by_its_sha256(api: HfApi, hub: LoopbackHub, repo: str, weights: bytes) -> None:
    api.upload_file(path_or_fileobj=weights, path_in_repo="model.safetensors", repo_id=repo)
    (file,) = api.get_paths_info(repo, ["model.safetensors"])
    assert file.lfs.sha256 == hashlib.sha256(weights).hexdigest()
    assert file.size == file.lfs.size == len(weights)
    assert (file.xet_hash is not None) == hub.xet


def test_an_open_file_goes_over_plain_lfs_in_either_mode(api: HfApi, repo: str) -> None:
    api.upload_file(path_or_fileobj=io.BytesIO(b"\0buf" * 1000), path_in_repo="buffer.bin", repo_id=repo)
    (file,) = api.get_paths_info(repo, ["buffer.bin"])
    assert (file.size, file.xet_hash) == (4000, None)


def test_a_large_file_goes_up_in_parts_if_the_hub_wants_it(tmp_path: Path) -> None:
    body = os.urandom(7 * 1024 * 1024)
    with LoopbackHub(multipart_chunk=3 * 1024 * 1024) as hub:
        hub.add_user("alice", token="hf_alice")
        api = HfApi(endpoint=hub.url, token="hf_alice")
        api.create_repo("alice/parts")
        api.upload_file(path_or_fileobj=io.BytesIO(body), path_in_repo="big.bin", repo_id="alice/parts")
        parts = [request.path for request in hub.requests if request.method == "PUT"]
        assert sorted(path.rsplit("/", 1)[1] for path in parts) == ["1", "2", "3"]
        path = api.hf_hub_download("alice/parts", "big.bin", local_dir=tmp_path)
    assert hashlib.sha256((tmp_path / "big.bin").read_bytes()).digest() == hashlib.sha256(body).digest()
    assert str(path) == str(tmp_path / "big.bin")


def test_a_body_that_the_hub_holds_is_not_sent_again(api: HfApi, hub: LoopbackHub, filled: str, weights: bytes) -> None:
    hub.clear_requests()
    api.upload_file(path_or_fileobj=weights, path_in_repo="copy/model.safetensors", repo_id=filled)
    assert not [request for request in hub.requests if request.method == "PUT" or "/xorbs/" in request.path]
    assert "copy/model.safetensors" in api.list_repo_files(filled)


def test_a_file_is_large_by_name_by_size_or_by_content(api: HfApi, repo: str) -> None:
    sizes = {"a.bin": b"text", "b.txt": b"x" * (10 * 1024 * 1024 + 1), "c.txt": b"a\0b", "d.txt": b"text"}
    operations = [CommitOperationAdd(path, body) for path, body in sizes.items()]
    api.create_commit(repo, operations, commit_message="four files")
    found = api.get_paths_info(repo, list(sizes))
    assert {file.path: file.lfs is not None for file in found} == dict(
        zip(sizes, [True, True, True, False], strict=True)
    )
    api.upload_file(path_or_fileobj=b"*.txt filter=lfs -text\n", path_in_repo=".gitattributes", repo_id=repo)
    operations = [CommitOperationAdd(path, b"text") for path in ("e.txt", "f.bin")]
    api.create_commit(repo, operations, commit_message="two more")
    found = api.get_paths_info(repo, ["e.txt", "f.bin"])
    assert {file.path: file.lfs is not None for file in found} == {"e.txt": True, "f.bin": False}


def test_a_folder_goes_up_with_patterns(api: HfApi, repo: str, weights: bytes, tmp_path: Path) -> None:
    for name, body in {"config.json": b"{}", "1_Pooling/config.json": b"{}", "tmp.log": b"", "w.bin": weights}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(body)
    api.upload_folder(folder_path=tmp_path, repo_id=repo, ignore_patterns=["*.log"])
    expected = [".gitattributes", "1_Pooling/config.json", "config.json", "w.bin"]
    assert sorted(api.list_repo_files(repo)) == expected
    api.upload_folder(folder_path=tmp_path, repo_id=repo, allow_patterns="config.json", delete_patterns="w.*")
    assert sorted(api.list_repo_files(repo)) == expected[:-1]
    api.upload_file(path_or_fileobj=b"*.log\n", path_in_repo=".gitignore", repo_id=repo)
    api.upload_folder(folder_path=tmp_path, repo_id=repo, allow_patterns="*.log")
    assert "tmp.log" not in api.list_repo_files(repo)


def test_one_commit_adds_copies_and_deletes(api: HfApi, hub: LoopbackHub, filled: str) -> None:
    api.upload_file(path_or_fileobj=b"{}", path_in_repo="sub/x.json", repo_id=filled)
    hub.clear_requests()
    operations = [
        CommitOperationAdd("b.txt", b"B"),
        CommitOperationCopy("model.safetensors", "twin.safetensors"),
        CommitOperationCopy("a.txt", "c.txt"),
        CommitOperationDelete("a.txt"),
        CommitOperationDelete("sub/"),
    ]
    api.create_commit(filled, operations, commit_message="rearrange")
    assert len(_commits(hub)) == 1
    expected = [".gitattributes", "b.txt", "c.txt", "model.safetensors", "twin.safetensors"]
    assert sorted(api.list_repo_files(filled)) == expected


def test_nothing_new_is_no_commit(api: HfApi, hub: LoopbackHub, filled: str, weights: bytes) -> None:
    head = api.model_info(filled).sha
    hub.clear_requests()
    same = [CommitOperationAdd("a.txt", b"A"), CommitOperationAdd("model.safetensors", weights)]
    assert api.create_commit(filled, same, commit_message="nothing").oid == head
    assert _commits(hub) == []


def test_a_commit_on_an_outdated_parent_is_refused(api: HfApi, filled: str) -> None:
    first = api.list_repo_commits(filled)[-1].commit_id
    operations = [CommitOperationAdd("z.txt", b"z")]
    with pytest.raises(HfHubHTTPError, match="The branch was updated since") as caught:
        api.create_commit(filled, operations, commit_message="race", parent_commit=first)
    assert caught.value.response.status_code == 412
    assert not api.file_exists(filled, "z.txt")


def test_deleting_what_is_not_there_changes_nothing(api: HfApi, filled: str) -> None:
    head = api.model_info(filled).sha
    with pytest.raises(EntryNotFoundError, match="A file with this name doesn't exist"):
        api.create_commit(
            filled, [CommitOperationAdd("b.txt", b"B"), CommitOperationDelete("no.txt")], commit_message="both or none"
        )
    assert api.model_info(filled).sha == head


@pytest.mark.parametrize(
    ("operation", "problem"),
    [
        ({"key": "file", "value": {"path": "../x", "content": "x"}}, "Invalid path: '../x'"),
        ({"key": "file", "value": {"path": ".git/config", "content": "x"}}, "Invalid path: '.git/config'"),
        ({"key": "file", "value": {"path": "..\\x", "content": "x"}}, "Invalid path: '..\\\\x'"),
        ({"key": "lfsFile", "value": {"path": "x", "oid": "../../site.json"}}, "a file that does not exist: x"),
        ({"key": "lfsFile", "value": {"path": "x", "oid": "0" * 64}}, "a file that does not exist: x"),
        ({"key": "moveFile", "value": {}}, "Unknown operation 'moveFile'"),
    ],
)
def test_a_commit_that_makes_no_sense_is_refused(
    token: str, hub: LoopbackHub, repo: str, operation: dict[str, object], problem: str
) -> None:
    """Sent without the client, which would not do so."""
    lines = [{"key": "header", "value": {"summary": "x"}}, operation]
    answer = get_session().post(
        f"{hub.url}/api/models/{repo}/commit/main",
        content="\n".join(map(json.dumps, lines)),
        headers={"Authorization": f"Bearer {token}"},
    )
    assert answer.status_code in (400, 422)
    assert problem in answer.json()["error"]


def test_a_repo_moves_and_goes(api: HfApi, new_repo: Callable[..., str], weights: bytes) -> None:
    repo = new_repo()
    api.upload_file(path_or_fileobj=weights, path_in_repo="model.safetensors", repo_id=repo)
    api.move_repo(repo, "acme/moved")
    assert "model.safetensors" in api.list_repo_files("acme/moved")
    for name in (repo, "Acme/Moved"):  # a name of before, and one in other letters, lead there
        assert api.model_info(name).id == "acme/moved"
        assert Path(api.hf_hub_download(name, "model.safetensors")).read_bytes() == weights
        api.upload_file(path_or_fileobj=name.encode(), path_in_repo="a.txt", repo_id=name)
        assert Path(api.hf_hub_download("acme/moved", "a.txt")).read_text(encoding="utf-8") == name
    with pytest.raises(HfHubHTTPError, match="You already created this model repo"):
        api.create_repo("acme/MOVED")
    api.create_repo(repo)
    assert api.list_repo_files(repo) == [".gitattributes"]
    api.delete_repo("acme/moved")
    assert not api.repo_exists("acme/moved")
    assert api.repo_exists(repo)
    api.delete_repo("acme/moved", missing_ok=True)


def test_a_dataset_is_a_repo_of_its_own_kind(api: HfApi, repo: str) -> None:
    api.create_repo(repo, repo_type="dataset")  # the same name as a model
    api.upload_file(path_or_fileobj=b"{}\n", path_in_repo="d.jsonl", repo_id=repo, repo_type="dataset")
    assert Path(api.hf_hub_download(repo, "d.jsonl", repo_type="dataset")).read_bytes() == b"{}\n"
    assert api.dataset_info(repo).sha != api.model_info(repo).sha
    assert "d.jsonl" not in api.list_repo_files(repo)

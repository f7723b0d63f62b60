"""What the client reads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from huggingface_hub import HfApi, HfFileSystem, get_cached_repo_tree, get_session, try_to_load_from_cache
from huggingface_hub.errors import (
    NotASafetensorsRepoError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import _CACHED_NO_EXIST
from huggingface_hub.hf_api import RepoFolder
from safetensors.numpy import save_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from cocktail_hub.testing import LoopbackHub

pytestmark = pytest.mark.whole


def test_a_small_file_is_asked_for_again_but_not_sent_again(api: HfApi, hub: LoopbackHub, filled: str) -> None:
    path = api.hf_hub_download(filled, "a.txt")
    assert Path(path).read_text(encoding="utf-8") == "A"
    hub.clear_requests()
    assert api.hf_hub_download(filled, "a.txt") == path
    assert {request.method for request in hub.requests} == {"HEAD"}
    hub.clear_requests()
    assert api.hf_hub_download(filled, "a.txt", revision=api.model_info(filled).sha) == path
    assert [request.path.split("?")[0] for request in hub.requests] == [f"/api/models/{filled}"]


def test_the_cache_names_bodies_as_git_and_lfs_do(api: HfApi, filled: str) -> None:
    small, large = api.get_paths_info(filled, ["a.txt", "model.safetensors"])
    assert Path(api.hf_hub_download(filled, "a.txt")).resolve().name == small.blob_id
    blob = api.hf_hub_download(filled, "model.safetensors")
    assert Path(os.path.realpath(blob)).name in (large.lfs.sha256, large.xet_hash)


def test_weights_come_from_another_origin_without_the_token(
    api: HfApi, hub: LoopbackHub, filled: str, weights: bytes
) -> None:
    hub.clear_requests()
    assert Path(api.hf_hub_download(filled, "model.safetensors")).read_bytes() == weights
    from_cdn = [request for request in hub.requests if request.path.startswith("/_cdn/")]
    assert from_cdn
    assert not [request for request in from_cdn if "authorization" in request.headers]
    assert hub.sent("GET /_cdn/") >= len(weights) // 2  # Xet may compress
    assert {request.path.split("/")[2] for request in from_cdn} == {"xorb" if hub.xet else "file"}


def test_a_client_without_xet_reads_what_came_over_xet(hub: LoopbackHub, filled: str, weights: bytes) -> None:
    address = f"{hub.url}/{filled}/resolve/main/model.safetensors"
    assert get_session().get(address).content == weights
    part = get_session().get(address, headers={"Range": "bytes=-10"})
    assert (part.status_code, part.content) == (206, weights[-10:])
    assert part.headers["content-range"] == f"bytes {len(weights) - 10}-{len(weights) - 1}/{len(weights)}"
    behind = get_session().get(address, headers={"Range": f"bytes={len(weights)}-"})
    assert (behind.status_code, behind.headers["content-range"]) == (416, f"bytes */{len(weights)}")


def test_a_file_that_is_missing_is_remembered_as_missing(api: HfApi, filled: str) -> None:
    with pytest.raises(RemoteEntryNotFoundError, match="Entry Not Found"):
        api.hf_hub_download(filled, "missing.json")
    assert try_to_load_from_cache(filled, "missing.json") is _CACHED_NO_EXIST


def test_a_local_folder_is_brought_up_to_date(api: HfApi, filled: str, tmp_path: Path) -> None:
    api.hf_hub_download(filled, "a.txt", local_dir=tmp_path)
    api.upload_file(path_or_fileobj=b"B", path_in_repo="a.txt", repo_id=filled)
    api.hf_hub_download(filled, "a.txt", local_dir=tmp_path)
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "B"


def test_a_snapshot_leaves_out_what_was_not_asked_for(api: HfApi, hub: LoopbackHub, filled: str) -> None:
    hub.clear_requests()
    folder = Path(api.snapshot_download(filled, allow_patterns=["*.txt"]))
    assert [path.name for path in folder.iterdir()] == ["a.txt"]
    assert hub.sent("GET /_cdn/") == 0
    api.snapshot_download(filled)
    hub.clear_requests()
    api.snapshot_download(filled, revision=folder.name)
    assert hub.requests == []
    assert get_cached_repo_tree(filled) is not None


def test_without_a_network_the_cache_still_serves(api: HfApi, filled: str) -> None:
    api.snapshot_download(filled)
    code = f"""
import huggingface_hub as hf
print(open(hf.hf_hub_download({filled!r}, "a.txt")).read())
for call in (lambda: hf.hf_hub_download({filled!r}, "b.txt"), lambda: hf.model_info({filled!r})):
    try: call()
    except Exception as error: print(type(error).__name__)
"""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert result.stdout.split() == ["A", "LocalEntryNotFoundError", "OfflineModeIsEnabled"], result.stderr


def test_a_tree_lists_folders_and_files(api: HfApi, filled: str) -> None:
    api.upload_file(path_or_fileobj=b"{}", path_in_repo="x/y/z.json", repo_id=filled)
    deep = list(api.list_repo_tree(filled, recursive=True))
    assert [item.path for item in deep] == [".gitattributes", "a.txt", "model.safetensors", "x", "x/y", "x/y/z.json"]
    assert [item.path for item in deep if isinstance(item, RepoFolder)] == ["x", "x/y"]
    assert [item.path for item in api.list_repo_tree(filled, "x")] == ["x/y"]
    assert [item.path for item in api.get_paths_info(filled, ["a.txt", "x", "nope"])] == ["a.txt", "x"]


def test_a_file_tells_the_commit_that_changed_it_last(api: HfApi, repo: str) -> None:
    first = api.upload_file(path_or_fileobj=b"1", path_in_repo="a.txt", repo_id=repo)
    second = api.upload_file(path_or_fileobj=b"2", path_in_repo="b.txt", repo_id=repo)
    found = {item.path: item.last_commit.oid for item in api.list_repo_tree(repo, expand=True)}
    assert (found["a.txt"], found["b.txt"]) == (first.oid, second.oid)
    third = api.upload_file(path_or_fileobj=b"3", path_in_repo="x/y.txt", repo_id=repo)
    api.upload_file(path_or_fileobj=b"4", path_in_repo="b.txt", repo_id=repo)
    assert {item.path: item.last_commit.oid for item in api.list_repo_tree(repo, expand=True)}["x"] == third.oid


def test_a_long_tree_comes_in_pages(api: HfApi, hub: LoopbackHub, repo: str, tmp_path: Path) -> None:
    for number in range(60):
        (tmp_path / f"{number:02d}.txt").write_text(str(number), encoding="utf-8")
    api.upload_folder(folder_path=tmp_path, repo_id=repo)
    hub.clear_requests()
    assert len(list(api.list_repo_tree(repo, expand=True))) == 61
    assert len(hub.requests) == 2


def test_a_repo_describes_itself(api: HfApi, filled: str, weights: bytes) -> None:
    card = "---\nlicense: apache-2.0\ntags: [merge]\nbase_model: [a/b, a/c]\nbase_model_relation: merge\n---\n# hi\n"
    api.upload_file(path_or_fileobj=card.encode(), path_in_repo="README.md", repo_id=filled)
    config = b'{"model_type": "bert", "architectures": ["BertModel"], "hidden_size": 1}'
    api.upload_file(path_or_fileobj=config, path_in_repo="config.json", repo_id=filled)
    info = api.model_info(filled, files_metadata=True)
    assert info.card_data["base_model"] == ["a/b", "a/c"]
    assert info.tags[:2] == ["merge", "license:apache-2.0"]
    assert "base_model:merge:a/c" in info.tags
    assert info.config == {"architectures": ["BertModel"], "model_type": "bert"}
    assert (info.safetensors.total, info.safetensors.parameters) == (6180, {"F32": 6000, "F16": 180})
    large = next(file for file in info.siblings if file.rfilename == "model.safetensors")
    assert (large.size, large.lfs.size) == (len(weights), len(weights))
    brief = api.model_info(filled, expand=["sha", "gated"])
    assert (brief.sha, brief.gated, brief.siblings) == (info.sha, False, None)


def test_repos_are_found_by_author_words_and_tags(api: HfApi, stranger: HfApi, new_repo: Callable[..., str]) -> None:
    api.create_repo("acme/needle-one")
    api.create_repo("acme/needle-two", private=True)
    api.upload_file(
        path_or_fileobj=b"---\ntags: [haystack]\n---\n", path_in_repo="README.md", repo_id="acme/needle-one"
    )
    assert [model.id for model in api.list_models(search="needle")] == ["acme/needle-one", "acme/needle-two"]
    assert [model.id for model in stranger.list_models(author="acme", search="needle")] == ["acme/needle-one"]
    assert [model.id for model in api.list_models(filter="haystack")] == ["acme/needle-one"]
    assert len(list(api.list_models(limit=1))) == 1


def test_what_is_missing_has_an_error_of_its_own(api: HfApi, stranger: HfApi, filled: str) -> None:
    for client in (api, stranger):
        for repo in ("alice/nope", "no-namespace"):
            with pytest.raises(RepositoryNotFoundError, match="Repository Not Found"):
                client.model_info(repo)
            with pytest.raises(RepositoryNotFoundError):
                client.snapshot_download(repo)
            with pytest.raises(RepositoryNotFoundError):
                client.hf_hub_download(repo, "a.txt")
    with pytest.raises(RevisionNotFoundError, match="Revision Not Found"):
        api.model_info(filled, revision="nope")
    with pytest.raises(RevisionNotFoundError):
        api.hf_hub_download(filled, "a.txt", revision="nope")
    assert api.file_exists(filled, "a.txt")
    assert not api.file_exists(filled, "nope")
    assert api.revision_exists(filled, "main")
    assert not api.revision_exists(filled, "nope")


def test_a_file_system_reads_ranges_and_writes(hub: LoopbackHub, token: str, filled: str, weights: bytes) -> None:
    files = HfFileSystem(token=token, skip_instance_cache=True)
    assert f"{filled}/a.txt" in files.ls(filled, detail=False)
    assert files.glob(f"{filled}/**/*.safetensors") == [f"{filled}/model.safetensors"]
    hub.clear_requests()
    with files.open(f"{filled}/model.safetensors", "rb", block_size=1024) as file:
        file.seek(1000)
        assert file.read(50) == weights[1000:1050]
    assert 0 < hub.sent("GET /_cdn/") < len(weights) // 2
    with files.open(f"{filled}/new.txt", "w") as file:
        file.write("via fs")
    assert files.read_text(f"{filled}/new.txt") == "via fs"
    files.rm(f"{filled}/new.txt")
    assert not files.exists(f"{filled}/new.txt")


def test_weights_are_described_from_their_headers(api: HfApi, hub: LoopbackHub, repo: str, tmp_path: Path) -> None:
    names = [f"layer.{number}.a.name.that.makes.the.header.long.weight" for number in range(1500)]
    save_file({name: np.zeros(2, np.float32) for name in names}, tmp_path / "model-00001-of-00002.safetensors")
    save_file({"head": np.zeros(3000, np.float16)}, tmp_path / "model-00002-of-00002.safetensors")
    shards = dict.fromkeys(names, "model-00001-of-00002.safetensors") | {"head": "model-00002-of-00002.safetensors"}
    index = {"metadata": {"total_size": 18000}, "weight_map": shards}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    api.upload_folder(folder_path=tmp_path, repo_id=repo)
    metadata = api.get_safetensors_metadata(repo)
    assert (metadata.sharded, metadata.parameter_count) == (True, {"F32": 3000, "F16": 3000})
    assert len(api.parse_safetensors_file_metadata(repo, "model-00001-of-00002.safetensors").tensors) == 1500
    api.create_repo("alice/no-weights")
    with pytest.raises(NotASafetensorsRepoError):
        api.get_safetensors_metadata("alice/no-weights")

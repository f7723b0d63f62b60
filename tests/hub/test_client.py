"""Resolve revisions, list and download files, against a Hub on the loopback interface."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import pytest

from cocktail_hub.errors import SourceError
from cocktail_hub.hub import Hub, HubFiles, download_all, errors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from huggingface_hub import HfApi

    from cocktail_hub.testing import LoopbackHub

pytestmark = pytest.mark.whole

WEIGHTS = bytes(range(256)) * 40


# -- resolve -----------------------------------------------------------------------------------------------------------


def test_a_branch_a_tag_and_a_commit_lead_to_the_commit(
    model: tuple[str, str], api: HfApi, push: Callable[..., str], options: Hub
) -> None:
    repo, first = model
    api.create_tag(repo, tag="v1")
    api.create_branch(repo, branch="old/style")
    second = push(repo, {"config.json": b"{}"})
    assert options.resolve(repo, None) == second
    assert options.resolve(repo, "main") == second
    assert options.resolve(repo, "v1") == first
    assert options.resolve(repo, "old/style") == first
    assert options.resolve(repo, first) == first
    assert options.resolve(repo, first[:10]) == first


def test_a_full_commit_hash_needs_no_request(model: tuple[str, str], hub: LoopbackHub, options: Hub) -> None:
    repo, commit = model
    hub.clear_requests()
    assert options.resolve(repo, commit) == commit
    assert hub.requests == []


def test_a_dataset_is_pinned_like_a_model(name: str, push: Callable[..., str], options: Hub) -> None:
    commit = push(name, {"train.jsonl": b"{}"}, repo_type="dataset")
    assert options.resolve(name, None, repo_type="dataset") == commit
    assert HubFiles(name, commit, options, repo_type="dataset").read("train.jsonl") == b"{}"


@pytest.mark.parametrize(
    ("revision", "words"),
    [(None, "'alice/none' is not on the Hub, or it is private"), ("v1", "'alice/none' is not on the Hub")],
)
def test_an_error_names_the_missing_repo(options: Hub, revision: str | None, words: str) -> None:
    with pytest.raises(SourceError, match=words) as caught:
        options.resolve("alice/none", revision)
    assert "for a local folder write './none'" in str(caught.value)


def test_an_error_names_the_missing_revision(model: tuple[str, str], options: Hub) -> None:
    with pytest.raises(SourceError, match=rf"(?s)'{model[0]}' has no revision 'v9'\..*Check its spelling"):
        options.resolve(model[0], "v9")


@pytest.mark.parametrize("other", [False, "hf_bob"])
def test_a_private_repo_without_the_right_token_says_how_to_log_in(
    name: str, push: Callable[..., str], other: str | bool
) -> None:
    push(name, {"config.json": b"{}"}, private=True)
    with pytest.raises(SourceError, match=r"(?s)or it is private and the token in use cannot see it.*`hf auth login`"):
        Hub(token=other).resolve(name, None)


def test_an_invalid_token_is_reported_but_not_shown(model: tuple[str, str]) -> None:
    with pytest.raises(SourceError, match=r"The Hub does not accept the access token") as caught:
        Hub(token="hf_secret").resolve(model[0], None)
    assert "hf_secret" not in str(caught.value)


def test_the_token_is_not_in_the_repr() -> None:
    assert "hf_secret" not in repr(Hub(token="hf_secret"))


def test_an_invalid_repo_id_is_reported(options: Hub) -> None:
    with pytest.raises(SourceError, match="'a/b/c' is neither a local folder nor a Hub id"):
        options.resolve("a/b/c", None)


def test_while_the_hub_is_down_a_branch_resolves_to_its_last_commit(
    model: tuple[str, str], hub: LoopbackHub, options: Hub
) -> None:
    repo, commit = model
    assert options.resolve(repo, None) == commit
    hub.fail(f"GET /api/models/{repo}", status=503, times=100)
    assert options.resolve(repo, None) == commit


def test_while_the_hub_is_down_an_unknown_repo_says_so(hub: LoopbackHub, options: Hub) -> None:
    hub.fail("GET /api/models/alice/never", status=503, times=100)
    with pytest.raises(
        SourceError,
        match=r"The Hub did not answer, and 'alice/never' at revision 'main' is not in the local cache: .*503",
    ):
        options.resolve("alice/never", None)


# -- list ----------------------------------------------------------------------------------------------------------


def test_sizes_lists_every_file_and_downloads_no_weights(
    model: tuple[str, str], hub: LoopbackHub, options: Hub
) -> None:
    hub.clear_requests()
    sizes = HubFiles(*model, options).sizes
    assert {path: size for path, size in sizes.items() if path != ".gitattributes"} == {
        "README.md": 31,
        "config.json": 22,
        "model.safetensors": 10240,
        "onnx/model.onnx": 5000,
        "with [brackets]?.txt": 3,
    }
    assert list(sizes) == sorted(sizes)
    assert hub.sent("GET /_cdn/") == 0


def test_a_commit_is_listed_only_once(model: tuple[str, str], hub: LoopbackHub, options: Hub) -> None:
    sizes = HubFiles(*model, options).sizes
    hub.clear_requests()
    again = HubFiles(*model, options)
    assert again.sizes == sizes
    assert again.read("config.json") == b'{"model_type": "bert"}'
    assert hub.requests == []


def test_a_repo_without_any_config_is_listed_too(name: str, push: Callable[..., str], options: Hub) -> None:
    commit = push(name, {"notes.txt": b"abc"})
    assert HubFiles(name, commit, options).sizes["notes.txt"] == 3


def test_an_error_says_how_to_get_access_to_a_gated_repo(model: tuple[str, str], hub: LoopbackHub) -> None:
    repo, _ = model
    hub.set_gated(repo)
    bob = Hub(token="hf_bob")
    commit = bob.resolve(repo, None)
    with pytest.raises(SourceError, match=rf"(?s)'{repo}' is gated, and this account has no access.*Request access"):
        _ = HubFiles(repo, commit, bob).sizes


def test_an_error_names_the_missing_commit(model: tuple[str, str], options: Hub) -> None:
    with pytest.raises(SourceError, match=f"'{model[0]}' has no revision '{'0' * 40}'"):
        _ = HubFiles(model[0], "0" * 40, options).sizes


def test_an_error_names_the_missing_file_and_the_nearest_one(model: tuple[str, str], options: Hub) -> None:
    files = HubFiles(*model, options)
    with pytest.raises(SourceError, match=rf"'{model[0]}' has no file 'confg.json'. Did you mean 'config.json'\?"):
        files.read("confg.json")
    with pytest.raises(SourceError, match=rf"'{model[0]}' has no file 'zzz'\.$"):
        files.download(["config.json", "zzz"])


def test_a_range_is_read_without_the_rest_and_without_the_token(
    model: tuple[str, str], hub: LoopbackHub, options: Hub
) -> None:
    files = HubFiles(*model, options)
    _ = files.sizes
    hub.clear_requests()
    assert files.read_range("model.safetensors", 100, 164) == WEIGHTS[100:164]
    assert hub.sent("GET /_cdn/") == 64
    asked = [request for request in hub.requests if "/_cdn/" in request.path]
    assert [request.headers["range"] for request in asked] == ["bytes=100-163"]
    assert all("authorization" not in request.headers for request in asked)


def test_an_empty_range_needs_no_request(model: tuple[str, str], hub: LoopbackHub, options: Hub) -> None:
    files = HubFiles(*model, options)
    _ = files.sizes
    hub.clear_requests()
    assert files.read_range("model.safetensors", 8, 8) == b""
    assert hub.requests == []


def test_a_range_of_a_cached_file_is_read_from_the_cache(
    model: tuple[str, str], hub: LoopbackHub, options: Hub
) -> None:
    files = HubFiles(*model, options)
    files.download(["model.safetensors"])
    hub.clear_requests()
    assert files.read_range("model.safetensors", 300, 310) == WEIGHTS[300:310]
    assert hub.requests == []


def test_a_range_beyond_the_end_is_an_error_with_both_sizes(model: tuple[str, str], options: Hub) -> None:
    with pytest.raises(SourceError, match=r"'model.safetensors' of '.*' has 10240 bytes, so it has no byte 10299"):
        HubFiles(*model, options).read_range("model.safetensors", 10_200, 10_300)


def test_a_range_is_cut_from_the_answer_of_a_server_without_ranges(model: tuple[str, str], options: Hub) -> None:
    """README.md is in git, so its answer does not come from the storage of large files."""
    files = HubFiles(*model, options)
    assert files.read_range("README.md", 23, 30) == b"A model"


@pytest.mark.parametrize("fault", [{"status": 503}, {"status": 429}, {"cut_after": 3}])
def test_a_range_that_breaks_off_is_retried(
    model: tuple[str, str], hub: LoopbackHub, options: Hub, fault: dict[str, int]
) -> None:
    files = HubFiles(*model, options)
    _ = files.sizes
    hub.fail("GET /_cdn/", times=2, **fault)  # type: ignore[arg-type]
    assert files.read_range("model.safetensors", 0, 16) == WEIGHTS[:16]


def test_a_hub_that_stays_down_is_reported(model: tuple[str, str], hub: LoopbackHub, options: Hub) -> None:
    files = HubFiles(*model, options)
    _ = files.sizes
    hub.fail("GET /_cdn/", status=503, times=100)
    with pytest.raises(SourceError, match=r"(?s)The Hub refused a request about '.*': .*503.*Try again later"):
        files.read_range("model.safetensors", 0, 16)


def test_the_hub_knows_the_hashes_of_large_files(model: tuple[str, str], options: Hub) -> None:
    hashes = HubFiles(*model, options).hashes(["model.safetensors", "config.json"])
    assert hashes == {"model.safetensors": hashlib.sha256(WEIGHTS).hexdigest()}


# -- download ------------------------------------------------------------------------------------------------------


def test_only_the_named_files_are_downloaded_odd_names_too(
    model: tuple[str, str], hub: LoopbackHub, options: Hub
) -> None:
    files = HubFiles(*model, options)
    assert files.missing(["model.safetensors", "config.json"]) == 10240  # the config came with the listing
    hub.clear_requests()
    folder = files.download(["model.safetensors", "with [brackets]?.txt"])
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert (folder / "with [brackets]?.txt").read_bytes() == b"odd"
    assert not (folder / "onnx").exists()
    assert hub.xet or hub.sent("GET /_cdn/") == 10240
    assert files.missing(["model.safetensors"]) == 0
    assert files.cached("model.safetensors") == folder / "model.safetensors"
    assert files.cached("onnx/model.onnx") is None


def test_cached_files_need_no_request(model: tuple[str, str], hub: LoopbackHub, options: Hub) -> None:
    first = HubFiles(*model, options).download(["model.safetensors"])
    hub.clear_requests()
    assert HubFiles(*model, options).download(["model.safetensors"]) == first
    assert hub.requests == []


def test_a_forced_download_fetches_again(model: tuple[str, str], hub: LoopbackHub, token: str) -> None:
    HubFiles(*model, Hub(token=token)).download(["model.safetensors"])
    hub.clear_requests()
    HubFiles(*model, Hub(token=token, force_download=True)).download(["model.safetensors"])
    assert hub.xet or hub.sent("GET /_cdn/") == 10240


def test_another_cache_folder_is_used(model: tuple[str, str], token: str, tmp_path: Path) -> None:
    folder = HubFiles(*model, Hub(token=token, cache_dir=tmp_path)).download(["config.json"])
    assert folder.is_relative_to(tmp_path)
    assert Hub(cache_dir=tmp_path).cache_folder == tmp_path


def test_several_models_are_downloaded_at_once_and_returned_in_order(
    push: Callable[..., str], name: str, options: Hub
) -> None:
    repos = [f"{name}-{index}" for index in range(6)]
    commits = [push(repo, {"config.json": str(index).encode()}) for index, repo in enumerate(repos)]
    wanted = [(HubFiles(repo, commit, options), ["config.json"]) for repo, commit in zip(repos, commits, strict=True)]
    assert [(folder / "config.json").read_text() for folder in download_all(wanted)] == list("012345")
    assert download_all([]) == []


def test_a_download_that_breaks_off_is_resumed(model: tuple[str, str], hub: LoopbackHub, options: Hub) -> None:
    files = HubFiles(*model, options)
    _ = files.sizes
    hub.fail("GET /_cdn/", cut_after=5000)
    assert (files.download(["model.safetensors"]) / "model.safetensors").read_bytes() == WEIGHTS


# -- the wire ----------------------------------------------------------------------------------------------------------

HTML = b"<html><title>Please log in</title></html>"
FAULTS: dict[str, dict[str, Any]] = {
    "409": {"status": 409},
    "412": {"status": 412},
    "reset": {"cut_after": -1},
    "cut": {"cut_after": 3},
    "portal": {"status": 200, "body": HTML},
    "portal's range": {"status": 206, "body": HTML},
    "other JSON": {"status": 200, "body": b"[null]"},
}
REQUESTS = (
    "GET /api/models/[^?]*$",
    "GET /api/.*/tree/",
    "HEAD /.*resolve",
    "GET /.*/resolve",
    "GET /_cdn/",
    "paths-info",
)


@pytest.mark.parametrize("asked", REQUESTS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_failure_on_the_wire_is_got_over(
    model: tuple[str, str], hub: LoopbackHub, tmp_path: Path, asked: str, fault: str
) -> None:
    options, (repo, commit) = Hub(token="hf_alice", cache_dir=tmp_path), model
    hub.fail(asked, times=2, **FAULTS[fault])
    assert options.resolve(repo, None) == commit
    files = options.files(repo, commit)
    assert files.sizes["model.safetensors"] == 10240
    assert files.read("config.json") == b'{"model_type": "bert"}'
    assert files.read_range("model.safetensors", 100, 164) == WEIGHTS[100:164]
    assert files.hashes(["model.safetensors"]) == {"model.safetensors": hashlib.sha256(WEIGHTS).hexdigest()}
    assert (files.download(["model.safetensors"]) / "model.safetensors").read_bytes() == WEIGHTS


def test_an_answer_that_is_none_of_the_hubs_is_said_in_words(hub: LoopbackHub, options: Hub) -> None:
    hub.fail("GET /api/models/alice/odd", times=9, status=200, body=b"[null]")
    with pytest.raises(SourceError, match=r"(?s)broke while reading 'alice/odd': an answer is not what the Hub sends"):
        options.resolve("alice/odd", None)


def test_what_the_client_has_repeated_is_not_repeated_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cocktail_hub.hub.errors.PATIENCE", -1.0)
    asked: list[int] = []

    def step() -> None:
        asked.append(1)
        raise ConnectionError("reset")

    with pytest.raises(SourceError, match="broke while reading 'org/a': reset"):
        errors.ask(step, "org/a")
    assert asked == [1]


# -- offline -------------------------------------------------------------------------------------------------------

OFFLINE = """
    import sys
    from cocktail_hub.errors import SourceError
    from cocktail_hub.hub import Hub, HubFiles

    def told(act):
        try:
            print(act())
        except SourceError as error:
            print(str(error).replace("\\n", " "))

    repo, options = sys.argv[1], Hub()
    told(lambda: options.offline)
    told(lambda: options.resolve(repo, None))
    files = HubFiles(repo, sys.argv[2], options)
    told(lambda: files.read("config.json").decode())
    told(lambda: files.sizes["model.safetensors"])
    told(lambda: files.read("README.md"))
    told(lambda: files.download(["config.json", "model.safetensors"]))
    told(lambda: options.resolve("alice/never", None))
    told(lambda: options.resolve(repo, "v9"))
"""


def test_offline_everything_comes_from_the_cache_or_is_reported_missing(
    model: tuple[str, str], options: Hub, hub: LoopbackHub
) -> None:
    repo, commit = model
    assert options.resolve(repo, None) == commit
    HubFiles(repo, commit, options).read("config.json")
    hub.clear_requests()
    command = [sys.executable, "-c", textwrap.dedent(OFFLINE), repo, commit]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    said = done.stdout.splitlines()
    assert said[:4] == ["True", commit, '{"model_type": "bert"}', "10240"]
    for line in said[4:6]:
        assert line.startswith(f"'{repo}' at revision '{commit}' is not in the local cache")
    assert said[6].startswith("'alice/never' at revision 'main' is not in the local cache")
    assert all("needs everything cached" in line for line in said[4:])
    assert said[7].startswith(f"'{repo}' at revision 'v9' is not in the local cache")
    assert hub.requests == []


def test_local_files_only_makes_no_request(model: tuple[str, str], hub: LoopbackHub, token: str) -> None:
    repo, commit = model
    HubFiles(repo, commit, Hub(token=token)).read("config.json")
    hub.clear_requests()
    files = HubFiles(repo, commit, Hub(local_files_only=True))
    assert files.read("config.json") == b'{"model_type": "bert"}'
    with pytest.raises(SourceError, match="is not in the local cache"):
        files.download(["model.safetensors"])
    assert hub.requests == []


def test_a_cache_filled_by_another_tool_is_listed(
    model: tuple[str, str], token: str, tmp_path: Path, hub: LoopbackHub
) -> None:
    from huggingface_hub import hf_hub_download

    repo, commit = model
    hf_hub_download(repo, "config.json", revision=commit, token=token, cache_dir=tmp_path)
    hub.clear_requests()
    files = HubFiles(repo, commit, Hub(local_files_only=True, cache_dir=tmp_path))
    assert dict(files.sizes) == {"config.json": 22}
    with pytest.raises(SourceError, match=r"(?s)'model.safetensors' of '.*' is not in the local cache.*Go online once"):
        files.read("model.safetensors")
    assert hub.requests == []


def test_local_files_only_requests_no_header_and_no_hash(model: tuple[str, str], hub: LoopbackHub, token: str) -> None:
    repo, commit = model
    HubFiles(repo, commit, Hub(token=token)).read("config.json")
    hub.clear_requests()
    files = HubFiles(repo, commit, Hub(token=token, local_files_only=True))
    for ask in (lambda: files.read_range("model.safetensors", 0, 8), lambda: files.hashes(["model.safetensors"])):
        with pytest.raises(SourceError, match="is not in the local cache"):
            ask()
    assert hub.requests == []

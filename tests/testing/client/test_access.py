"""Who may do what, and the errors that the rest of us get."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable

    from cocktail_hub.testing import LoopbackHub


def test_a_token_says_who_one_is(api: HfApi) -> None:
    me = api.whoami()
    assert (me["name"], [org["name"] for org in me["orgs"]]) == ("alice", ["acme"])
    assert me["auth"]["accessToken"]["role"] == "write"


def test_a_wrong_token_is_refused_even_where_none_is_needed(filled: str, tmp_path: Path) -> None:
    wrong = HfApi(token="hf_wrong")
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        wrong.whoami()
    with pytest.raises(HfHubHTTPError) as caught:
        wrong.hf_hub_download(filled, "a.txt", cache_dir=tmp_path)
    assert caught.value.response.status_code == 401


def test_a_private_repo_does_not_exist_for_others(
    api: HfApi, bob: HfApi, stranger: HfApi, new_repo: Callable[..., str], tmp_path: Path
) -> None:
    repo = new_repo(private=True)
    api.upload_file(path_or_fileobj=b"secret", path_in_repo="s.txt", repo_id=repo)
    assert api.model_info(repo).private
    assert Path(api.hf_hub_download(repo, "s.txt")).read_bytes() == b"secret"
    for other in (bob, stranger):
        assert not other.repo_exists(repo)
        with pytest.raises(RepositoryNotFoundError):
            other.hf_hub_download(repo, "s.txt", cache_dir=tmp_path)
    api.update_repo_settings(repo, visibility="public")
    assert stranger.repo_exists(repo)


def test_a_gated_repo_is_seen_but_not_read(
    bob: HfApi, stranger: HfApi, filled: str, hub: LoopbackHub, tmp_path: Path
) -> None:
    api = HfApi(token="hf_alice")
    api.update_repo_settings(filled, gated="auto")
    assert stranger.model_info(filled).gated == "auto"
    for other in (bob, stranger):
        with pytest.raises(GatedRepoError, match="restricted"):
            other.hf_hub_download(filled, "a.txt", cache_dir=tmp_path)
        with pytest.raises(GatedRepoError):
            other.snapshot_download(filled, cache_dir=tmp_path)
    with pytest.raises(GatedRepoError, match="not in the authorized list"):
        bob.auth_check(filled)
    api.auth_check(filled)
    hub.set_gated(filled, admitted=["bob"])
    bob.auth_check(filled)
    assert Path(bob.hf_hub_download(filled, "a.txt", cache_dir=tmp_path)).read_bytes() == b"A"
    hub.set_gated(filled, False)
    stranger.hf_hub_download(filled, "a.txt", cache_dir=tmp_path)


def test_only_members_write_and_only_with_a_token_for_it(bob: HfApi, stranger: HfApi, api: HfApi, filled: str) -> None:
    reader = HfApi(token="hf_reader")
    for other, status in ((bob, 403), (reader, 403), (stranger, 401)):
        with pytest.raises(HfHubHTTPError) as caught:
            other.upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id=filled)
        assert caught.value.response.status_code == status
    with pytest.raises(HfHubHTTPError, match="bob has no right to write in 'alice'"):
        bob.create_repo("alice/of-bob")
    with pytest.raises(HfHubHTTPError, match="you must use a write token"):
        reader.create_repo("reader/mine")
    with pytest.raises(HfHubHTTPError):
        bob.auth_check(filled, write=True)
    api.auth_check(filled, write=True)
    assert api.list_repo_files(filled) == [".gitattributes", "a.txt", "model.safetensors"]

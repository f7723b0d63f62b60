"""Publishing makes one commit or none, whatever goes wrong."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from huggingface_hub.utils import get_session

from cocktail_hub.errors import PublishError, RecipeError
from cocktail_hub.hub import Hub, Publication
from cocktail_hub.hub import commit as publishing
from cocktail_hub.testing import LoopbackHub

if TYPE_CHECKING:
    from collections.abc import Callable

    from huggingface_hub import HfApi

pytestmark = pytest.mark.whole

CARD = "---\nlicense: mit\n---\n# Mix\n"


def weights(repo: str) -> bytes:
    """A body that no other test has uploaded: the Hub stores each only once."""
    return bytes(range(256)) * 10 + repo.encode()


def publication(repo: str, **changes: Any) -> Publication:
    files: dict[str, Path | bytes] = {"config.json": b"{}", "model.safetensors": weights(repo)}
    return Publication(**{"repo_id": repo, "files": files, "readme": lambda _: CARD, "message": "Mix"} | changes)


def commits(hub: LoopbackHub) -> list[int]:
    """Status of every request for a commit."""
    return [r.status for r in hub.requests if r.method == "POST" and "/commit/" in r.path]


def content(api: HfApi, repo: str, path: str, revision: str | None = None) -> bytes:
    return Path(api.hf_hub_download(repo, path, revision=revision)).read_bytes()


# -- one commit ----------------------------------------------------------------------------------------------------


def test_a_new_repo_gets_everything_in_one_commit(
    name: str, options: Hub, hub: LoopbackHub, api: HfApi, tmp_path: Path
) -> None:
    (tmp_path / "w").write_bytes(weights(name))
    files: dict[str, Path | bytes] = {
        "config.json": b"{}",
        "1_Pooling/config.json": b"[]",
        "model.safetensors": tmp_path / "w",
    }
    info = options.commit(publication(name, files=files, private=True))
    assert commits(hub) == [200]
    assert api.repo_info(name).private
    assert api.repo_info(name).sha == info.oid
    assert [commit.title for commit in api.list_repo_commits(name)] == ["Mix", "initial commit"]
    assert content(api, name, "model.safetensors") == weights(name)
    assert content(api, name, "1_Pooling/config.json") == b"[]"
    assert content(api, name, "README.md").decode() == CARD


def test_doing_it_again_makes_no_commit_and_sends_nothing(name: str, options: Hub, hub: LoopbackHub) -> None:
    first = options.commit(publication(name))
    hub.clear_requests()
    second = options.commit(publication(name))
    assert second.oid == first.oid
    assert commits(hub) == []
    assert [request for request in hub.requests if request.method == "PUT"] == []


def test_a_missing_branch_is_created(name: str, options: Hub, hub: LoopbackHub, api: HfApi) -> None:
    options.commit(publication(name, revision="dev/x"))
    options.commit(publication(name, revision="dev/x", files={"config.json": b"[]"}))
    assert commits(hub) == [200, 200]
    assert content(api, name, "config.json", "dev/x") == b"[]"
    assert api.list_repo_files(name) == [".gitattributes"]


def test_a_pull_request_leaves_the_branch_alone(
    model: tuple[str, str], options: Hub, hub: LoopbackHub, api: HfApi
) -> None:
    repo, commit = model
    hub.clear_requests()
    info = options.commit(publication(repo, create_pr=True))
    assert commits(hub) == [200]
    assert info.pr_num == 1
    assert api.repo_info(repo).sha == commit
    assert content(api, repo, "model.safetensors", "refs/pr/1") == weights(repo)


def test_anybody_may_open_a_pull_request(model: tuple[str, str], api: HfApi) -> None:
    repo, _ = model
    info = Hub(token="hf_bob").commit(publication(repo, create_pr=True))
    assert api.get_discussion_details(repo, info.pr_num or 0).author == "bob"


def test_a_pull_request_can_be_added_to(model: tuple[str, str], options: Hub, api: HfApi) -> None:
    repo, _ = model
    options.commit(publication(repo, create_pr=True))
    options.commit(publication(repo, revision="refs/pr/1", files={"config.json": b"[]"}))
    assert content(api, repo, "config.json", "refs/pr/1") == b"[]"


def test_a_pull_request_against_a_branch_is_refused_before_anything_is_sent(name: str) -> None:
    with pytest.raises(PublishError, match="A pull request goes to the default branch, not to 'dev'"):
        publication(name, create_pr=True, revision="dev")


def test_the_card_cannot_come_from_two_places(name: str) -> None:
    with pytest.raises(PublishError, match=r"'README.md' is written by `readme`"):
        publication(name, files={"README.md": b""})


# -- whose repo ----------------------------------------------------------------------------------------------------


def test_a_name_without_a_namespace_is_a_repo_of_the_account(name: str, options: Hub, api: HfApi) -> None:
    short = name.partition("/")[2]
    info = options.commit(publication(short))
    assert api.repo_info(name).sha == info.oid
    assert options.claim(publication(short)).repo_id == name


def test_a_recipe_is_removed_from_a_repo_without_a_namespace(
    name: str, push: Callable[..., str], options: Hub, api: HfApi
) -> None:
    push(name, {"recipe.json": b"{}"})
    options.remove_recipe(publication(name.partition("/")[2], files={}), ["recipe.json"])
    assert set(api.list_repo_files(name)) == {".gitattributes", "README.md"}


def test_claiming_makes_no_repo(name: str, options: Hub, api: HfApi) -> None:
    assert options.claim(publication(name)).repo_id == name
    assert not api.repo_exists(name)


def test_anybody_may_claim_a_pull_request(model: tuple[str, str]) -> None:
    assert Hub(token="hf_bob").claim(publication(model[0], create_pr=True)).repo_id == model[0]


@pytest.mark.parametrize("token", [None, False])
def test_who_is_not_logged_in_is_told_so(name: str, hub: LoopbackHub, token: bool | None) -> None:
    with pytest.raises(PublishError) as caught:
        Hub(token=token).claim(publication(name))
    assert str(caught.value) == (
        f"You are not logged in.\nNobody can publish to '{name}' without an account.\n"
        "Run `hf auth login`, or give a token."
    )
    assert hub.requests == []


@pytest.mark.parametrize(
    ("token", "words"),
    [
        ("hf_nobody", "The Hub does not accept the access token in use.\nNothing can be published to"),
        ("hf_reader", "The access token of 'reader' may only read.\n"),
        ("hf_bob", "'bob' may not make a repo in 'alice', and sees no 'alice/"),
    ],
)
def test_who_may_not_make_a_repo_is_told_so_before_any_work(
    name: str, hub: LoopbackHub, token: str, words: str
) -> None:
    with pytest.raises(PublishError) as caught:
        Hub(token=token).claim(publication(name))
    assert str(caught.value).startswith(words)
    assert len(str(caught.value).splitlines()) == 3
    assert "hf_" not in str(caught.value)
    assert {request.method for request in hub.requests} == {"GET"}


def test_who_may_not_write_to_a_repo_is_told_so_before_any_work(model: tuple[str, str]) -> None:
    with pytest.raises(PublishError, match=f"(?s)The Hub refused '{model[0]}'.*of an account that may"):
        Hub(token="hf_bob").claim(publication(model[0]))


def test_a_hub_that_is_down_is_not_taken_for_a_missing_login(name: str, options: Hub, hub: LoopbackHub) -> None:
    hub.fail("GET /api/whoami", status=503, times=100)
    with pytest.raises(PublishError, match="The Hub or the connection is failing"):
        options.claim(publication(name))


# -- what was there before -----------------------------------------------------------------------------------------


def test_the_existing_card_is_passed_with_its_line_ends(
    name: str, push: Callable[..., str], options: Hub, api: HfApi
) -> None:
    old = b"---\r\nlicense: mit\r\n---\r\n# Mine\r\n"
    push(name, {"README.md": old})
    seen: list[str | None] = []

    def merged(existing: str | None) -> str:
        seen.append(existing)
        return f"{existing}Ours\r\n"

    options.commit(publication(name, readme=merged))
    assert seen == [old.decode()]
    assert content(api, name, "README.md") == old + b"Ours\r\n"


def test_without_a_card_none_is_passed(name: str, options: Hub) -> None:
    seen: list[str | None] = []
    options.commit(publication(name, readme=lambda existing: seen.append(existing) or CARD))
    assert seen == [None]


def test_a_card_that_is_not_text_is_not_overwritten(name: str, options: Hub, api: HfApi) -> None:
    api.create_repo(name)
    latin = "Gr\xfc\xdfe".encode("latin-1")
    commit_past_the_client(api, name, "README.md", latin)
    with pytest.raises(PublishError, match=rf"(?s)The README.md of '{name}' is not UTF-8.*Save it as UTF-8"):
        options.commit(publication(name))
    assert content(api, name, "README.md") == latin


def commit_past_the_client(api: HfApi, repo: str, path: str, body: bytes) -> None:
    """Commit as git would: the client refuses a README that is not UTF-8."""
    file = {"path": path, "content": base64.b64encode(body).decode(), "encoding": "base64"}
    lines = [{"key": "header", "value": {"summary": "Add"}}, {"key": "file", "value": file}]
    headers = {"authorization": f"Bearer {api.token}", "content-type": "application/x-ndjson"}
    answer = get_session().post(
        f"{api.endpoint}/api/models/{repo}/commit/main",
        headers=headers,
        content="".join(json.dumps(line) + "\n" for line in lines).encode(),
    )
    assert answer.status_code == 200


def test_an_error_while_the_card_is_written_is_not_translated(name: str, options: Hub, hub: LoopbackHub) -> None:
    def fail(_: str | None) -> str:
        raise RecipeError("mine")

    with pytest.raises(RecipeError, match=r"^mine$"):
        options.commit(publication(name, readme=fail))
    assert commits(hub) == []


def test_weights_that_an_earlier_publication_left_are_removed_and_nothing_else(
    name: str, push: Callable[..., str], options: Hub, api: HfApi
) -> None:
    ours = {
        "model-00001-of-00002.safetensors": b"1",
        "model-00002-of-00002.safetensors": b"2",
        "model.safetensors.index.json": b"{}",
        "2_Dense/model.safetensors": b"3",
        "recipe.json": b"{}",
    }
    theirs = {
        "pytorch_model.bin": b"4",
        "original/model.safetensors": b"5",
        "onnx/model.safetensors": b"6",
        "my-model.safetensors": b"7",
        "notes/recipe.json": b"8",
        "vocab.txt": b"9",
    }
    push(name, ours | theirs)
    options.commit(publication(name))
    assert set(api.list_repo_files(name)) == {
        *theirs,
        "model.safetensors",
        "config.json",
        "README.md",
        ".gitattributes",
    }


# -- failures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [{"status": 503}, {"status": 429}, {"status": 500}, {"status": 409}])
def test_a_commit_is_retried_while_the_hub_is_busy(
    name: str, options: Hub, hub: LoopbackHub, fault: dict[str, int]
) -> None:
    hub.fail("POST .*/commit/", times=3, **fault)  # type: ignore[arg-type]
    options.commit(publication(name))
    assert commits(hub) == [fault["status"]] * 3 + [200]


@pytest.mark.parametrize(
    "match", ["POST /api/repos/create", "GET /api/models/alice/hub", "POST /api/validate-yaml", "POST .*/branch/"]
)
def test_every_step_before_the_commit_is_retried(name: str, options: Hub, hub: LoopbackHub, match: str) -> None:
    hub.fail(match, status=503, times=2)
    options.commit(publication(name, revision="dev"))
    assert commits(hub) == [200]


def test_weights_are_not_sent_twice(name: str, options: Hub, hub: LoopbackHub) -> None:
    if hub.xet:
        pytest.skip("weights are put to the Hub over plain LFS only")
    hub.fail("POST .*/commit/", status=503, times=2)
    options.commit(publication(name))
    assert len([request for request in hub.requests if request.method == "PUT"]) == 1


def test_a_commit_whose_answer_was_lost_is_not_made_twice(
    name: str, options: Hub, hub: LoopbackHub, api: HfApi
) -> None:
    hub.fail("POST .*/commit/", cut_after=0)
    info = options.commit(publication(name))
    assert [commit.title for commit in api.list_repo_commits(name)] == ["Mix", "initial commit"]
    assert info.oid == api.repo_info(name).sha


def test_a_pull_request_whose_answer_was_lost_is_not_opened_twice(
    model: tuple[str, str], options: Hub, hub: LoopbackHub, api: HfApi
) -> None:
    repo, _ = model
    hub.fail("POST .*/commit/", cut_after=0)
    info = options.commit(publication(repo, create_pr=True))
    assert (info.pr_num, info.pr_revision) == (1, "refs/pr/1")
    assert info.oid == api.repo_info(repo, revision="refs/pr/1").sha
    assert [discussion.num for discussion in api.get_repo_discussions(repo)] == [1]


def test_a_second_pull_request_is_opened_when_it_is_asked_for(model: tuple[str, str], options: Hub, api: HfApi) -> None:
    repo, _ = model
    numbers = [options.commit(publication(repo, create_pr=True)).pr_num for _ in range(2)]
    assert numbers == [1, 2]


def test_a_concurrent_commit_is_built_upon(
    name: str, push: Callable[..., str], options: Hub, hub: LoopbackHub, api: HfApi
) -> None:
    """The other commit changes a file that was unchanged before; it must be committed now."""
    push(name, {"config.json": b"{}"})
    asked = []

    def readme(existing: str | None) -> str:
        if not asked:
            push(name, {"config.json": b"changed", "README.md": CARD.encode() + b"theirs"})
        asked.append(existing)
        return (existing or CARD) + "ours"

    hub.clear_requests()
    options.commit(publication(name, readme=readme))
    assert commits(hub) == [200, 412, 200]
    assert asked == [None, CARD + "theirs"]
    assert content(api, name, "config.json") == b"{}"
    assert content(api, name, "README.md").decode() == CARD + "theirsours"


def test_an_upload_that_breaks_off_is_retried(
    name: str, options: Hub, hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    if hub.xet:
        pytest.skip("weights are put to the Hub over plain LFS only")
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    hub.fail("PUT /_lfs/", status=503, times=7)  # more often than the client itself tries
    options.commit(publication(name))
    assert [request.status for request in hub.requests if request.method == "PUT"] == [503] * 7 + [200]
    assert commits(hub) == [200]


def test_an_upload_to_an_expired_address_is_tried_once_with_a_fresh_one(
    name: str, options: Hub, hub: LoopbackHub
) -> None:
    if hub.xet:
        pytest.skip("weights are put to the Hub over plain LFS only")
    for times, statuses in ((1, [403, 200]), (99, [403, 403])):
        hub.clear_requests()
        hub.fail("PUT /_lfs/", status=403, times=times)
        wanted = publication(name, files={"model.safetensors": weights(f"{name}-{times}")})
        if times == 1:
            options.commit(wanted)
        else:
            with pytest.raises(PublishError, match=f"The Hub refused '{name}' 2 times"):
                options.commit(wanted)
        assert [seen.status for seen in hub.requests if seen.method == "PUT"] == statuses


def test_a_hub_that_stays_down_is_reported_and_nothing_is_half_done(
    model: tuple[str, str], options: Hub, hub: LoopbackHub, api: HfApi
) -> None:
    repo, commit = model
    hub.clear_requests()
    hub.fail("POST .*/commit/", status=503, times=100)
    with pytest.raises(PublishError) as caught:
        options.commit(publication(repo))
    assert str(caught.value).startswith(f"The Hub refused '{repo}' 5 times: Server error '503 Service Unavai")
    assert str(caught.value).endswith(
        "Either all of it was committed or nothing.\n"
        "The Hub or the connection is failing. Try again: uploaded files are not sent twice."
    )
    assert commits(hub) == [503] * 5
    assert api.repo_info(repo).sha == commit
    hub.clear_faults()
    options.commit(publication(repo))
    assert commits(hub) == [503] * 5 + [200]


def test_retry_after_is_obeyed(name: str, options: Hub, hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.fail("POST .*/commit/", status=429, headers={"Retry-After": "17"})
    waits: list[float] = []
    monkeypatch.setattr(publishing.time, "sleep", waits.append)
    options.commit(publication(name))
    assert waits == [17.0]


@pytest.mark.parametrize("other", [False, "hf_bob", "hf_reader", "hf_nobody"])
def test_an_error_says_how_to_get_write_access(
    model: tuple[str, str], hub: LoopbackHub, api: HfApi, other: str | bool
) -> None:
    repo, commit = model
    hub.clear_requests()
    with pytest.raises(PublishError) as caught:
        Hub(token=other).commit(publication(repo))
    assert str(caught.value).startswith(f"The Hub refused '{repo}': ")
    assert str(caught.value).endswith(
        "Nothing in the repo was changed.\n"
        "To write to it, log in with `hf auth login`, or pass `token=` of an account that may."
    )
    assert "hf_" not in str(caught.value)
    assert api.repo_info(repo).sha == commit


def test_metadata_that_the_hub_refuses_is_shown(name: str, options: Hub, hub: LoopbackHub) -> None:
    bad = "---\nlicense: [1, 2\n---\n"
    with pytest.raises(
        PublishError, match=r"(?s)Invalid metadata in README.md.*Check the repo id, the branch and the card"
    ):
        options.commit(publication(name, readme=lambda _: bad))
    assert commits(hub) == []


def test_an_invalid_repo_id_is_refused_without_a_request(options: Hub, hub: LoopbackHub) -> None:
    with pytest.raises(PublishError, match=r"(?s)The Hub refused 'a/b/c': Repo id must be.*Check the repo id"):
        options.commit(publication("a/b/c"))
    assert hub.requests == []


def test_offline_nothing_is_attempted(name: str, hub: LoopbackHub, token: str) -> None:
    with pytest.raises(PublishError, match=rf"'{name}' cannot be published offline"):
        Hub(token=token, local_files_only=True).commit(publication(name))
    assert hub.requests == []


# -- Xet -----------------------------------------------------------------------------------------------------------

OVER_XET = """
    import sys
    from pathlib import Path
    from huggingface_hub import HfApi, constants
    from cocktail_hub.hub import Hub, HubFiles, Publication, errors

    assert not constants.HF_HUB_DISABLE_XET
    errors.FIRST_WAIT = 0.01
    weights = bytes(range(256)) * 5000
    Path(sys.argv[1]).write_bytes(weights)
    options = Hub(token="hf_alice")
    publication = Publication(
        repo_id="alice/xet",
        files={"model.safetensors": Path(sys.argv[1]), "config.json": b"{}"},
        readme=lambda _: "---\\nlicense: mit\\n---\\n",
        message="Mix",
    )
    first = options.commit(publication)
    second = options.commit(publication)
    print(first.oid == second.oid, [c.title for c in HfApi(token="hf_alice").list_repo_commits("alice/xet")])
    files = HubFiles("alice/xet", options.resolve("alice/xet", None), options)
    print(files.read_range("model.safetensors", 300, 304), files.sizes["model.safetensors"])
    print((files.download(["model.safetensors"]) / "model.safetensors").read_bytes() == weights)
"""


def test_publishing_works_over_xet(tmp_path: Path) -> None:
    with LoopbackHub(xet=True) as hub:
        hub.add_user("alice", token="hf_alice")
        hub.fail("POST .*/commit/", status=503, times=1)
        environment = os.environ | hub.environment(tmp_path / "home")
        command = [sys.executable, "-c", textwrap.dedent(OVER_XET), str(tmp_path / "weights")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == [
            "True ['Mix', 'initial commit']",
            "b',-./' 1280000",
            "True",
        ]
        assert commits(hub) == [503, 200]
        assert [request for request in hub.requests if "/xorbs/" in request.path], "the weights came over Xet"

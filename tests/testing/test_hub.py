"""LoopbackHub: start, stop, steer."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError

from cocktail_hub.testing import LoopbackHub, Request

pytestmark = pytest.mark.whole


def _client(hub: LoopbackHub) -> HfApi:
    hub.add_user("alice", token="hf_alice")
    return HfApi(endpoint=hub.url, token="hf_alice")


def test_it_needs_nothing_but_the_standard_library() -> None:
    """huggingface_hub above all: it must be imported after the Hub has started."""
    code = "import sys, cocktail_hub.testing; print([m for m in sys.modules if m.split('.')[0] in sys.argv[1:]])"
    others = ["huggingface_hub", "hf_xet", "httpx2", "yaml", "torch", "transformers", "numpy"]
    result = subprocess.run([sys.executable, "-c", code, *others], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_environment_points_a_process_at_the_hub(tmp_path: Path) -> None:
    with LoopbackHub() as hub:
        hub.add_user("alice", token="hf_alice")
        code = "import huggingface_hub as hf; print(hf.whoami()['name'], hf.constants.HF_HUB_DISABLE_XET)"
        environment = {**os.environ, "HTTP_PROXY": "http://127.0.0.1:9", **hub.environment(tmp_path, "hf_alice")}
        command = [sys.executable, "-c", code]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert result.stdout.split() == ["alice", "True"], result.stderr
        assert [request.path for request in hub.requests] == ["/api/whoami-v2"]
    assert "HF_TOKEN" not in LoopbackHub(tmp_path).environment(tmp_path)
    assert LoopbackHub(tmp_path, xet=True).environment(tmp_path)["HF_HUB_DISABLE_XET"] == "0"


def test_requests_are_noted_as_they_were_sent() -> None:
    with LoopbackHub() as hub:
        api = _client(hub)
        api.create_repo("alice/r")
        api.create_branch("alice/r", branch="dev/x")
        hub.clear_requests()
        api.model_info("alice/r", revision="dev/x")
        (request,) = hub.requests
        assert isinstance(request, Request)
        assert (request.method, request.path) == ("GET", "/api/models/alice/r/revision/dev%2Fx")
        assert (request.status, request.headers["authorization"]) == (200, "Bearer hf_alice")
        assert hub.sent("GET /api/models") == request.sent > 100
        assert hub.sent("GET /_cdn/") == 0


def test_a_fault_strikes_as_often_as_it_was_asked_to() -> None:
    with LoopbackHub() as hub:
        api = _client(hub)
        api.create_repo("alice/r")
        hub.fail(r"GET /api/models/alice/r$", status=503, times=2, headers={"Retry-After": "7"})
        for _ in range(2):
            with pytest.raises(HfHubHTTPError) as caught:
                api.model_info("alice/r")
            assert (caught.value.response.status_code, caught.value.response.headers["retry-after"]) == (503, "7")
        assert api.model_info("alice/r").id == "alice/r"
        hub.fail("GET", times=99)
        hub.clear_faults()
        assert api.model_info("alice/r").id == "alice/r"
        assert [request.status for request in hub.requests if request.method == "GET"] == [503, 503, 200, 200]


def test_a_failed_commit_leaves_the_branch_as_it_was() -> None:
    with LoopbackHub() as hub:
        api = _client(hub)
        api.create_repo("alice/r")
        hub.fail("POST .*/commit/main", status=500)
        with pytest.raises(HfHubHTTPError):
            api.create_commit("alice/r", [CommitOperationAdd("a.txt", b"a")], commit_message="fails")
        assert api.list_repo_files("alice/r") == [".gitattributes"]
        api.create_commit("alice/r", [CommitOperationAdd("a.txt", b"a")], commit_message="works")
        assert api.list_repo_files("alice/r") == [".gitattributes", "a.txt"]


def test_a_connection_is_dropped_in_the_middle_of_a_body(tmp_path: Path) -> None:
    body = os.urandom(100_000)
    with LoopbackHub() as hub:
        api = _client(hub)
        api.create_repo("alice/r")
        api.create_commit("alice/r", [CommitOperationAdd("m.bin", body)], commit_message="add")
        hub.clear_requests()
        address = f"{hub.url}/alice/r/resolve/main/m.bin"
        hub.fail("GET /_cdn/", cut_after=1000)
        with urllib.request.urlopen(address) as answer, pytest.raises(http.client.IncompleteRead) as caught:
            answer.read()
        assert (caught.value.partial, caught.value.expected) == (body[:1000], 99_000)
        assert hub.sent("GET /_cdn/") == 1000
        hub.fail("GET /_cdn/", cut_after=40_000)
        path = api.hf_hub_download("alice/r", "m.bin", local_dir=tmp_path)  # the client tries again by itself
        assert Path(path).read_bytes() == body
        assert hub.sent("GET /_cdn/") == 1000 + 40_000 + 100_000


def test_a_bit_flips_and_a_portal_answers_in_place_of_the_hub() -> None:
    with LoopbackHub() as hub:
        api = _client(hub)
        api.create_repo("alice/r")
        api.create_commit("alice/r", [CommitOperationAdd("m.bin", b"abc")], commit_message="add")
        address = f"{hub.url}/alice/r/resolve/main/m.bin"
        hub.fail("GET /_cdn/", flip=1)
        hub.fail("GET /api/models/alice/r$", status=200, body=b"<html>Log in")
        assert [urllib.request.urlopen(address).read() for _ in range(2)] == [b"acc", b"abc"]
        assert urllib.request.urlopen(f"{hub.url}/api/models/alice/r").read() == b"<html>Log in"


def test_what_it_cannot_do_is_said_and_not_retried(caplog: pytest.LogCaptureFixture) -> None:
    with LoopbackHub() as hub:
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"{hub.url}/api/papers/1")
        assert (caught.value.code, json.load(caught.value)) == (
            404,
            {"error": "The loopback Hub has no route for GET /api/papers/1"},
        )
        request = urllib.request.Request(f"{hub.url}/api/validate-yaml", data=b'{"content": 1}')
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request)
        assert caught.value.code == 400
        assert "The loopback Hub failed: TypeError" in json.load(caught.value)["error"]
        assert "POST /api/validate-yaml" in caplog.text


def test_a_reopened_root_serves_what_it_held(tmp_path: Path) -> None:
    with LoopbackHub(tmp_path / "root") as hub:
        api = _client(hub)
        api.create_repo("alice/r", private=True)
        api.create_commit(
            "alice/r", [CommitOperationAdd("m.bin", b"\0" * 9), CommitOperationAdd("a", b"a")], commit_message="add"
        )
        api.create_tag("alice/r", tag="v1")
        hub.set_gated("alice/r", admitted=["bob"])
        before = api.model_info("alice/r", files_metadata=True)
    with LoopbackHub(tmp_path / "root") as hub:
        api = _client(hub)
        assert api.model_info("alice/r", revision="v1", files_metadata=True) == before
        assert (before.private, before.gated) == (True, "auto")
        path = api.hf_hub_download("alice/r", "m.bin", local_dir=tmp_path / "local")
        assert Path(path).read_bytes() == b"\0" * 9
        api.upload_file(path_or_fileobj=b"b", path_in_repo="b", repo_id="alice/r")
        assert len(api.list_repo_commits("alice/r")) == 3


def test_many_clients_commit_at_once_and_none_is_lost() -> None:
    with LoopbackHub() as hub:
        api = _client(hub)
        api.create_repo("alice/r")

        def commit(number: int) -> None:
            files = [CommitOperationAdd(f"{number}.txt", b"x"), CommitOperationAdd(f"{number}.bin", b"\0%d" % number)]
            api.create_commit("alice/r", files, commit_message=f"{number}")

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(commit, range(24)))
        assert len(api.list_repo_files("alice/r")) == 49
        assert len(api.list_repo_commits("alice/r")) == 25


def test_a_closed_hub_answers_nobody_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    hub = LoopbackHub().start()
    with pytest.raises(RuntimeError, match="already listening at"):
        hub.start()
    connection = http.client.HTTPConnection(hub.url.removeprefix("http://"))
    connection.request("GET", "/api/agent-harnesses")
    assert connection.getresponse().read() == b'{"standardEnvVars": [], "harnesses": {}}'
    assert list(tmp_path.iterdir()) != []
    hub.close()
    assert connection.sock.recv(1) == b""  # the kept-alive connection is closed as well
    connection.close()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(hub.url)
    assert list(tmp_path.iterdir()) == []
    hub.close()


def test_a_hub_goes_away_and_comes_back_at_its_address(tmp_path: Path) -> None:
    with LoopbackHub(tmp_path) as first:
        port = int(first.url.rsplit(":", 1)[1])
    hub = LoopbackHub(tmp_path, port=port)
    for _ in range(2):
        hub.start()
        assert hub.url == first.url
        assert _client(hub).whoami()["name"] == "alice"
        hub.close()


def test_a_role_is_read_or_write() -> None:
    with LoopbackHub() as hub, pytest.raises(ValueError, match="'read' or 'write', got 'admin'"):
        hub.add_user("alice", token="t", role="admin")

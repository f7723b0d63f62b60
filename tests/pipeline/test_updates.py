"""A lock for models: pinned, outdated, updated."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from huggingface_hub import HfApi

from cocktail_hub.errors import SourceError
from cocktail_hub.hub import Hub
from cocktail_hub.pipeline.updates import outdated, with_commits

if TYPE_CHECKING:
    from cocktail_hub.testing import LoopbackHub

_NUMBERS = itertools.count()
README = b"---\nlicense: %s\n---\n# A model\n"


@pytest.fixture
def api(token: str) -> HfApi:
    return HfApi(token=token)


@pytest.fixture
def model(api: HfApi) -> str:
    """A repo that has a card under MIT."""
    name = f"alice/moving-{next(_NUMBERS)}"
    api.create_repo(name)
    change(api, name, "README.md", README % b"mit")
    return name


def change(api: HfApi, name: str, path: str, content: bytes) -> str:
    return api.upload_file(path_or_fileobj=content, path_in_repo=path, repo_id=name, commit_message=f"Write {path}").oid


def test_a_moved_branch_is_told_with_its_commits_files_and_licence(
    model: str, api: HfApi, token: str, tmp_path: Path
) -> None:
    hub, path = Hub(token=token), tmp_path / "r.yaml"
    path.write_text(f"ingredients:\n- {{model: {model}, weight: 0.5}}  # mine\n- {{model: ./b, weight: 0.5}}\n")
    (fresh,) = outdated(path, hub)
    assert (fresh.pinned, fresh.moved, fresh.branch) == (False, False, "main")
    path.write_text(with_commits(path, [fresh], hub))
    assert "  # mine\n" in path.read_text()
    (same,) = outdated(path, hub)
    assert (same.pinned, same.moved, same.history) == (True, False, None)
    change(api, model, "config.json", b"{}")
    newest = change(api, model, "README.md", README % b"apache-2.0")
    (moved,) = outdated(path, hub)
    assert (moved.moved, moved.commit, moved.licenses) == (True, newest, ("mit", "apache-2.0"))
    assert moved.history is not None
    assert moved.history.files == ("changed README.md", "added config.json")
    assert [line.split(" ", 2)[2] for line in moved.history.commits] == ["Write README.md", "Write config.json"]
    path.write_text(with_commits(path, [moved], hub))
    assert newest in path.read_text()


def test_a_commit_that_was_asked_for_never_moves(model: str, api: HfApi, token: str) -> None:
    old = api.repo_info(model).sha or ""
    change(api, model, "config.json", b"{}")
    asked = {"model": model, "revision": old, "requested": old, "weight": 0.5}
    by_hand = {"model": "acme/none", "weight": 0.5}
    fixed, gone = outdated({"ingredients": [asked, by_hand]}, Hub(token=token))
    assert (fixed.pinned, fixed.moved) == (True, False)
    assert "'acme/none' is not on the Hub" in gone.problem
    (moved,) = outdated([{"model": model, "revision": old}, "./here"], Hub(token=token), compare=False)
    assert (moved.moved, moved.branch, moved.history) == (True, "main", None)


def test_a_model_that_became_gated_is_told(model: str, token: str, hub: LoopbackHub) -> None:
    hub.set_gated(model)
    (found,) = outdated([model, "./here"], Hub(token="hf_bob"))
    assert found.problem == f"'{model}' is gated, and this account has no access to it."
    (mine,) = outdated([model, "./here"], Hub(token=token))
    assert mine.problem == ""


def test_offline_nothing_can_be_known() -> None:
    with pytest.raises(SourceError, match="cannot be known offline"):
        outdated(["org/a", "org/b"], Hub(local_files_only=True))

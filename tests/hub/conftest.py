"""Repos of the user Alice; retries without waits."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
from huggingface_hub import CommitOperationAdd, HfApi

from cocktail_hub.hub import Hub, client, errors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_NUMBERS = itertools.count()


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(errors, "FIRST_WAIT", 0.01)


@pytest.fixture
def api(token: str) -> HfApi:
    return HfApi(token=token)


@pytest.fixture
def options(token: str) -> Hub:
    return Hub(token=token)


@pytest.fixture
def name() -> str:
    """Id of a repo that does not exist yet."""
    return f"alice/hub-{next(_NUMBERS)}"


@pytest.fixture
def push(api: HfApi) -> Callable[..., str]:
    """Write files to a repo in one commit; returns the commit."""

    def commit(repo: str, contents: Mapping[str, bytes], *, private: bool = False, repo_type: str = "model") -> str:
        api.create_repo(repo, private=private, repo_type=repo_type, exist_ok=True)
        additions = [CommitOperationAdd(path, content) for path, content in contents.items()]
        return api.create_commit(repo, additions, commit_message="Add files", repo_type=repo_type).oid

    return commit


README = b"---\nlicense: mit\n---\n# A model\n"
WEIGHTS = bytes(range(256)) * 40


@pytest.fixture
def model(name: str, push: Callable[..., str]) -> tuple[str, str]:
    """A repo that looks like a model, and its commit."""
    contents = {
        "config.json": b'{"model_type": "bert"}',
        "model.safetensors": WEIGHTS,
        "onnx/model.onnx": b"x" * 5000,
        "README.md": README,
        "with [brackets]?.txt": b"odd",
    }
    return name, push(name, contents)

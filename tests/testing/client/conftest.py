"""The real client, as three people: alice, who owns the repos, bob, a stranger with an account, and one without."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import pytest
from huggingface_hub import HfApi
from safetensors.numpy import save

if TYPE_CHECKING:
    from collections.abc import Callable

_NUMBERS = itertools.count()


@pytest.fixture
def api(token: str) -> HfApi:
    """Alice."""
    return HfApi(token=token)


@pytest.fixture
def bob() -> HfApi:
    """An account with rights to nothing of Alice's."""
    return HfApi(token="hf_bob")


@pytest.fixture
def stranger() -> HfApi:
    """No account."""
    return HfApi(token=False)


@pytest.fixture
def new_repo(api: HfApi) -> Callable[..., str]:
    """Create a repo of Alice's that no other test has."""

    def create(**options: object) -> str:
        repo = f"alice/repo-{next(_NUMBERS)}"
        api.create_repo(repo, **options)
        return repo

    return create


@pytest.fixture
def repo(new_repo: Callable[..., str]) -> str:
    """An empty repo of Alice's."""
    return new_repo()


@pytest.fixture
def weights() -> bytes:
    """A safetensors file with 6000 float32 and 180 float16 numbers, that no other test has: caches know bodies."""
    embeddings = np.random.default_rng(next(_NUMBERS)).standard_normal((100, 60), np.float32)
    tensors = {"emb.weight": embeddings, "head.weight": np.ones((3, 60), np.float16)}
    return save(tensors, metadata={"format": "pt"})


@pytest.fixture
def filled(repo: str, api: HfApi, weights: bytes) -> str:
    """A repo of Alice's with a small file and a large one."""
    api.upload_file(path_or_fileobj=b"A", path_in_repo="a.txt", repo_id=repo)
    api.upload_file(path_or_fileobj=weights, path_in_repo="model.safetensors", repo_id=repo)
    return repo

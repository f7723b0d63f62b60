"""The loopback Hub, as seen by the real client."""

from __future__ import annotations

import huggingface_hub as hf

from cocktail_hub.testing import LoopbackHub


def test_a_weight_file_comes_back_as_it_went(hub: LoopbackHub, token: str) -> None:
    api = hf.HfApi(token=token)
    api.create_repo("alice/first")
    api.upload_file(path_or_fileobj=b"weights" * 1000, path_in_repo="model.safetensors", repo_id="alice/first")
    path = api.hf_hub_download("alice/first", "model.safetensors")
    with open(path, "rb") as file:
        assert file.read() == b"weights" * 1000
    assert hub.requests

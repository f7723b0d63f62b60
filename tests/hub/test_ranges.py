"""Byte ranges of files on the Hub: split into requests, written to their offsets, resumed, refused."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from huggingface_hub import HfApi

from cocktail_hub.errors import SourceError
from cocktail_hub.hub import Hub, HubFiles, errors, ranges
from cocktail_hub.hub.ranges import ByteRange, fetch_ranges
from cocktail_hub.storage.positional_file import PositionalFile

if TYPE_CHECKING:
    from pathlib import Path

    from cocktail_hub.testing import LoopbackHub

CONTENT = bytes(number * 7 % 251 for number in range(300_000))


@pytest.fixture
def files(hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubFiles:
    monkeypatch.setattr(errors, "FIRST_WAIT", 0.001)
    api = HfApi(token="hf_alice")
    api.create_repo("acme/ranges", exist_ok=True)
    info = api.upload_file(path_or_fileobj=CONTENT, path_in_repo="large.safetensors", repo_id="acme/ranges")
    hub.clear_requests()
    return HubFiles("acme/ranges", info.oid, Hub(cache_dir=tmp_path / "hub"))


def fetched(files: HubFiles, folder: Path, *spans: tuple[int, int]) -> bytes:
    """Some byte ranges of the file, one after the other."""
    parts, offset = [], 0
    for start, stop in spans:
        parts.append(ByteRange(files=files, path="large.safetensors", start=start, stop=stop, offset=offset))
        offset += stop - start
    came: list[int] = []
    with PositionalFile(folder / "part", write=True) as target:
        fetch_ranges(parts, target, on_progress=came.append)
    found = (folder / "part").read_bytes()
    assert sum(came) == len(found)
    return found


def test_large_ranges_are_split_into_requests(
    hub: LoopbackHub, files: HubFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "REQUEST_BYTES", 40_000)
    assert fetched(files, tmp_path, (10, 100_010), (250_000, 250_001)) == CONTENT[10:100_010] + CONTENT[250_000:250_001]
    assert len([seen for seen in hub.requests if "/_cdn/" in seen.path]) == 4
    assert hub.sent("GET /_cdn/") == 100_001


def test_a_range_that_breaks_off_is_resumed(hub: LoopbackHub, files: HubFiles, tmp_path: Path) -> None:
    hub.fail("GET /_cdn/", cut_after=70_000, times=3)
    hub.fail("GET /acme/ranges/resolve/", status=503, times=2)
    assert fetched(files, tmp_path, (0, 300_000)) == CONTENT
    assert hub.sent("GET /_cdn/") <= 300_000 + 3 * ranges._BLOCK


def test_retries_end(hub: LoopbackHub, files: HubFiles, tmp_path: Path) -> None:
    hub.fail("GET /_cdn/", status=503, times=100)
    with pytest.raises(SourceError, match="The Hub refused a request about 'acme/ranges'"):
        fetched(files, tmp_path, (0, 1000))
    assert len([seen for seen in hub.requests if "/_cdn/" in seen.path]) == ranges.ATTEMPTS


def test_a_refusal_is_not_retried(hub: LoopbackHub, files: HubFiles, tmp_path: Path) -> None:
    hub.fail("GET /_cdn/", status=404, times=100)
    with pytest.raises(SourceError):
        fetched(files, tmp_path, (0, 1000))
    assert len([seen for seen in hub.requests if "/_cdn/" in seen.path]) == 1


def test_offline_makes_no_request(hub: LoopbackHub, files: HubFiles, tmp_path: Path) -> None:
    files = replace(files, hub=Hub(cache_dir=tmp_path / "hub", local_files_only=True))
    with pytest.raises(SourceError, match="not in the local cache"):
        fetched(files, tmp_path, (0, 1000))
    assert hub.requests == []

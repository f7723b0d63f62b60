"""What happened to a repo between two commits."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import pytest

from cocktail_hub.errors import SourceError
from cocktail_hub.hub import Hub
from cocktail_hub.hub.history import history_between, require_access

if TYPE_CHECKING:
    from collections.abc import Callable

    from huggingface_hub import HfApi

    from cocktail_hub.testing import LoopbackHub


def test_commits_and_files_between_two_commits_are_told(
    name: str, push: Callable[..., str], options: Hub, api: HfApi
) -> None:
    first = push(name, {"a.txt": b"a", "b.txt": b"b"})
    push(name, {"a.txt": b"other"})
    api.delete_file("b.txt", name)
    last = push(name, {"c.txt": b"c"})
    found = history_between(name, first, last, options)
    assert found.files == ("changed a.txt", "removed b.txt", "added c.txt")
    today = dt.datetime.now(dt.timezone.utc).strftime("%Y-%m-%d")
    assert [line.split(" ", 2)[2] for line in found.commits] == [
        "Add files",
        "Delete b.txt with huggingface_hub",
        "Add files",
    ]
    assert found.commits[0] == f"{today} {last[:8]} Add files"
    assert history_between(name, last, first, options).commits == ()


def test_a_repo_without_access_says_so(name: str, push: Callable[..., str], options: Hub, hub: LoopbackHub) -> None:
    commit = push(name, {"a.txt": b"a"})
    require_access(name, options)
    hub.set_gated(name)
    with pytest.raises(SourceError, match="is gated, and this account has no access"):
        require_access(name, Hub(token="hf_bob"))
    with pytest.raises(SourceError, match="is not on the Hub, or it is private"):
        require_access(name + "-gone", options)
    with pytest.raises(SourceError, match="has no revision 'ffff"):
        history_between(name, "f" * 40, commit, options)

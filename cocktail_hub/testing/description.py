"""What the Hub tells about a repo: its card, its files, and the numbers in its weights."""

from __future__ import annotations

import json
import math
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from cocktail_hub.testing.card import read_metadata, tags_of
from cocktail_hub.testing.commits import lfs_pointer

if TYPE_CHECKING:
    from pathlib import Path

    from cocktail_hub.testing.commits import Commit, Entry, Tree
    from cocktail_hub.testing.repos import Repo
    from cocktail_hub.testing.site import Site

_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
_MAX_HEADER = 100_000_000
"""Bytes; safetensors allows no longer header."""


def summarize(site: Site, repo: Repo, commit: Commit) -> dict[str, Any]:
    """Describe a repo as in a listing: without its files."""
    card = _card(site, commit.tree)
    value: dict[str, Any] = {
        "_id": "0" * 24,
        "id": repo.id,
        "modelId": repo.id,
        "author": repo.namespace,
        "sha": commit.id,
        "lastModified": commit.date,
        "createdAt": repo.created,
        "private": repo.private,
        "gated": repo.gated,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": tags_of(card or {}),
    }
    if card is not None:
        value["cardData"] = card
        value.update({key: card[key] for key in ("library_name", "pipeline_tag") if card.get(key)})
    return value


def describe(site: Site, repo: Repo, commit: Commit, *, file_sizes: bool) -> dict[str, Any]:
    """Describe a repo with its files, and with their sizes and digests if asked."""
    value = summarize(site, repo, commit)
    value["spaces"] = []
    value["usedStorage"] = sum(entry.size for entry in commit.tree.values())
    value["siblings"] = [_sibling(path, entry, file_sizes) for path, entry in sorted(commit.tree.items())]
    config = _config(site, commit.tree)
    if config:
        value["config"] = config
    counts = _parameters(site, commit.tree)
    if counts:
        value["safetensors"] = {"parameters": counts, "total": sum(counts.values())}
    return value


def lfs_info(entry: Entry) -> dict[str, Any]:
    """The size of a large file, and of what git holds in its place."""
    return {"size": entry.size, "pointerSize": len(lfs_pointer(entry.sha256, entry.size))}


def _sibling(path: str, entry: Entry, file_sizes: bool) -> dict[str, Any]:
    value: dict[str, Any] = {"rfilename": path}
    if file_sizes:
        value |= {"size": entry.size, "blobId": entry.oid}
    if file_sizes and entry.lfs:
        value["lfs"] = {"sha256": entry.sha256, **lfs_info(entry)}
    return value


def _card(site: Site, tree: Tree) -> dict[str, Any] | None:
    if "README.md" not in tree:
        return None
    try:
        return read_metadata(site.body(tree["README.md"].sha256).read_text(encoding="utf-8", errors="replace")) or {}
    except ValueError:
        return {}  # the Hub shows such a repo too, with a warning on the page


def _config(site: Site, tree: Tree) -> dict[str, Any]:
    if "config.json" not in tree:
        return {}
    try:
        config = json.loads(site.body(tree["config.json"].sha256).read_bytes())
    except ValueError:
        return {}  # as above
    return {key: config[key] for key in ("architectures", "model_type") if key in config}


def _parameters(site: Site, tree: Tree) -> dict[str, int]:
    """Numbers in the weights of the repo, by dtype."""
    total: dict[str, int] = {}
    for path, entry in tree.items():
        if _WEIGHTS.fullmatch(path):
            for dtype, count in _count(site.body(entry.sha256)).items():
                total[dtype] = total.get(dtype, 0) + count
    return total


@lru_cache(maxsize=1024)
def _count(path: Path) -> dict[str, int]:
    """Numbers in one safetensors file, by dtype; none if it is damaged. A path names one body for ever."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(min(length, _MAX_HEADER))
    try:
        tensors = {name: slot for name, slot in json.loads(header).items() if name != "__metadata__"}
        counts: dict[str, int] = {}
        for slot in tensors.values():
            counts[slot["dtype"]] = counts.get(slot["dtype"], 0) + math.prod(slot["shape"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
    return counts

"""A recipe file, and an empty cache."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_helpers import write
from models import published


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe of two tiny BERTs on the Hub."""
    return write(tmp_path, published("bert").recipe)


@pytest.fixture
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of mixes."""
    monkeypatch.setenv("COCKTAIL_HUB_CACHE", str(tmp_path / "mixes"))
    return tmp_path / "mixes"

"""The docs as a site: every page has its place, nothing is dead, and nothing is loaded from elsewhere."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from site_links import dead_links

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def pages(nav: object) -> list[str]:
    """The files of a navigation, in its order."""
    if isinstance(nav, str):
        return [nav]
    return [page for one in (nav.values() if isinstance(nav, dict) else nav) for page in pages(one)]


NAV = pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])


def test_every_page_has_one_place() -> None:
    assert sorted(NAV) == sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))


def test_pages_for_users_come_first_and_the_inside_last() -> None:
    assert NAV[:2] == ["index.md", "which-weight.md"]
    assert NAV[-5:] == ["parity.md", "parity-source.md", "parity-methods.md", "performance.md", "design.md"]


def test_dead_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "b.html").write_text('<h1 id="there">B</h1>', encoding="utf-8")
    (tmp_path / "a.html").write_text(
        '<a href="b.html#there"></a><a href="b.html#gone"></a><a href="gone.html"></a><a href="https://example.org"></a>'
        '<script src="https://example.org/x.js"></script><a href="#"></a><img src="data:image/png;base64,">',
        encoding="utf-8",
    )
    assert dead_links(tmp_path) == [
        "a.html -> b.html#gone",
        "a.html -> gone.html",
        "a.html -> https://example.org/x.js",
    ]


@pytest.mark.site
@pytest.mark.skipif(importlib.util.find_spec("mkdocstrings") is None, reason="needs cocktail-hub[site]")
def test_the_site_is_built_without_warnings_and_has_no_dead_links(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert dead_links(tmp_path / "site") == []
    assert 'id="cocktail_hub.mix"' in (tmp_path / "site" / "reference" / "api.html").read_text(encoding="utf-8")

"""Dead links of the built site, and what it would load from elsewhere: `python tests/site_links.py build/site`."""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Links(HTMLParser):
    """What one page points to, and what can be pointed to in it."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.targets: list[tuple[str, bool]] = []
        self.names: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note addresses, and whether they are loaded with the page, and names."""
        found = dict(attrs)
        self.names |= {name for name in (found.get("id"), found.get("name")) if name}
        loaded = tag in ("img", "script") or (tag == "link" and found.get("rel") != "canonical")
        if target := found.get("src") or found.get("href"):
            self.targets.append((target, loaded))


def dead_links(site: Path) -> list[str]:
    """`page -> address` for everything that does not work without a network, ordinary links to elsewhere aside."""
    pages = {page.resolve(): Links(page) for page in site.rglob("*.html") if page.name != "404.html"}
    dead = []
    for page, links in pages.items():
        for target, loaded in links.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                alive = not loaded or parts.scheme == "data"
            else:
                file = (page.parent / unquote(parts.path)).resolve() if parts.path else page
                file = file / "index.html" if file.is_dir() else file
                names = pages[file].names if file in pages else set()
                alive = file.is_file() and (not parts.fragment or file not in pages or unquote(parts.fragment) in names)
            if not alive:
                dead.append(f"{page.relative_to(site.resolve())} -> {target}")
    return dead


if __name__ == "__main__":
    sys.exit("\n".join(dead_links(Path(sys.argv[1]))) or 0)

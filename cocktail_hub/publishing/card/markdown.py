"""Markdown in which names and texts written by others stay plain text."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import yaml

from cocktail_hub.errors import UNPRINTABLE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_SPECIAL = re.compile(r"[\\`*\[\]<>~]|(?<![^\W_])_|_(?![^\W_])")
"""Characters that Markdown could read as markup; a `_` between letters or digits is safe."""
_UNSAFE = re.compile(r"[\s()<>]")
"""Characters that would end the address of a link."""


def escape(text: str) -> str:
    """Return `text` on one line, with markup escaped."""
    return _SPECIAL.sub(r"\\\g<0>", " ".join(text.translate(UNPRINTABLE).split()))


def code(text: str) -> str:
    """Return `text` on one line, as inline code."""
    line = " ".join(text.translate(UNPRINTABLE).split())
    ticks = _backticks(line, least=1)
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{ticks}{pad}{line}{pad}{ticks}"


def fenced(text: str, language: str) -> str:
    """Return a code block that `text` cannot end early."""
    text = text.translate(UNPRINTABLE)
    fence = _backticks(text, least=3)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def _backticks(text: str, least: int) -> str:
    """Return one backtick more than the longest run in `text`."""
    return "`" * max(least, *(len(run) + 1 for run in re.findall("`+", text)), 0)


def link(text: str, url: str) -> str:
    """Return a link; `text` is Markdown, which stays alone beside an address that is not of the web."""
    if not url.startswith(("https://", "http://")):
        return text
    safe = _UNSAFE.sub(lambda found: "".join(f"%{byte:02X}" for byte in found.group().encode()), url)
    return f"[{text}]({safe})"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; the cells are Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def listing(items: Sequence[str]) -> str:
    """Return `a`, `a and b`, or `a, b and c`."""
    return " and ".join([*([", ".join(items[:-1])] if items[:-1] else []), *items[-1:]])


RECORD = "<!-- Written by cocktail_hub with "
"""Begins the comment that records the metadata written with a section."""


def dump_metadata(metadata: Mapping[str, Any]) -> str:
    """Return metadata as the YAML that the Hub's client would write."""
    text: str = yaml.safe_dump(dict(metadata), sort_keys=False, allow_unicode=True)
    return text.strip()


def record(metadata: Mapping[str, Any]) -> str:
    """Return the beginning of a comment from which a later publication learns which metadata is ours."""
    text = json.dumps(metadata, sort_keys=True)
    return RECORD + text.replace("<", "\\u003c").replace(">", "\\u003e").replace("--", "-\\u002d")

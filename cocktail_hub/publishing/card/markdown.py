"""Write other people's names into Markdown so that they stay names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_SPECIAL = re.compile(r"[\\`*\[\]<>~]|(?<![^\W_])_|_(?![^\W_])")
"""Characters that Markdown could read as markup; `_` between letters or digits is none."""
_UNSAFE = re.compile(r"[\s()<>]")
"""Characters that would end the address of a link."""
_HUB = "https://huggingface.co"


def escape(text: str) -> str:
    """The text on one line, shown as it is."""
    return _SPECIAL.sub(lambda found: "\\" + found.group(), one_line(text))


def one_line(text: str) -> str:
    """The text with every run of white space as one blank."""
    return " ".join(text.split())


def code(text: str) -> str:
    """The text as inline code."""
    line = one_line(text)
    ticks = "`" * (_longest_run(line, "`") + 1)
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{ticks}{pad}{line}{pad}{ticks}"


def link(text: str, url: str) -> str:
    """A link; `text` is Markdown already."""
    return f"[{text}]({_UNSAFE.sub(_percent, url)})"


def hub_link(model: str) -> str:
    """A link to a model on the Hub."""
    return link(escape(model), f"{_HUB}/{model}")


def commit_link(model: str, commit: str) -> str:
    """A link to the files of a model at a commit, named by its first seven digits."""
    return link(code(commit[:7]), f"{_HUB}/{model}/tree/{commit}")


def file_url(model: str, commit: str, path: str) -> str:
    """Address of a file of a model at a commit."""
    return f"{_HUB}/{model}/blob/{commit}/{path}"


def fenced(text: str, language: str) -> str:
    """A code block that `text` cannot end early."""
    fence = "`" * max(3, _longest_run(text, "`") + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the cells are Markdown already."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def bullets(items: Iterable[str]) -> str:
    """A list; the items are Markdown already."""
    return "\n".join(f"- {item}" for item in items)


def listing(items: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([*([", ".join(items[:-1])] if items[:-1] else []), *items[-1:]])


def number(value: float) -> str:
    """Four significant digits, without trailing zeros."""
    return f"{value:.4g}"


def _longest_run(text: str, character: str) -> int:
    return max((len(run) for run in re.findall(f"{re.escape(character)}+", text)), default=0)


def _percent(found: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in found.group().encode())

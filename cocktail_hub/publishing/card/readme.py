"""Put a card into a README that is there already: our section and our metadata change, nothing else does."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from cocktail_hub.errors import PublishError
from cocktail_hub.publishing.card.metadata import (
    BOM,
    card_values,
    change_metadata,
    parse_metadata,
    split_readme,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from huggingface_hub import CardData, ModelCard

START = "<!-- cocktail_hub: start -->"
END = "<!-- cocktail_hub: end -->"
_ALWAYS_OURS = ("base_model", "base_model_relation", "library_name", "pipeline_tag")
"""Facts about what is published: where the card has them, they follow the mix."""
_LICENSE = ("license", "license_name", "license_link")
_IF_UNTOUCHED = (_LICENSE, ("language",))
"""Ours as long as they are as we wrote them, or absent; the keys of a group go together."""
RECORD = "<!-- Written by cocktail_hub with "
"""Begins the comment that remembers the metadata."""


def merge_readme(existing: str | None, card: ModelCard) -> str:
    """The README to publish: `card`, or `existing` with the card's section and metadata put into it.

    Read `existing` without translating its line endings. A README without our section gets it at the end. The user's
    own licence and language stay; our tags are added to the user's. Line endings, BOM, comments and the order of keys
    stay. Merging the same card again changes nothing.

    Raises:
        PublishError: the README's metadata cannot be read, or the marks of our section are not one pair.
    """
    if existing is None or not existing.removeprefix(BOM).strip():
        return str(card)
    line_break = _line_break(existing)
    readme = split_readme(existing)
    edges = _section(readme.body)
    written = _written(readme.body[slice(*edges)]) if edges else {}
    metadata = change_metadata(
        readme.block or "", _changes(parse_metadata(readme.block or ""), card.data, written), line_break
    )
    if readme.block is None:
        head = f"{readme.before}---{line_break}{metadata}{line_break}---{line_break * 2}"
    else:
        head = readme.before + metadata + readme.after
    return head + _put_section(readme.body, edges, str(card.text), line_break)


def drop_section(existing: str) -> str:
    """A README without our section, and without the metadata that was written with it and that nobody has changed.

    Raises:
        PublishError: as `merge_readme`.
    """
    readme = split_readme(existing)
    edges = _section(readme.body)
    if edges is None:
        return existing
    written, current = _written(readme.body[slice(*edges)]), parse_metadata(readme.block or "")
    changes: dict[str, Any] = {key: None for key, value in written.items() if current.get(key) == value}
    changes["tags"] = _tags(current.get("tags"), [], written.get("tags") or []) or None
    body = readme.body[: edges[0]].rstrip("\r\n") + readme.body[edges[1] :]
    if readme.block is None:
        return readme.before + body
    return readme.before + change_metadata(readme.block, changes, _line_break(existing)) + readme.after + body


def record(metadata: Mapping[str, Any]) -> str:
    """What the section remembers of the metadata written with it, so that it can tell ours from the user's."""
    text = json.dumps(metadata, sort_keys=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("--", "-\\u002d")


def _written(section: str) -> dict[str, Any]:
    """The metadata written with a section; empty where the user changed the comment that remembers it."""
    try:
        data, _ = json.JSONDecoder().raw_decode(section.partition(RECORD)[2])
    except json.JSONDecodeError:
        return {}
    return data if isinstance(data, dict) else {}


def _changes(current: Mapping[str, Any], data: CardData, written: Mapping[str, Any]) -> dict[str, Any]:
    """Key -> new value, `None` to remove it."""
    wanted = card_values(data)
    changes = {key: wanted[key] for key in _ALWAYS_OURS if key in wanted}
    for group in (*_IF_UNTOUCHED, *((key,) for key in _ALWAYS_OURS if key not in wanted)):
        if all(current.get(key) in (None, written.get(key)) for key in group):
            changes |= {key: wanted.get(key) for key in group}
    changes["tags"] = _tags(current.get("tags"), wanted.get("tags") or [], written.get("tags") or [])
    return changes


def _tags(current: Any, wanted: list[str], written: list[str]) -> list[Any]:
    """The user's tags in their order, without ours of last time, then those of now that are not among them."""
    found = current if isinstance(current, list) else [] if current is None else [current]
    kept = [tag for tag in found if tag in wanted or tag not in written]
    return kept + [tag for tag in wanted if tag not in kept]


def _section(body: str) -> tuple[int, int] | None:
    """First and last position of our section, marks included; `None`: there is none."""
    starts = [found.start() for found in re.finditer(f"^{START}", body, re.MULTILINE)]
    ends = [found.end() for found in re.finditer(f"^{END}", body, re.MULTILINE)]
    if not starts and not ends:
        return None
    if len(starts) != 1 or len(ends) != 1 or starts[0] > ends[0]:
        raise PublishError(
            f"The README has {len(starts)} line(s) '{START}' and {len(ends)} line(s) '{END}', not one pair in order.\n"
            "What stands between them is replaced, so your own text could be lost.\n"
            "Correct the two lines in README.md, or remove both to get the section added at the end."
        )
    return starts[0], ends[0]


def _put_section(body: str, edges: tuple[int, int] | None, card: str, line_break: str) -> str:
    own = _section(card)
    if own is None:
        raise PublishError(f"The card has no section between '{START}' and '{END}'. Make it with `render_card`.")
    section = card[slice(*own)].replace("\n", line_break)
    if edges is not None:
        return body[: edges[0]] + section + body[edges[1] :]
    if not body.strip():
        return line_break + card.strip().replace("\n", line_break) + line_break
    ended = body[len(body.rstrip("\r\n")) :].count("\n")
    return body + line_break * max(0, 2 - ended) + section + line_break


def _line_break(text: str) -> str:
    """How the first line ends."""
    return "\r\n" if text.partition("\n")[0].endswith("\r") and "\n" in text else "\n"

"""The README of a repo: read its YAML header, and put our header and section into a README that is there already.

The Hub's client is not loaded for this: that takes longer than a mix of small local models.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import yaml

from cocktail_hub.errors import PublishError
from cocktail_hub.publishing.card.markdown import RECORD
from cocktail_hub.recipe.files import load_yaml

START = "<!-- cocktail_hub: start -->"
END = "<!-- cocktail_hub: end -->"
YAML_BLOCK = re.compile(r"^(\s*---(?:\r\n|\r|\n))([\S\s]*?)((?:\r\n|\r|\n)---[ \t]*(\r\n|\n|$))")
"""Where the metadata of a README is: the Hub's own rule, as in `huggingface_hub.repocard`."""
_BOM = "\ufeff"
_ALWAYS_OURS = ("base_model", "base_model_relation", "library_name", "pipeline_tag")
"""Facts about what is published: where the new card has them, they replace the old ones."""
_OURS_IF_UNCHANGED = (("license", "license_name", "license_link"), ("language",))
"""Replaced as long as they are absent or as we wrote them; all keys of a group, or none."""


class Readme(NamedTuple):
    """A README in four parts, which are the README again when joined."""

    before: str
    """Byte order mark, and the `---` above the metadata."""
    block: str | None
    """The YAML without its last line break; `None` if there is none."""
    after: str
    """Line break and `---` below the metadata."""
    body: str
    """The Markdown."""


def split_readme(text: str) -> Readme:
    """Cut a README into metadata and body."""
    bom = _BOM if text.startswith(_BOM) else ""
    found = YAML_BLOCK.search(text.removeprefix(_BOM))
    if found is None:
        return Readme(bom, None, "", text.removeprefix(_BOM))
    return Readme(bom + found[1], found[2], found[3], found.string[found.end() :])


def read_metadata(text: str) -> dict[str, Any]:
    """Return the metadata of somebody's README; empty if there is none or it is not valid."""
    try:
        values = load_yaml(split_readme(text).block or "", unique=False)
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return {str(key): value for key, value in values.items()} if isinstance(values, Mapping) else {}


def merge_readme(existing: str | None, card: str) -> str:
    """Put the section and the metadata of a card into a README.

    The user's own licence and language stay, and our tags are added to the user's. Without a section of ours the card's
    goes to the end. Line endings (those of the first line), byte order mark and order of keys stay; comments in the
    metadata stay unless a key changes. Merging the same card again changes nothing.

    Args:
        existing: the README, read without translating its line endings; `None` if there is none.
        card: a whole card, as `render_card` returns it.

    Raises:
        PublishError: the README's metadata is not valid, or the marks around our section are not one pair.
    """
    if existing is None or not existing.removeprefix(_BOM).strip():
        return card
    if existing.partition("\n")[0].endswith("\r"):
        return merge_readme(existing.replace("\r\n", "\n"), card).replace("\n", "\r\n")
    readme, new = split_readme(existing), split_readme(card)
    edges = _find_section(readme.body)
    written = _recorded(readme.body[slice(*edges)]) if edges else {}
    current, wanted = _parse_metadata(readme.block or ""), _parse_metadata(new.block or "")
    changes = {key: wanted[key] for key in _ALWAYS_OURS if key in wanted}
    for group in (*_OURS_IF_UNCHANGED, *((key,) for key in _ALWAYS_OURS if key not in wanted)):
        if all(current.get(key) in (None, written.get(key)) for key in group):
            changes |= {key: wanted.get(key) for key in group}
    changes["tags"] = _merged_tags(current, wanted, written)
    metadata = change_metadata(readme.block or "", changes)
    section = new.body[slice(*_find_section(new.body) or (0, 0))]
    if edges is not None:
        body = readme.body[: edges[0]] + section + readme.body[edges[1] :]
    elif readme.body.strip():
        ended = len(readme.body) - len(readme.body.rstrip("\n"))
        body = readme.body + "\n" * max(0, 2 - ended) + section + "\n"
    else:
        body = f"\n{new.body.strip()}\n"
    if readme.block is None:
        return f"{readme.before}---\n{metadata}\n---\n\n{body}"
    return readme.before + metadata + readme.after + body


def drop_section(existing: str) -> str:
    """Remove our section from a README, and the metadata that was written with it and has not been changed since."""
    if existing.partition("\n")[0].endswith("\r"):
        return drop_section(existing.replace("\r\n", "\n")).replace("\n", "\r\n")
    readme = split_readme(existing)
    edges = _find_section(readme.body)
    if edges is None:
        return existing
    body = readme.body[: edges[0]].rstrip("\n") + readme.body[edges[1] :]
    if readme.block is None:
        return readme.before + body
    written, current = _recorded(readme.body[slice(*edges)]), _parse_metadata(readme.block)
    changes: dict[str, Any] = {key: None for key, value in written.items() if current.get(key) == value}
    changes["tags"] = _merged_tags(current, {}, written) or None
    return readme.before + change_metadata(readme.block, changes) + readme.after + body


def change_metadata(block: str, changes: Mapping[str, Any]) -> str:
    """Set top-level keys of a YAML block, and remove those that are `None`.

    Raises:
        PublishError: the block is not a YAML mapping.
    """
    current = _parse_metadata(block)
    changes = {key: value for key, value in changes.items() if current.get(key) != value}
    if not changes:
        return block
    # Nodes, not values: PyYAML reads `language: no` as false, and would write it back as that.
    old = yaml.compose(block, yaml.SafeLoader)
    new = yaml.compose(yaml.safe_dump(dict(changes), sort_keys=False, allow_unicode=True), yaml.SafeLoader)
    pairs = [pair for node in (old, new) if isinstance(node, yaml.MappingNode) for pair in node.value]
    entries = {key.value: (key, value) for key, value in pairs if changes.get(key.value, "") is not None}
    if not entries:
        return ""
    root = yaml.MappingNode("tag:yaml.org,2002:map", list(entries.values()), flow_style=False)
    text: str = yaml.serialize(root, Dumper=yaml.SafeDumper, allow_unicode=True, width=10_000)
    return text.strip()


def _parse_metadata(block: str) -> dict[str, Any]:
    try:
        data = load_yaml(block, unique=False)
        problem = None if isinstance(data, dict | None) else f"it is a {type(data).__name__}, not a mapping"
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        problem = str(error)
    if problem:
        raise PublishError(
            f"The metadata at the top of the README cannot be read: {problem}.\n"
            "The Hub rejects such a README, and rewriting it could lose what you wrote.\n"
            "Correct the lines between the two '---' in README.md, or remove them."
        )
    return data or {}


def _recorded(section: str) -> dict[str, Any]:
    """Return the metadata written with a section; empty if the comment that records it was edited."""
    try:
        data, _ = json.JSONDecoder().raw_decode(section.partition(RECORD)[2])
    except json.JSONDecodeError:
        return {}
    return data if isinstance(data, dict) else {}


def _merged_tags(current: Mapping[str, Any], wanted: Mapping[str, Any], written: Mapping[str, Any]) -> list[Any]:
    """Return the user's tags in their order without those we wrote last time, then the new ones."""
    found, ours, before = current.get("tags") or [], wanted.get("tags") or [], written.get("tags") or []
    kept = [tag for tag in (found if isinstance(found, list) else [found]) if tag in ours or tag not in before]
    return kept + [tag for tag in ours if tag not in kept]


def _find_section(body: str) -> tuple[int, int] | None:
    """Return the first and last position of our section, marks included; `None` if there is none."""
    starts = [found.start() for found in re.finditer(f"^{START}", body, re.MULTILINE)]
    ends = [found.end() for found in re.finditer(f"^{END}", body, re.MULTILINE)]
    if not starts and not ends:
        return None
    if len(starts) != 1 or len(ends) != 1 or starts[0] > ends[0]:
        raise PublishError(
            f"The README has {len(starts)} line(s) '{START}' and {len(ends)} line(s) '{END}', not one pair in order.\n"
            "The text between them is replaced, so your own text could be lost.\n"
            "Correct the two lines in README.md, or remove both to have the section added at the end."
        )
    return starts[0], ends[0]

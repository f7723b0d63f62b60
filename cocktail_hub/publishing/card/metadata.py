"""The YAML block at the top of a README: read it, and change keys in it without touching the rest."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from cocktail_hub.errors import PublishError

if TYPE_CHECKING:
    from huggingface_hub import CardData

BOM = "\ufeff"
YAML_BLOCK = re.compile(r"^(\s*---(?:\r\n|\r|\n))([\S\s]*?)((?:\r\n|\r|\n)---[ \t]*(\r\n|\n|$))")
"""Where the metadata of a README is: the rule of the Hub's client (`huggingface_hub.repocard`), without loading it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Readme:
    """A README cut into four parts that, put together, are the README."""

    before: str
    """Byte order mark and the `---` above the metadata."""
    block: str | None
    """The YAML, without the last line break; `None`: there is none."""
    after: str
    """Line break and `---` below the metadata."""
    body: str
    """The Markdown."""


def split_readme(text: str) -> Readme:
    """Cut a README into its metadata and its body by the Hub's own rule."""
    bom = BOM if text.startswith(BOM) else ""
    found = YAML_BLOCK.search(text.removeprefix(BOM))
    if found is None:
        return Readme(before=bom, block=None, after="", body=text.removeprefix(BOM))
    return Readme(before=bom + found[1], block=found[2], after=found[3], body=found.string[found.end() :])


def read_metadata(card: str | Mapping[str, Any] | CardData | None) -> dict[str, Any]:
    """Metadata of someone's card, in any form it comes in; empty where there is none that can be read."""
    values: Any = card
    if isinstance(card, str):
        try:
            values = yaml.safe_load(split_readme(card).block or "")
        except yaml.YAMLError:
            return {}
    elif card is not None and not isinstance(card, Mapping):
        values = card_values(card)
    return {str(key): value for key, value in values.items()} if isinstance(values, Mapping) else {}


def languages_of(card: str | Mapping[str, Any] | CardData | None) -> tuple[str, ...]:
    """Languages that someone's card names, in its order; empty where it names none."""
    named = read_metadata(card).get("language")
    return tuple(one for one in (named if isinstance(named, list) else [named]) if isinstance(one, str) and one)


def card_values(data: CardData) -> dict[str, Any]:
    """The keys of a card that have a value, in order."""
    return dict(data.to_dict())  # type: ignore[no-untyped-call]


def dump_metadata(metadata: Mapping[str, Any]) -> str:
    """The YAML block of a card, as the Hub's client writes it."""
    text: str = yaml.safe_dump(dict(metadata), sort_keys=False, allow_unicode=True)
    return text.strip()


def parse_metadata(block: str) -> dict[str, Any]:
    """Metadata of a README that is to be changed.

    Raises:
        PublishError: it is not a YAML mapping, so that the Hub would refuse the README.
    """
    try:
        data = yaml.safe_load(block)
    except yaml.YAMLError as error:
        raise _unreadable(str(error)) from error
    if data is not None and not isinstance(data, dict):
        raise _unreadable(f"it is a {type(data).__name__}, not a mapping of keys to values")
    return data or {}


def change_metadata(block: str, changes: Mapping[str, Any], line_break: str) -> str:
    """Set top-level keys, or remove those that are `None`. All other lines stay as they are.

    A block that cannot be changed line by line (anchors, `{...}` on one line, a key written twice) is written anew
    with the same values.

    Raises:
        PublishError: the block is not a YAML mapping.
    """
    current = parse_metadata(block)
    changes = {key: value for key, value in changes.items() if current.get(key) != value}
    if not changes:
        return block
    wanted = {key: value for key, value in (current | changes).items() if not (key in changes and value is None)}
    entries = list(_entries(block))
    if len({key for key, _, _ in entries}) < len(entries):
        return _dump(wanted, line_break)
    edited = _edit_lines(block, entries, changes, line_break)
    return edited if _reads_as(edited, wanted) else _dump(wanted, line_break)


def _edit_lines(
    block: str, entries: Sequence[tuple[str, int, int]], changes: Mapping[str, Any], line_break: str
) -> str:
    """Replace the lines of keys that are there, last one first, and add the others at the end."""
    for key, start, end in reversed(entries):
        if key in changes and changes[key] is not None:
            block = block[:start] + _dump({key: changes[key]}, line_break) + block[end:]
        elif key in changes:
            after = block[end:].removeprefix("\r").removeprefix("\n")
            block = block[:start] + after
    present = {key for key, _, _ in entries}
    added = {key: value for key, value in changes.items() if key not in present and value is not None}
    parts = [block.rstrip("\r\n"), _dump(added, line_break) if added else ""]
    return line_break.join(part for part in parts if part)


def _entries(block: str) -> Iterator[tuple[str, int, int]]:
    """Key, first and last position of each top-level entry; the end is that of its last line, without the break."""
    root = yaml.compose(block, Loader=yaml.SafeLoader)
    for key, value in root.value if isinstance(root, yaml.MappingNode) else ():
        start = key.start_mark.index
        written = len(block[: max(_last(value), key.end_mark.index)].rstrip())
        yield str(key.value), start, written + len(block[written:].partition("\n")[0].rstrip("\r"))


def _last(node: yaml.Node) -> int:
    """Where the text of a node ends; PyYAML puts the end of a block at the next key, after blanks and comments."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return max(_last(part) for part in (last if isinstance(last, tuple) else (last,)))
    return int(node.end_mark.index)


def _reads_as(block: str, wanted: Mapping[str, Any]) -> bool:
    try:
        return bool((yaml.safe_load(block) or {}) == wanted)
    except yaml.YAMLError:
        return False


def _dump(data: Mapping[str, Any], line_break: str) -> str:
    text = yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True, width=10_000)
    return text.strip().replace("\n", line_break)


def _unreadable(reason: str) -> PublishError:
    return PublishError(
        f"The metadata at the top of the README cannot be read: {reason}.\n"
        "The Hub refuses such a README, and what stands there could be lost.\n"
        "Correct the lines between the two '---' in README.md, or remove them."
    )

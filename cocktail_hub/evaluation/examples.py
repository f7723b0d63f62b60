"""The examples that models are scored on, checked and named by a digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

from cocktail_hub.errors import ScoringError, did_you_mean
from cocktail_hub.evaluation.example_shapes import recognize

if TYPE_CHECKING:
    from cocktail_hub.evaluation.settings import ScoredKind

Example: TypeAlias = "Mapping[str, str | tuple[str, ...]]"
"""A checked example: texts under `input`, `output`, `query`; tuples of texts under `pos`, `neg`."""

FIELDS: Mapping[ScoredKind, tuple[str, ...]] = MappingProxyType(
    {
        "decoder": ("input", "output"),
        "encoder-decoder": ("input", "output"),
        "encoder": ("query", "pos", "neg"),
        "reranker": ("query", "pos", "neg"),
    }
)
"""Keys that an example for each kind of model must have; others are ignored."""
_LISTS = ("pos", "neg")
_MAY_BE_EMPTY = ("input", "neg")
_MAX_SHOWN = 60
_LONGEST_TEXT = 1 << 20
"""Characters; tokenizers take over a hundred bytes for each."""


@dataclass(frozen=True)
class Examples:
    """n >= 1 checked examples for one kind of model."""

    rows: tuple[Example, ...]
    """In the given order, with the keys of `FIELDS` only."""
    shape: str = ""
    """Which keys were read from which columns, in words; empty where the columns are called like the keys."""

    @cached_property
    def digest(self) -> str:
        """Sha256 of the rows as canonical JSON: 64 hex digits. Unused keys do not count."""
        text = json.dumps(self.rows, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.rows)


def check_examples(rows: Sequence[Any], kind: ScoredKind, *, columns: Mapping[str, str] | None = None) -> Examples:
    """Check that every example has the texts that scoring needs.

    Args:
        rows: mappings of column to value.
        kind: decides which keys an example must have (`FIELDS`).
        columns: our key -> the column that holds it, e.g. `{"input": "question"}`. Without it, known shapes are
            recognised (`example_shapes.py`).

    Returns:
        The examples: a text per key, or a tuple of texts under `pos` and `neg`, where a single text counts as one.

    Raises:
        ScoringError: an example lacks a key, has something other than text, or no negatives: for an encoder, there is
            no other passage in all examples; names the example and the key.
    """
    for key in columns or {}:
        if key not in FIELDS[kind]:
            hint = did_you_mean(key, FIELDS[kind])
            raise ScoringError(f"`columns` maps '{key}', which is not a key of an example for a {kind}. {hint}")
    if not rows:
        raise ScoringError("There are no examples.\nWeights are computed from losses on examples.\nGive at least one.")
    shape = ""
    if not columns:
        rows, shape = recognize(rows, FIELDS[kind], borrow=kind == "reranker")
    names = {key: (columns or {}).get(key, key) for key in FIELDS[kind]}
    for index, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise ScoringError(
                f"Example {index} is of type {type(row).__name__}, not a mapping: {_shown(row)}\n"
                f"An example has the keys {', '.join(names.values())}.",
                example=index,
            )
    checked = tuple(
        {key: _value(row, index, key, column) for key, column in names.items()} for index, row in enumerate(rows)
    )
    if kind in ("encoder", "reranker"):
        passages = [*dict.fromkeys(text for row in checked for key in _LISTS for text in row[key])]
        for index, row in enumerate(checked):
            others = row["neg"] if kind == "reranker" else passages[: len(row["pos"]) + 1]  # enough to see one
            require_negatives(index, tuple(row["pos"]), others)
    return Examples(checked, shape)


def require_negatives(index: int, positives: Sequence[str], negatives: Sequence[str]) -> None:
    """Raise ScoringError if an example has no negatives but its positives."""
    if not set(negatives) - set(positives):
        raise ScoringError(
            f"Example {index} has no negatives.\n"
            "The loss is the cross-entropy of the positive among them; without any it is always 0.\n"
            "Give it a `neg`, or more examples.",
            example=index,
        )


def _value(row: Mapping[str, Any], index: int, key: str, column: str) -> str | tuple[str, ...]:
    if column not in row:
        found = [str(name) for name in row]
        hint = did_you_mean(column, found).replace("Accepted:", "It has:") if found else "It is empty."
        raise ScoringError(
            f"Example {index} has no key '{column}'. {hint}\n"
            f"Without it the loss on this example is not defined.\n"
            f"Add the key, or map it with `columns` ({{{key}: its name}}).",
            example=index,
        )
    value = row[column]
    if key not in _LISTS:
        return _text(value, index, column, may_be_empty=key in _MAY_BE_EMPTY)
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, Sequence):
        raise _wrong_type(value, index, column, "a text or a list of texts")
    if not items and key not in _MAY_BE_EMPTY:
        raise _empty(index, column)
    return tuple(_text(item, index, f"{column}[{place}]") for place, item in enumerate(items))


def _text(value: Any, index: int, name: str, *, may_be_empty: bool = False) -> str:
    if not isinstance(value, str):
        raise _wrong_type(value, index, name, "a text")
    if not value.strip() and not may_be_empty:
        raise _empty(index, name)
    if len(value) > _LONGEST_TEXT:
        raise ScoringError(
            f"'{name}' of example {index} has {len(value):,} characters; no more than {_LONGEST_TEXT:,} are read.\n"
            "A model reads some thousand tokens of it.\nCut it, or leave the example out.",
            example=index,
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ScoringError(
            f"'{name}' of example {index} has half of a surrogate pair at character {error.start}.\n"
            "It is not valid text, so a tokenizer cannot read it.\nWrite the whole character.",
            example=index,
        ) from error
    return value


def _wrong_type(value: Any, index: int, name: str, wanted: str) -> ScoringError:
    return ScoringError(
        f"'{name}' of example {index} is of type {type(value).__name__}, not {wanted}: {_shown(value)}\n"
        "Only text can be scored.\nWrite it as text, e.g. in quotes.",
        example=index,
    )


def _empty(index: int, name: str) -> ScoringError:
    return ScoringError(
        f"'{name}' of example {index} is empty.\nThere is nothing to compute a loss on.\n"
        "Fill it in, or remove the example.",
        example=index,
    )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."

"""The few examples that shares are computed from: loaded, checked, and named by a digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

from cocktail_hub.errors import ScoringError, SourceError, did_you_mean
from cocktail_hub.evaluation.example_tables import read_rows
from cocktail_hub.evaluation.settings import Kind, kind_of

if TYPE_CHECKING:
    from collections.abc import Callable

Example: TypeAlias = "Mapping[str, str | tuple[str, ...]]"
"""A checked example: texts under `input`, `output`, `query`; tuples of texts under `pos`, `neg`."""

FIELDS: Mapping[Kind, tuple[str, ...]] = MappingProxyType(
    {
        "decoder": ("input", "output"),
        "encoder-decoder": ("input", "output"),
        "encoder": ("query", "pos", "neg"),
        "reranker": ("query", "pos", "neg"),
    }
)
"""The keys that an example of each kind must have; others are ignored."""
_LISTS = ("pos", "neg")
_MAY_BE_EMPTY = ("input", "neg")
_MAX_SHOWN = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """n >= 1 checked examples of one kind."""

    kind: Kind
    """The kind of model they are for."""
    rows: tuple[Example, ...]
    """In the order in which they were given, with the keys of `FIELDS[kind]` only."""

    @property
    def digest(self) -> str:
        """Sha256 of the rows as canonical JSON: 64 hex digits. Keys that are not used do not count."""
        plain = [{key: list(v) if isinstance(v, tuple) else v for key, v in row.items()} for row in self.rows]
        text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.rows)


def load_examples(
    source: str | Path | Sequence[Mapping[str, Any]],
    task: str,
    *,
    columns: Mapping[str, str] | None = None,
    resolve: Callable[[str], Path] | None = None,
) -> Examples:
    """Load and check examples.

    Args:
        source: a list of examples, the path of a file (see `tables.read_rows`), or a name that `resolve` knows.
        task: a key of `settings.TASKS`; decides which keys an example has (`FIELDS`).
        columns: our key -> the column of the source that holds it, e.g. `{"input": "question"}`.
        resolve: turns a source that is no local file, such as a Hub dataset id, into the path of one.

    Returns:
        The examples, each value a text, or a tuple of texts under `pos` and `neg` (a single text counts as one).

    Raises:
        ScoringError: an example lacks a key or holds something else than text; names the example and the key.
        SourceError: the file does not exist or cannot be read.
        MissingExtraError: Parquet without pyarrow.
    """
    kind = kind_of(task)
    if isinstance(source, (str, Path)):
        rows: Sequence[Any] = read_rows(_locate(source, resolve))
    else:
        rows = list(source)
    return check_examples(rows, kind, columns=columns)


def check_examples(rows: Sequence[Any], kind: Kind, *, columns: Mapping[str, str] | None = None) -> Examples:
    """Check examples that are at hand; see `load_examples`.

    Raises:
        ScoringError: as for `load_examples`.
    """
    names = _columns(kind, columns or {})
    if not rows:
        raise ScoringError("There are no examples.\nShares are computed from losses on examples.\nGive at least one.")
    checked = tuple(_check(row, index, names) for index, row in enumerate(rows))
    return Examples(kind=kind, rows=checked)


def _locate(source: str | Path, resolve: Callable[[str], Path] | None) -> Path:
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if resolve is not None and isinstance(source, str):
        return resolve(source)
    raise SourceError(
        f"The examples '{source}' are no file here ({Path.cwd()}).\n"
        "Shares are computed from them.\nGive the path of an existing file, or a list of examples."
    )


def _columns(kind: Kind, columns: Mapping[str, str]) -> dict[str, str]:
    """Our key -> column, for every key of the kind."""
    for key in columns:
        if key not in FIELDS[kind]:
            hint = did_you_mean(key, FIELDS[kind])
            raise ScoringError(f"`columns` maps '{key}', which is no key of an example for a {kind}. {hint}")
    return {key: columns.get(key, key) for key in FIELDS[kind]}


def _check(row: Any, index: int, names: Mapping[str, str]) -> Example:
    if not isinstance(row, Mapping):
        raise ScoringError(
            f"Example {index} is of type {type(row).__name__}, not a mapping: {_shown(row)}\n"
            f"An example has the keys {', '.join(names.values())}.",
            example=index,
        )
    return {key: _value(row, index, key, column) for key, column in names.items()}


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
        raise _wrong_kind(value, index, column, "a text or a list of texts")
    if not items and key not in _MAY_BE_EMPTY:
        raise _empty(index, column)
    return tuple(_text(item, index, f"{column}[{place}]") for place, item in enumerate(items))


def _text(value: Any, index: int, name: str, *, may_be_empty: bool = False) -> str:
    if not isinstance(value, str):
        raise _wrong_kind(value, index, name, "a text")
    if not value.strip() and not may_be_empty:
        raise _empty(index, name)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ScoringError(
            f"'{name}' of example {index} holds half of a surrogate pair at character {error.start}: no valid text.\n"
            "A tokenizer cannot read it.\nWrite the whole character.",
            example=index,
        ) from error
    return value


def _wrong_kind(value: Any, index: int, name: str, wanted: str) -> ScoringError:
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

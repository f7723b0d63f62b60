"""Rows of examples from a JSONL, JSON, CSV or Parquet file."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING, Any

from cocktail_hub.errors import MissingExtraError, ScoringError, SourceError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_MAX_SHOWN = 80


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read every row of a file; its suffix says the format.

    Args:
        path: `.jsonl`/`.ndjson` (an object a line), `.json` (a list of objects, or an object a line), `.csv`/`.tsv`
            (with a header line) or `.parquet`. Text is UTF-8.

    Returns:
        One mapping per row, column name -> value; nothing is checked or converted yet.

    Raises:
        ScoringError: an unknown suffix, or a line that is no object.
        SourceError: the file cannot be read or is not UTF-8.
        MissingExtraError: Parquet without pyarrow.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ScoringError(
            f"The examples '{path}' have the suffix '{path.suffix}'.\n"
            "The suffix says how to read them.\n"
            f"Use one of: {', '.join(_READERS)}."
        )
    try:
        return reader(path)
    except OSError as error:
        raise SourceError(f"The examples '{path}' cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise SourceError(f"The examples '{path}' are not UTF-8 text: {error.reason} at byte {error.start}.") from error


def _read_jsonl(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8-sig").split("\n")  # not splitlines: U+2028 may stand in a string
    return [_parse(line, path, number) for number, line in enumerate(lines, start=1) if line.strip()]


def _read_json(path: Path) -> list[dict[str, Any]]:
    text = path.read_text(encoding="utf-8-sig")
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        if text.lstrip().startswith("{") and "\n" in text.strip():
            return _read_jsonl(path)
        raise ScoringError(f"The examples '{path}' are not valid JSON: {error}.") from error
    if not isinstance(value, list):
        keys = f" with the keys {', '.join(map(repr, list(value)[:8]))}" if isinstance(value, dict) else ""
        raise ScoringError(
            f"The examples '{path}' are a JSON {type(value).__name__}{keys}, not a list.\n"
            "One file holds the examples of one task.\n"
            "Write a list of objects, one per example."
        )
    return value


def _parse(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise ScoringError(
            f"Line {number} of '{path}' is not valid JSON: {error.msg} at column {error.colno}."
        ) from error
    if not isinstance(value, dict):
        raise ScoringError(f"Line {number} of '{path}' is no JSON object: {line.strip()[:_MAX_SHOWN]}")
    return value


def _read_csv(path: Path) -> list[dict[str, Any]]:
    return _read_separated(path, ",")


def _read_tsv(path: Path) -> list[dict[str, Any]]:
    return _read_separated(path, "\t")


def _read_separated(path: Path, delimiter: str) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file, delimiter=delimiter, strict=True)
        try:
            return [_complete(row, path, rows.line_num) for row in rows]
        except csv.Error as error:
            raise ScoringError(f"Line {rows.line_num} of '{path}' cannot be read: {error}.") from error


def _complete(row: dict[str, Any], path: Path, number: int) -> dict[str, Any]:
    """A row with as many cells as the header has columns, lists in cells read as lists."""
    if None in row or None in row.values():
        raise ScoringError(
            f"Line {number} of '{path}' has another number of cells than the header.\n"
            "It is not clear which cell belongs to which column.\n"
            'Put texts that contain the separator, a quote or a line break in double quotes ("").'
        )
    return {column: _cell(text) for column, text in row.items()}


def _cell(text: str) -> Any:
    """A cell that holds a JSON list of texts is that list; any other is text."""
    if text.startswith("[") and text.endswith("]"):
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            return text
        return value if all(isinstance(item, str) for item in value) else text
    return text


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise MissingExtraError.of("pyarrow", extra="parquet", purpose="read examples from a Parquet file") from error
    try:
        rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    except ArrowException as error:
        raise SourceError(f"The examples '{path}' cannot be read as Parquet: {error}") from error
    return rows


_READERS: dict[str, Callable[[Path], list[dict[str, Any]]]] = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".parquet": _read_parquet,
}

"""The examples of a recipe: find them in it, beside it, on this machine or on the Hub, and read them."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from cocktail_hub.errors import MissingExtraError, RecipeError, ScoringError, SourceError, did_you_mean
from cocktail_hub.hub import HubFiles
from cocktail_hub.recipe import Weighting, as_path, canonical_json, is_path
from cocktail_hub.recipe.validation import plain
from cocktail_hub.storage.disk import sha256_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cocktail_hub.hub import Hub
    from cocktail_hub.resolve.source import RecipeSource

LARGEST_FILE = 32 << 20
"""Largest file in bytes that is read as examples; a few examples are far smaller."""
MOST_VALUES = 1 << 20
"""Most values in a file of examples: each takes some hundred bytes of memory, however short it is."""
_COLUMNS = 1 << 10
"""Most columns of a Parquet file: each takes some dozen microseconds."""
_NO_EXAMPLES = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""JSON files that describe a dataset."""
_MAX_SHOWN = 80


@dataclass(frozen=True, kw_only=True)
class ExamplesFound:
    """Examples on this machine, not yet read or checked."""

    content: Path | tuple[Mapping[str, Any], ...]
    """A file, or the examples themselves."""
    source: str
    """`inline`, the name of a file, or a repo or dataset on the Hub and its file."""
    revision: str | None = None
    """Commit, if they come from the Hub."""
    name: str | None = None
    """Which task, if the file has several."""

    @cached_property
    def digest(self) -> str:
        """Sha256 of the file, or of the examples as canonical JSON: 64 hex digits."""
        if isinstance(self.content, Path):
            return sha256_of(self.content)
        return hashlib.sha256(canonical_json(plain(self.content)).encode()).hexdigest()

    @property
    def on_hub(self) -> bool:
        """Whether they are in a dataset on the Hub, so that others can find them there."""
        return self.source.startswith("datasets/")

    def rows(self) -> list[Any]:
        """The examples as they are written; see `read_rows`."""
        return read_rows(self.content, self.name) if isinstance(self.content, Path) else list(self.content)

    def to_dict(self) -> dict[str, str]:
        """Where they come from, for a recipe's evidence."""
        known = {"source": self.source, "revision": self.revision, "name": self.name}
        return {key: value for key, value in known.items() if value}


def locate_examples(weighting: Weighting, origin: RecipeSource, hub: Hub) -> ExamplesFound:
    """Find the examples of a recipe, and download them if they are on the Hub.

    A recipe from the Hub can name files of its own repo and datasets on the Hub; it never reads files of this machine.

    Raises:
        SourceError: there is no such file or dataset, or it is not clear which file has the examples.
        RecipeError: a recipe from the Hub names a file of this machine.
    """
    examples = weighting.examples
    if not isinstance(examples, str):
        return ExamplesFound(content=tuple(examples or ()), source="inline")
    if isinstance(origin.files, HubFiles):
        found = _in_repo(examples, origin.files, weighting, origin, hub)
    else:
        found = _on_machine(examples, weighting, hub)
    return replace(found, name=weighting.name)


def examples_given(
    examples: str | Path | Sequence[Mapping[str, Any]], hub: Hub, *, name: str | None = None
) -> ExamplesFound:
    """Find examples that the user names: a list, a file, or a dataset on the Hub. Raises as `locate_examples`.

    `name`: which task is meant, if the file has several.
    """
    weighting = Weighting.from_value({"examples": str(examples) if isinstance(examples, Path) else examples})
    if not isinstance(weighting.examples, str):
        return ExamplesFound(content=tuple(weighting.examples or ()), source="inline")
    return replace(_on_machine(weighting.examples, weighting, hub), name=name)


def examples_of(evidence: Mapping[str, Any], name: str, hub: Hub) -> ExamplesFound:
    """Find the examples that weights were computed from, where they are on the Hub.

    Raises:
        SourceError: they were not published.
    """
    known = evidence.get("examples", {})
    if not known or evidence.get("rule") == "uniform":
        return ExamplesFound(content=(), source="none")
    source, commit = str(known.get("source")), known.get("revision")
    if not commit:
        raise SourceError(
            f"The examples behind the weights of '{name}' are not published ({source}).\n"
            "So the weights could not be computed again from them.\n"
            "Give the examples, if you have them: `cocktail verify SOURCE --examples FILE`."
        )
    kind, path = ("dataset", source.removeprefix("datasets/")) if source.startswith("datasets/") else ("model", source)
    owner, repo, inside = path.split("/", 2)
    files = hub.files(f"{owner}/{repo}", commit, repo_type=kind)
    content = _small_file(files, inside)
    return ExamplesFound(content=content, source=source, revision=commit, name=known.get("name"))


def _on_machine(examples: str, weighting: Weighting, hub: Hub) -> ExamplesFound:
    """Examples in a file, or, where there is none, in a dataset."""
    path = as_path(examples)
    if path.is_file():
        return ExamplesFound(content=path, source=path.name)
    if path.suffix.lower() in SUFFIXES or is_path(examples):
        raise SourceError(
            f"There is no file of examples at '{examples}'.\nThe weights are computed from them.\n"
            "Give an existing path (relative to the recipe file), or a dataset on the Hub such as 'org/name'."
        )
    return _in_dataset(examples, weighting, hub)


def _in_repo(name: str, files: HubFiles, weighting: Weighting, origin: RecipeSource, hub: Hub) -> ExamplesFound:
    """Examples of a recipe on the Hub."""
    path = str(PurePosixPath(origin.folder, name))
    if path not in files.sizes and name in files.sizes:
        path = name  # the recipe was read from a module's folder; publishing puts examples into the root
    if path in files.sizes and ".." not in PurePosixPath(name).parts:
        content = _small_file(files, path)
        return ExamplesFound(content=content, source=f"{files.name}/{path}", revision=files.commit)
    if is_path(name):
        raise RecipeError(
            f"The recipe '{origin.name}' names the examples '{name}', which is not a file of its repo.\n"
            "A recipe from the Hub must not read the files of this machine.\n"
            "Its author can put them beside the recipe, write them into it, or name a dataset on the Hub."
        )
    if PurePosixPath(name).suffix.lower() in SUFFIXES:
        raise SourceError(
            f"The repo '{files.name}' has no file '{path}', which its recipe names as its examples.\n"
            "The weights are computed from them.\nIts author can add the file, or name a dataset on the Hub."
        )
    return _in_dataset(name, weighting, hub)


def _in_dataset(name: str, weighting: Weighting, hub: Hub) -> ExamplesFound:
    """The one file of a Hub dataset that has the examples."""
    commit, split = hub.resolve(name, weighting.revision, repo_type="dataset"), weighting.split
    files = hub.files(name, commit, repo_type="dataset")
    held = [p for p in files.sizes if p.lower().endswith(SUFFIXES) and PurePosixPath(p).name not in _NO_EXAMPLES]
    chosen = [path for path in held if path == split]
    if not chosen:
        parts = {path: PurePosixPath(path) for path in held}  # `data/train-00000-of-00001.parquet`, `train/part.jsonl`
        chosen = [
            p for p, whole in parts.items() if split in (None, *whole.parts[:-1], whole.stem, *whole.stem.split("-"))
        ]
    if len(chosen) != 1:
        raise SourceError(
            f"{len(chosen)} files of the dataset '{name}' fit{f' `split: {split}`' if split else ''}, but the examples "
            f"must be in one.\nIt has these files: {', '.join(held) or 'none that examples can be read from'}.\n"
            "Name one of them, or its split, as `weighting.split`."
        )
    return ExamplesFound(content=_small_file(files, chosen[0]), source=f"datasets/{name}/{chosen[0]}", revision=commit)


def _small_file(files: HubFiles, path: str) -> Path:
    if files.sizes[path] > LARGEST_FILE:
        raise SourceError(
            f"'{path}' of '{files.name}' has {files.sizes[path]:,} bytes.\nWeights are computed from a few examples; "
            f"no more than {LARGEST_FILE:,} bytes are read for them.\nChoose a smaller file or dataset."
        )
    return files.path(path)


def read_rows(path: Path, name: str | None = None) -> list[Any]:
    """Read every row of a file, whose suffix decides the format.

    Args:
        path: `.jsonl`/`.ndjson` (one object per line), `.json` (a list of objects, one object per line, or lists of
            several tasks under their names), `.csv`/`.tsv` (with a header line) or `.parquet`. Text is UTF-8.
        name: of the task, if there are several.

    Returns:
        One mapping per row, column name -> value, not yet checked.

    Raises:
        ScoringError: an unknown suffix, or a line that is not an object.
        SourceError: the file cannot be read, is not UTF-8, or is too large.
        MissingExtraError: Parquet without pyarrow.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ScoringError(
            f"The examples '{path}' have the suffix '{path.suffix}'.\n"
            "The suffix decides how they are read.\n"
            f"Use one of: {', '.join(SUFFIXES)}."
        )
    if path.exists() and not path.is_file():
        raise SourceError(f"The examples '{path}' are no ordinary file.\nGive a file: its suffix says how to read it.")
    try:
        size = path.stat().st_size
        text = path.read_text(encoding="utf-8-sig") if size <= LARGEST_FILE and suffix != ".parquet" else ""
    except OSError as error:
        raise SourceError(f"The examples '{path}' cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise SourceError(f"The examples '{path}' are not UTF-8 text: {error.reason} at byte {error.start}.") from error
    _require_few(path, size, LARGEST_FILE, "bytes")
    if suffix == ".parquet":
        return _read_parquet(path)
    marks = _MARKS[suffix]
    _require_few(path, sum(map(text.count, marks)), MOST_VALUES, "values")
    return _read_json(path, text, name) if "{" in marks else _read_separated(path, text, marks[0])


def _require_few(path: Path, held: int, most: int, unit: str) -> None:
    if held > most:
        raise SourceError(
            f"The examples '{path}' have {held:,} {unit}; no more than {most:,} are read.\n"
            "Weights are computed from a few examples, each by a run of every model.\nChoose some of them."
        )


def _parsed(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ScoringError(f"{what} is nested too deeply.") from error
    except ValueError as error:
        reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
        raise ScoringError(f"{what} is not valid JSON: {reason}.") from error


def task_in(tasks: Mapping[str, list[Any]], name: str | None, path: Path) -> list[Any]:
    """Return the examples of one task in a file of several. Raises ScoringError if none has that name."""
    if name is None or name not in tasks:
        raise ScoringError(
            f"The examples '{path}' are those of {len(tasks)} tasks"
            f"{f', and none of them is {name!r}' if name else ''}.\n"
            "Weights and figures are those of one task.\nChoose one with `weighting.name`, or "
            f"`cocktail eval --examples NAME={path.name}`. {did_you_mean(name or '', tasks)}"
        )
    return list(tasks[name])


def _read_json(path: Path, text: str, name: str | None) -> list[Any]:
    if path.suffix.lower() == ".json":
        try:
            value = _parsed(text, f"'{path}'")
        except ScoringError:
            if not text.lstrip().startswith("{") or "\n" not in text.strip():
                raise
        else:
            if isinstance(value, list):
                return value
            tasks = list(value.values()) if isinstance(value, dict) else []
            if tasks and all(isinstance(one, list) and one and isinstance(one[0], dict) for one in tasks):
                return task_in(value, name, path)
            keys = f" with the keys {', '.join(map(repr, list(value)[:8]))}" if isinstance(value, dict) else ""
            raise ScoringError(
                f"The examples '{path}' are a JSON {type(value).__name__}{keys}, not a list.\n"
                "One file has the examples of one task.\n"
                "Write a list of objects, one per example."
            )
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):  # not splitlines: a string may contain U+2028
        if line.strip():
            rows.append(_parsed(line, f"Line {number} of '{path}'"))
            if not isinstance(rows[-1], dict):
                raise ScoringError(f"Line {number} of '{path}' is not a JSON object: {line.strip()[:_MAX_SHOWN]}")
    return rows


def _read_separated(path: Path, text: str, delimiter: str) -> list[Any]:
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    found = []
    try:
        for row in rows:
            if None in row or None in row.values():
                raise ScoringError(
                    f"Line {rows.line_num} of '{path}' has another number of cells than the header.\n"
                    "It is not clear which cell belongs to which column.\n"
                    'Put texts that contain the separator, a quote or a line break in double quotes ("").'
                )
            cells: dict[str, Any] = dict(row)
            for column, cell in row.items():
                if cell.startswith("[") and cell.endswith("]"):
                    with suppress(ScoringError):  # a text that only looks like a list
                        value = _parsed(cell, column)
                        cells[column] = value if all(isinstance(item, str) for item in value) else cell
            found.append(cells)
    except csv.Error as error:
        raise ScoringError(f"Line {rows.line_num} of '{path}' cannot be read: {error}.") from error
    return found


def _read_parquet(path: Path) -> list[Any]:
    """Few rows at a time: a column has a value that it repeats only once, and can expand to any size."""
    from cocktail_hub.evaluation.prompts import MEMORY, limited_memory

    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise MissingExtraError.of("pyarrow", extra="parquet", purpose="read examples from a Parquet file") from error
    rows: list[Any] = []
    read = 0
    try:
        with limited_memory(MEMORY), parquet.ParquetFile(path) as file:  # what it says of sizes may be wrong
            _require_few(path, file.metadata.num_columns, _COLUMNS, "columns")
            groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
            columns = [group.column(number) for group in groups for number in range(group.num_columns)]
            _require_few(path, sum(column.num_values for column in columns), MOST_VALUES, "values")
            size = sum(column.total_uncompressed_size for column in columns)
            _require_few(path, size, LARGEST_FILE, "bytes once unpacked")
            for batch in file.iter_batches(batch_size=max(1, min(1000, LARGEST_FILE // max(1, size)))):
                some = batch.to_pylist()
                read += len(str(some))
                _require_few(path, read, LARGEST_FILE, "characters and more once unpacked")
                rows += some
    except SourceError:
        raise
    except MemoryError as error:
        raise SourceError(
            f"The examples '{path}' cannot be read as Parquet: they take over {MEMORY:,} bytes."
        ) from error
    except (ArrowException, OSError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise SourceError(f"The examples '{path}' cannot be read as Parquet: {error}") from error
    return rows


_MARKS = {".jsonl": "\n,[{", ".ndjson": "\n,[{", ".json": "\n,[{", ".csv": ",\n", ".tsv": "\t\n", ".parquet": ""}
"""Suffix of a file of examples -> what begins or ends a value in its text."""
SUFFIXES = tuple(_MARKS)
"""Suffixes of the files that examples are read from."""

"""Where the examples of a recipe lie: in it, beside it, on this machine, or in a dataset on the Hub."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from cocktail_hub.errors import RecipeError, SourceError
from cocktail_hub.hub import HubFiles
from cocktail_hub.recipe import canonical_json, is_path
from cocktail_hub.recipe.validation import plain
from cocktail_hub.storage.disk import sha256_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cocktail_hub.hub import Hub
    from cocktail_hub.recipe import Weighting
    from cocktail_hub.resolve.source import RecipeSource

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
"""Files that examples are read from."""
LARGEST_FILE = 256 << 20
"""In bytes. Shares are computed from a few examples; a larger file on the Hub is not downloaded for them."""
_NO_EXAMPLES = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""JSON files that describe a dataset."""


@dataclass(frozen=True, kw_only=True)
class ExamplesFound:
    """Examples at hand, not yet read or checked."""

    content: Path | tuple[Mapping[str, Any], ...]
    """A file on this machine, or the examples themselves."""
    source: str
    """What to call them: `inline`, the name of a file, or a dataset on the Hub and its file."""
    revision: str | None = None
    """Commit, where they come from the Hub."""

    @cached_property
    def digest(self) -> str:
        """Sha256 of the file, or of the examples as canonical JSON: 64 hex digits."""
        if isinstance(self.content, Path):
            return sha256_of(self.content)
        return hashlib.sha256(canonical_json(plain(self.content)).encode()).hexdigest()

    @property
    def on_hub(self) -> bool:
        """Whether they are a dataset, which others find where it is."""
        return self.source.startswith("datasets/")

    def to_dict(self) -> dict[str, str]:
        """Where they come from, for a recipe's evidence."""
        return {"source": self.source} | ({"revision": self.revision} if self.revision else {})


def locate_examples(weighting: Weighting, origin: RecipeSource, hub: Hub) -> ExamplesFound:
    """Find the examples of a recipe, and bring them onto this machine.

    A recipe from the Hub names files of its own repo or datasets on the Hub; it never reads files of this machine.

    Raises:
        SourceError: there is no such file or dataset, or it does not say which file holds the examples.
        RecipeError: a recipe from the Hub names a file of this machine.
    """
    examples = weighting.examples
    if not isinstance(examples, str):
        return ExamplesFound(content=tuple(examples or ()), source="inline")
    if isinstance(origin.files, HubFiles):
        return _in_repo(examples, weighting, origin, hub)
    path = Path(examples).expanduser()
    if path.is_file():
        return ExamplesFound(content=path, source=path.name)
    if path.suffix.lower() in SUFFIXES or is_path(examples):
        raise SourceError(
            f"There is no file of examples at '{examples}'.\nThe shares are computed from them.\n"
            "Give an existing path (relative to the recipe file), or a dataset on the Hub such as 'org/name'."
        )
    return _in_dataset(examples, weighting, hub)


def _in_repo(name: str, weighting: Weighting, origin: RecipeSource, hub: Hub) -> ExamplesFound:
    """Examples of a recipe on the Hub."""
    files = origin.files
    assert isinstance(files, HubFiles)  # noqa: S101 - the caller looked; for the type checker
    beside = str(PurePosixPath(origin.folder, name))
    if beside not in files.sizes and name in files.sizes:
        beside = name  # the recipe was read from the folder of a module; publishing puts examples into the root
    if beside in files.sizes and ".." not in PurePosixPath(name).parts:
        path = _small_file(files, beside)
        return ExamplesFound(content=path, source=f"{files.name}/{beside}", revision=files.commit)
    if is_path(name):
        raise RecipeError(
            f"The recipe '{origin.name}' names the examples '{name}', which are no file of its repo.\n"
            "A recipe from the Hub must not read the files of this machine.\n"
            "Its author can put them beside the recipe, write them into it, or name a dataset on the Hub."
        )
    if PurePosixPath(name).suffix.lower() in SUFFIXES:
        raise SourceError(
            f"The repo '{files.name}' has no file '{beside}', which its recipe names as its examples.\n"
            "The shares are computed from them.\nIts author can add the file, or name a dataset on the Hub."
        )
    return _in_dataset(name, weighting, hub)


def _in_dataset(name: str, weighting: Weighting, hub: Hub) -> ExamplesFound:
    """The one file of a Hub dataset that holds the examples."""
    commit = hub.resolve(name, weighting.revision, repo_type="dataset")
    files = hub.files(name, commit, repo_type="dataset")
    held = [p for p in files.sizes if p.lower().endswith(SUFFIXES) and PurePosixPath(p).name not in _NO_EXAMPLES]
    split = weighting.split
    fitting = [path for path in held if split is None or split in _splits_of(path)]
    chosen = [path for path in held if path == split] or fitting
    if len(chosen) != 1:
        raise SourceError(
            f"{len(chosen)} files of the dataset '{name}' fit{f' `split: {split}`' if split else ''}, but the examples "
            f"are in one.\nIt has these files: {', '.join(held) or 'none that examples can be read from'}.\n"
            "Name one of them, or its split, as `weighting.split`."
        )
    path = _small_file(files, chosen[0])
    return ExamplesFound(content=path, source=f"datasets/{name}/{chosen[0]}", revision=commit)


def _splits_of(path: str) -> list[str]:
    """Names of splits that a file may belong to: `data/train-00000-of-00001.parquet`, `train/part.jsonl`."""
    whole = PurePosixPath(path)
    return [*whole.parts[:-1], whole.stem, *whole.stem.split("-")]


def _small_file(files: HubFiles, path: str) -> Path:
    if files.sizes[path] > LARGEST_FILE:
        raise SourceError(
            f"'{path}' of '{files.name}' has {files.sizes[path]:,} bytes.\nShares are computed from a few examples; "
            f"no more than {LARGEST_FILE:,} bytes are downloaded for them.\nChoose a smaller file or a smaller dataset."
        )
    return files.path(path)

"""The folders that models of a recipe are loaded from, to be run on examples."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from cocktail_hub.merge.in_memory import mixed_in_memory
from cocktail_hub.merge.materialize import materialize
from cocktail_hub.merge.run import bytes_to_fetch
from cocktail_hub.merge.small_files import TOKENIZER_FILES, bring_code, copy_small_files, relocated, write_file
from cocktail_hub.recipe import canonical_json
from cocktail_hub.storage.cache import Cache
from cocktail_hub.storage.disk import require_free_space, sha256_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cocktail_hub.compat import CompatibilityReport
    from cocktail_hub.merge.options import MixOptions
    from cocktail_hub.recipe import Recipe


@contextmanager
def model_folder(index: int, report: CompatibilityReport, options: MixOptions) -> Iterator[Path]:
    """Download a model of a recipe, and write it out if its own library would not load it as it is."""
    require_free_space([(options.hub.cache_folder, bytes_to_fetch(report.models), "the downloads")])
    with staging_folder() as folder:
        code = report.code if options.trust_remote_code else None
        yield materialize(report.models[index], index, report.components, folder, code=code)


@contextmanager
def mix_folder(recipe: Recipe, report: CompatibilityReport, options: MixOptions) -> Iterator[Path]:
    """Merge the models of a report into memory, with the weights of a recipe."""
    with (
        staging_folder() as folder,
        mixed_in_memory(replace(report, recipe=recipe), options, folder) as found,
    ):
        yield found


@contextmanager
def staging_folder() -> Iterator[Path]:
    """An empty folder in the cache, where there is space for a model, and which the nodes of a cluster share."""
    parent = Cache().root / "staging"
    parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="scoring-", dir=parent, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def copy_tokenizer(
    report: CompatibilityReport, folder: Path, *, code: bool, index: int | None = None
) -> tuple[Path, str]:
    """Copy the small files of a mix into a folder; returns the tokenizer's folder, and what pins the tokenizer.

    `index`: of a model that reads with its own tokenizer, if its rows are not at the same places as the mix's.
    """
    main = report.models[report.first].main
    if index is None or report.tokens is None:
        copy_small_files(report, folder, code=code)
    else:
        model, folder = report.models[index], folder / f"tokenizer-{index}"
        main = model.main
        for opened in (model.body, model.located):
            for path in (*opened.model_files.carried, *(opened.model_files.code if code else ())):
                write_file(folder / relocated(path, opened.model_files.main, main), opened.files.read(path))
        for files in report.code.values() if code else ():
            bring_code(files, folder / main)
    tokenizer = {
        path.relative_to(folder).as_posix(): sha256_of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and any(fnmatchcase(path.name, pattern) for pattern in TOKENIZER_FILES)
    }
    return folder / main, canonical_json(tokenizer)

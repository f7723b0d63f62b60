"""Where a mix is written: the cache, or a folder of the user's. Either holds a complete mix or none."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cocktail_hub.errors import CacheError, CheckpointError, CocktailError, MergeError, RecipeError, SourceError
from cocktail_hub.merge.options import DEFAULT_SHARD_SIZE, MixOptions, parse_size
from cocktail_hub.recipe import Recipe, ResolvedRecipe, as_resolved
from cocktail_hub.resolve.source import RECIPE_FILE
from cocktail_hub.storage.cache import JOURNAL, MANIFEST, Cache, CachedMix, remove, write_manifest
from cocktail_hub.storage.disk import require_free_space, size_of, sync_folder, sync_tree

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence


_DIGITS = 16
"""Digits of the recipe's digest in names beside the user's folder: file systems limit the length of a name."""
_INDEX = ".safetensors.index.json"
_RETRYABLE = (MergeError, SourceError, CheckpointError)
"""After these, the same command may succeed: once there is space, or the disk or the network is back."""


@dataclass(frozen=True, kw_only=True)
class OutputFolder:
    """The cache, or a folder of the user's."""

    options: MixOptions
    """How the mix is made."""
    output: Path | None
    """The user's folder; `None` for the cache."""
    cache: Cache = field(default_factory=Cache)
    """The cache; its locks serve both."""

    def key(self, resolved: ResolvedRecipe) -> str:
        """Name of the mix in the cache: its digest, and what else makes its files differ.

        Mixes that may carry custom code are kept apart: only callers who trust that code get them.
        """
        size = self.options.shard_bytes
        cut = "" if size == parse_size(DEFAULT_SHARD_SIZE) else f"-{size}"
        code = "-".join(["-code", *(commit[:_DIGITS] for commit in sorted(resolved.code.values()))])
        return resolved.digest + cut + (code if self.options.trust_remote_code else "")

    def _short_key(self, resolved: ResolvedRecipe) -> str:
        return self.key(resolved).replace(resolved.digest, resolved.digest[:_DIGITS])

    def find(self, resolved: ResolvedRecipe) -> Path | None:
        """The finished mix in this folder, copied from the cache if need be; `None` if it has to be made."""
        if self.options.force or self.options.hub.force_download:
            return None
        found = self.cache.find(self.key(resolved))
        if self.output is None:
            return found.path if found else None
        if found is None and not self._holds(self.output, resolved):
            return None
        with self._folder_lock(self.output):
            if found is not None and not self._holds(self.output, resolved):
                copy_out(found.path, self.output, cache=self.cache, replace=self.options.replace)
            self._remove_leftovers(self.output)
        return self.output

    def require(self) -> None:
        """Raise CacheError unless the mix can be written to the user's folder."""
        if self.output is not None:
            require_place(self.output, replace=self.options.replace)

    @contextmanager
    def locked(self, resolved: ResolvedRecipe) -> Iterator[None]:
        """Hold the lock of the staging folder. Raises CacheError, also where `require` does."""
        self.require()
        with self.cache.locked(self.key(resolved) if self.output is None else self._short_key(resolved)):
            yield

    def stage_path(self, resolved: ResolvedRecipe) -> Path:
        """The folder to work in, on the same disk as the result.

        Beside a user's folder its name has the identity of our cache: our locks do not bind users of other caches.
        """
        if self.output is None:
            return self.cache.root / "staging" / self.key(resolved)
        output = self.output.resolve()
        return output.with_name(f".{output.name}.{self._short_key(resolved)}.{self.cache.identity}.partial")

    @contextmanager
    def stage(self, resolved: ResolvedRecipe, files: Collection[str]) -> Iterator[Path]:
        """Work in the staging folder. After an error that a retry may get past, finished shards are kept in it.

        Args:
            resolved: the mix.
            files: paths that an earlier run may have left to continue from; all others, such as those of another
                version or of a caller who trusts other code, are removed.
        """
        stage = self.stage_path(resolved)
        with _write_errors(stage.parent):
            stage.mkdir(parents=True, exist_ok=True)
            for path in sorted(stage.rglob("*"), reverse=True):  # the content of a folder before the folder
                if path.is_dir() and not path.is_symlink():
                    with suppress(OSError):  # not empty
                        path.rmdir()
                elif path.relative_to(stage).as_posix() not in files:
                    path.unlink()
        try:
            yield stage
        except BaseException as error:
            hopeless = isinstance(error, CocktailError) and not isinstance(error, _RETRYABLE)
            if hopeless or not any(stage.rglob("*.safetensors")):
                shutil.rmtree(stage, ignore_errors=True)
            raise

    def finish(self, resolved: ResolvedRecipe, hashes: Mapping[str, str] | None, notes: Sequence[str] = ()) -> Path:
        """Turn the staging folder into the result, in one step. The caller holds the lock.

        Args:
            resolved: the mix.
            hashes: for `write_manifest`; `None` if the folder has its manifest already.
            notes: for `write_manifest`.
        """
        if self.output is None:
            return self.cache.finish(self.key(resolved), hashes, self.options.max_shard_size, notes).path
        stage = self.stage_path(resolved)
        with self._folder_lock(self.output), _write_errors(self.output):
            if hashes is not None:
                write_manifest(stage, hashes, self.options.max_shard_size, notes)
            self.require()
            (stage / JOURNAL).unlink(missing_ok=True)
            _move(stage, self.output)
            self._remove_leftovers(self.output)
        return self.output

    def adopt_finished(self, resolved: ResolvedRecipe) -> Path | None:
        """Finish the mix of a run that was killed between writing the manifest and renaming the staging folder.

        The caller holds the lock.
        """
        return self.finish(resolved, None) if self._holds(self.stage_path(resolved), resolved) else None

    def _holds(self, folder: Path, resolved: ResolvedRecipe) -> bool:
        """Whether a folder is this mix, undamaged, in weight files of the requested size."""
        found = CachedMix(digest=resolved.digest, path=folder)
        if not (folder / MANIFEST).is_file() or not (folder / RECIPE_FILE).is_file() or found.damage():
            return False
        try:
            if as_resolved(Recipe.from_dict(found.recipe)).digest != resolved.digest:
                return False
        except (RecipeError, CacheError):  # written by another version, or by hand
            return False
        size = self.options.shard_bytes
        return cut_size(found) == size or not any(
            name.endswith(_INDEX) or (name.endswith(".safetensors") and entry["size"] > size)
            for name, entry in found.manifest.items()
        )

    @contextmanager
    def _folder_lock(self, output: Path) -> Iterator[None]:
        """Let one process at a time replace a folder. A read-only cache cannot hold that lock; then nothing does."""
        name = hashlib.sha256(os.fsencode(os.path.normcase(output.resolve()))).hexdigest()[:_DIGITS]
        with ExitStack() as stack:
            with suppress(CacheError):
                stack.enter_context(self.cache.locked(f"folder-{name}"))
            yield

    def _remove_leftovers(self, output: Path) -> None:
        """Remove what killed processes left beside a finished folder, unless a process is working in it."""
        output = output.resolve()
        left = rf"(?:([0-9a-f]{{{_DIGITS}}}[\w-]*)|copy)\.{self.cache.identity}\.partial|removed-[0-9a-f]{{8}}"
        for path in output.parent.iterdir():
            if found := re.fullmatch(rf"\.{re.escape(output.name)}\.(?:{left})", path.name):
                key = found[1]  # none in the name of a copy, or of a mix whose removal was interrupted
                with suppress(CacheError), self.cache.locked(key, wait=False) if key else nullcontext(True) as free:
                    if free:
                        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _write_errors(folder: Path) -> Iterator[None]:
    """Translate an OSError of writing to a folder."""
    try:
        yield
    except CocktailError:  # some are OSErrors, and are translated already
        raise
    except OSError as error:
        raise MergeError(
            f"Cannot write to '{folder}': {error.strerror or error}.\nThe mix cannot be finished.\n"
            "Choose another output folder, or make this one writable; COCKTAIL_HUB_CACHE sets the folder of the cache."
        ) from error


def cut_size(mix: CachedMix) -> int:
    """The maximum bytes of a weight file that a mix was made with."""
    return parse_size(mix.max_shard_size or DEFAULT_SHARD_SIZE)


def require_place(folder: Path, *, replace: bool) -> None:
    """Refuse a folder that a mix cannot or must not take the place of; with `replace` it may be an earlier mix.

    Raises:
        CacheError: the folder is a mount point or the working directory, or has files that no mix wrote.
    """
    current, mounted = False, os.path.ismount(folder.resolve())
    with suppress(OSError):  # one of them does not exist
        current = folder.samefile(Path.cwd())
    if mounted or current:
        raise CacheError(
            f"'{folder}' is {'a mount point' if mounted else 'the current working directory'}.\n"
            "A mix is made beside its folder and then takes its place in one step, which is not possible there.\n"
            f"Name a folder inside it: '{folder / 'mix'}'."
        )
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not replace:
        raise CacheError(
            f"'{folder}' exists and is not empty.\nIts files would be mixed up with those of the mix.\n"
            "Choose a new folder, or remove this one first; `--force` (`replace=True`) replaces an earlier mix."
        )
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    with suppress(CacheError):  # not a mix, so all of its files are foreign
        found -= {MANIFEST, *CachedMix(digest="", path=folder).manifest}
    if found or not folder.is_dir():
        raise CacheError(
            f"'{folder}' is not only an earlier mix{': ' + ', '.join(sorted(found)[:3]) if found else ''}.\n"
            "Writing the mix there would destroy it.\nChoose a new folder, or move these files away first."
        )


def _move(stage: Path, target: Path) -> None:
    """Rename a finished folder, in place of an earlier mix or an empty folder."""
    target = target.resolve()
    if (target / MANIFEST).is_file():
        remove(target)
    elif target.is_dir():
        target.rmdir()
    stage.rename(target)
    sync_folder(target.parent)


def copy_out(source: Path, target: Path, *, cache: Cache | None = None, replace: bool = False) -> Path:
    """Copy a finished mix in one step; with `replace` in place of an earlier mix."""
    require_place(target, replace=replace)
    require_free_space([(target, size_of(source), "the copy")])
    output = target.resolve()
    copy = output.with_name(f".{output.name}.copy.{(cache or Cache()).identity}.partial")
    shutil.rmtree(copy, ignore_errors=True)
    try:
        with _write_errors(target):
            for path in (source, *sorted(source.rglob("*"))):
                if path.is_dir():  # created, not copied with its permissions: a shared cache may be read-only
                    (copy / path.relative_to(source)).mkdir(parents=True)
                else:
                    shutil.copyfile(path, copy / path.relative_to(source))
            sync_tree(copy)
            _move(copy, target)
    except BaseException:
        shutil.rmtree(copy, ignore_errors=True)
        raise
    return target

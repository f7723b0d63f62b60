"""Where a mix goes: the cache, or a folder of the user's. A place holds a whole mix or none."""

from __future__ import annotations

import shutil
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cocktail_hub.cache import MANIFEST, Cache, CachedMix, remove, write_manifest
from cocktail_hub.errors import CacheError, CocktailError, MergeError, SourceError
from cocktail_hub.options import DEFAULT_SHARD_SIZE, MixOptions, parse_size
from cocktail_hub.origin import RECIPE_FILE
from cocktail_hub.recipe import Recipe, ResolvedRecipe, as_resolved
from cocktail_hub.space import require_room, size_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@dataclass(frozen=True, kw_only=True)
class Place:
    """The cache, or a folder of the user's."""

    options: MixOptions
    """How the mix is made."""
    output: Path | None
    """The user's folder; `None` for the cache."""
    cache: Cache = field(default_factory=Cache)
    """The cache; it has the locks for both."""

    def key(self, resolved: ResolvedRecipe) -> str:
        """Name of the mix in the cache; a mix cut into other files has another one."""
        size = self.options.shard_bytes
        return resolved.digest if size == parse_size(DEFAULT_SHARD_SIZE) else f"{resolved.digest}-{size}"

    def find(self, resolved: ResolvedRecipe) -> Path | None:
        """The finished mix, where it is wanted."""
        if self.options.force or self.options.hub.force_download:
            return None
        found = self.cache.find(self.key(resolved))
        if self.output is None:
            return found.path if found else None
        if _holds(self.output, resolved):
            return self.output
        if found is None:
            return None
        if self.options.replace:
            require_own(self.output)
            _clear(self.output)
        return copy_out(found.path, self.output)

    @contextmanager
    def held(self, resolved: ResolvedRecipe) -> Iterator[None]:
        """Hold the lock of the mix, after making sure that the result will have a place."""
        if self.output is not None:
            (require_own if self.options.replace else _require_free)(self.output)
        with self.cache.locked(self.key(resolved)):
            yield

    def stage_path(self, resolved: ResolvedRecipe) -> Path:
        """The folder to work in: on the same disk as the result."""
        if self.output is None:
            return self.cache.root / "staging" / self.key(resolved)
        return self.output.absolute().with_name(f".{self.output.name}.{resolved.digest[:16]}.partial")

    @contextmanager
    def stage(self, resolved: ResolvedRecipe) -> Iterator[Path]:
        """Work in the staging folder. What is finished in it is kept, unless the fault lies with the models."""
        stage = self.stage_path(resolved)
        with _writing(stage.parent):
            stage.mkdir(parents=True, exist_ok=True)
        try:
            yield stage
        except BaseException as error:
            if isinstance(error, CocktailError) and not isinstance(error, (MergeError, SourceError)):
                shutil.rmtree(stage, ignore_errors=True)  # trying again would fail again
            with suppress(OSError):
                stage.rmdir()  # nothing was finished
            raise

    def finish(self, resolved: ResolvedRecipe, hashes: Mapping[str, str]) -> Path:
        """Turn the working folder into the result, in one step."""
        if self.output is None:
            return self.cache.finish(self.key(resolved), dict(hashes)).path
        stage = self.stage_path(resolved)
        with _writing(self.output):
            write_manifest(stage, dict(hashes))
            _clear(self.output)
            stage.rename(self.output)
        return self.output


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Say what it means when a folder cannot be written."""
    try:
        yield
    except CocktailError:  # some are OSErrors, and say what they mean
        raise
    except OSError as error:
        raise MergeError(
            f"Cannot write to '{folder}': {error.strerror or error}.\nThe mix has no place to go.\n"
            "Choose another output folder, or make this one writable; the cache is moved by COCKTAIL_HUB_CACHE."
        ) from error


def _holds(folder: Path, resolved: ResolvedRecipe) -> bool:
    """Whether a folder is this very mix, undamaged."""
    found = CachedMix(digest=resolved.digest, path=folder)
    if not (folder / MANIFEST).is_file() or not (folder / RECIPE_FILE).is_file():
        return False
    return as_resolved(Recipe.from_dict(found.recipe)).digest == resolved.digest and not found.damage()


def _require_free(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CacheError(
            f"'{folder}' exists and is not empty.\nWriting a mix into it could mix it up with what is there.\n"
            "Choose a new folder, or remove this one first."
        )


def require_own(folder: Path) -> None:
    """Refuse a place that holds anything but an earlier mix.

    Raises:
        CacheError: something is there that no mix wrote; names it.
    """
    if not folder.exists():
        return
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} if folder.is_dir() else set()
    foreign = sorted(found - _written(folder))
    if not folder.is_dir() or foreign:
        raise CacheError(
            f"'{folder}' holds something else than an earlier mix{': ' + ', '.join(foreign[:3]) if foreign else ''}.\n"
            "Writing the mix there would destroy it.\nChoose a new folder, or move these files away first."
        )


def _written(folder: Path) -> set[str]:
    """The files that an earlier mix wrote into a folder; none where it has no list of them."""
    try:
        return {MANIFEST, *CachedMix(digest="", path=folder).manifest}
    except CacheError:
        return set()


def _clear(folder: Path) -> None:
    """Make room for the result: an earlier mix, or an empty folder."""
    if (folder / MANIFEST).is_file():
        remove(folder)
    elif folder.is_dir():
        folder.rmdir()


def copy_out(source: Path, target: Path) -> Path:
    """Copy a finished mix, so that the target is there whole or not at all."""
    _require_free(target)
    require_room([(target, size_of(source), "the copy")])
    partial = target.absolute().with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        shutil.copytree(source, partial)
        if target.is_dir():
            target.rmdir()
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return target

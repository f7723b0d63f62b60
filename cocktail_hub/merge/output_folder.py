"""Where a mix goes: the cache, or a folder of the user's. A place holds a whole mix or none."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.checkpoint.model_files import read_config, read_modules
from cocktail_hub.errors import CacheError, CheckpointError, CocktailError, MergeError, RecipeError, SourceError
from cocktail_hub.merge.options import DEFAULT_SHARD_SIZE, MixOptions, parse_size
from cocktail_hub.recipe import Recipe, ResolvedRecipe, as_resolved
from cocktail_hub.resolve.source import RECIPE_FILE
from cocktail_hub.storage.cache import JOURNAL, MANIFEST, Cache, CachedMix, remove, write_manifest
from cocktail_hub.storage.disk import require_free_space, size_of, sync_folder, sync_tree

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from cocktail_hub.checkpoint.files import RepoFiles

_DIGITS = 16
"""Of a digest, in names beside the user's folder: a name has a greatest length."""
_REST = 64 - _DIGITS
_INDEX = ".safetensors.index.json"
_TRUSTED = "-code"
"""End of the name of a mix whose maker trusts the models' own code: nobody else is given it."""
_PASSING = (MergeError, SourceError, CheckpointError)
"""After these, the same command may succeed: when there is room, when a disk or the network is back."""


@dataclass(frozen=True, kw_only=True)
class OutputFolder:
    """The cache, or a folder of the user's."""

    options: MixOptions
    """How the mix is made."""
    output: Path | None
    """The user's folder; `None` for the cache."""
    cache: Cache = field(default_factory=Cache)
    """The cache; it has the locks for both."""

    def key(self, resolved: ResolvedRecipe) -> str:
        """Name of the mix in the cache; one that is cut into other files, or may carry code, has another one."""
        size = self.options.shard_bytes
        cut = "" if size == parse_size(DEFAULT_SHARD_SIZE) else f"-{size}"
        return resolved.digest + cut + (_TRUSTED if self.options.trust_remote_code else "")

    def find(self, resolved: ResolvedRecipe) -> Path | None:
        """The finished mix, where it is wanted."""
        if self.options.force or self.options.hub.force_download:
            return None
        found = self.cache.find(self.key(resolved))
        if self.output is None:
            return found.path if found else None
        if self._holds(self.output, resolved):
            self._tidy(self.output)
            return self.output
        return self._copied(found.path, resolved, self.output) if found else None

    def _copied(self, source: Path, resolved: ResolvedRecipe, output: Path) -> Path:
        """The mix of the cache in the user's folder."""
        with self._alone(output):
            if not self._holds(output, resolved):  # another process may have been quicker
                copy_out(source, output, cache=self.cache, replace=self.options.replace)
            self._tidy(output)
        return output

    def require(self) -> None:
        """Make sure that the result will have a place. Raises CacheError."""
        if self.output is not None:
            self._require_place(self.output)

    @contextmanager
    def locked(self, resolved: ResolvedRecipe) -> Iterator[None]:
        """Hold the lock of the mix, after making sure that the result will have a place."""
        self.require()
        with self.cache.locked(self.key(resolved)):
            yield

    def stage_path(self, resolved: ResolvedRecipe) -> Path:
        """The folder to work in: on the same disk as the result. One beside a user's folder is named after our cache.

        Our locks are in the cache, so they keep nobody else from that folder: users of other caches work in others.
        """
        if self.output is None:
            return self.cache.root / "staging" / self.key(resolved)
        short = self.key(resolved).replace(resolved.digest, resolved.digest[:_DIGITS])
        output = _real(self.output)
        return output.with_name(f".{output.name}.{short}.{self.cache.identity}.partial")

    @contextmanager
    def stage(self, resolved: ResolvedRecipe, files: Collection[str]) -> Iterator[Path]:
        """Work in the staging folder. What is finished in it is kept, unless the fault lies with the models.

        Args:
            resolved: what is made.
            files: paths that an earlier run may have left to go on with; any others are removed.
        """
        stage = self.stage_path(resolved)
        with _writing(stage.parent):
            stage.mkdir(parents=True, exist_ok=True)
            _keep_only(stage, files)
        try:
            yield stage
        except BaseException as error:
            hopeless = isinstance(error, CocktailError) and not isinstance(error, _PASSING)
            if hopeless or not any(stage.rglob("*.safetensors")):
                shutil.rmtree(stage, ignore_errors=True)
            raise

    def finish(self, resolved: ResolvedRecipe, hashes: Mapping[str, str]) -> Path:
        """Turn the working folder into the result, in one step. The caller holds the lock."""
        if self.output is None:
            return self.cache.finish(self.key(resolved), dict(hashes)).path
        with _writing(self.output):
            write_manifest(self.stage_path(resolved), dict(hashes))
        return self._publish(resolved, self.output)

    def adopt_finished(self, resolved: ResolvedRecipe) -> Path | None:
        """The mix of a run that was killed between the last file and the final name, which it gets now.

        The caller holds the lock.
        """
        if not self._holds(self.stage_path(resolved), resolved):
            return None
        if self.output is None:
            return self.cache.publish(self.key(resolved)).path
        return self._publish(resolved, self.output)

    def _publish(self, resolved: ResolvedRecipe, output: Path) -> Path:
        """Give a working folder that has its manifest the user's name."""
        stage = self.stage_path(resolved)
        with self._alone(output), _writing(output):
            self._require_place(output)
            (stage / JOURNAL).unlink(missing_ok=True)
            _clear(_real(output))
            stage.rename(_real(output))
            sync_folder(stage.parent)
            self._tidy(output)
        return output

    def _holds(self, folder: Path, resolved: ResolvedRecipe) -> bool:
        """Whether a folder is this very mix, undamaged, in weight files of the size that is asked for."""
        found = CachedMix(digest=resolved.digest, path=folder)
        if not (folder / MANIFEST).is_file() or not (folder / RECIPE_FILE).is_file() or found.damage():
            return False
        try:
            if as_resolved(Recipe.from_dict(found.recipe)).digest != resolved.digest:
                return False
        except (RecipeError, CacheError):  # written by another version, or by hand
            return False
        size = self.options.shard_bytes
        return cut_size(LocalFiles(folder)) == size or not any(
            n.endswith(_INDEX) or s > size for n, s in _weight_files(found)
        )

    def _require_place(self, output: Path) -> None:
        """Refuse a folder that the mix must not take the place of."""
        _require_movable(output)
        (require_own if self.options.replace else _require_free)(output)

    @contextmanager
    def _alone(self, output: Path) -> Iterator[None]:
        """Let one process at a time give a folder its content. A cache that can only be read has no locks for that."""
        name = hashlib.sha256(os.fsencode(os.path.normcase(_real(output)))).hexdigest()[:_DIGITS]
        with ExitStack() as stack:
            with suppress(CacheError):
                stack.enter_context(self.cache.locked(f"folder-{name}"))
            yield

    def _tidy(self, output: Path) -> None:
        """Remove what our killed runs left beside a folder that is finished now, but for work that still goes on."""
        output, end, own = _real(output), rf"(?:-\d+)?(?:{_TRUSTED})?", _identity(self.cache)
        left = rf"((([0-9a-f]{{{_DIGITS}}})({end})\.)?{own}\.partial|removed-[0-9a-f]{{8}})"
        name = rf"\.{re.escape(output.name)}\.{left}"
        for path in output.parent.iterdir():
            if found := re.fullmatch(name, path.name):
                act = partial(shutil.rmtree, path, ignore_errors=True)
                lock = found[3] and self._lock_of(found[3], found[4])
                with suppress(CacheError):
                    self.cache.if_free(lock, act) if lock else act()

    def _lock_of(self, digits: str, end: str) -> str | None:
        """Name of the lock of a working folder, in whose own name there is room for the first digits only."""
        names = (path.stem for path in (self.cache.root / "locks").glob(f"{digits}*.lock"))
        return next((name for name in names if re.fullmatch(rf"{digits}[0-9a-f]{{{_REST}}}{end}", name)), None)


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


def cut_size(files: RepoFiles, folder: str = "") -> int:
    """The largest size of a weight file that a mix was made with, in bytes; its config may lie with a module.

    Raises:
        CheckpointError: a config is damaged.
    """
    for place in (folder, *(str(PurePosixPath(folder, str(module["path"]))) for module in read_modules(files))):
        marked = read_config(files, "" if place == "." else place).get("cocktail")
        if isinstance(marked, dict) and "max_shard_size" in marked:
            return parse_size(marked["max_shard_size"])
    return parse_size(DEFAULT_SHARD_SIZE)


def _weight_files(mix: CachedMix) -> list[tuple[str, int]]:
    """Names and sizes of the weight files, and of what says that there are several."""
    return [(name, entry["size"]) for name, entry in mix.manifest.items() if name.endswith((".safetensors", _INDEX))]


def _real(folder: Path) -> Path:
    """The folder that a name stands for, which may lead through links."""
    return Path(os.path.realpath(folder))


def _keep_only(folder: Path, files: Collection[str]) -> None:
    """Remove everything else from a working folder: by another version, or by a caller who trusts other code."""
    for path in sorted(folder.rglob("*"), reverse=True):  # what is inside of a folder before the folder
        if path.is_dir() and not path.is_symlink():
            with suppress(OSError):  # not empty
                path.rmdir()
        elif path.relative_to(folder).as_posix() not in files:
            path.unlink()


def _require_movable(folder: Path) -> None:
    """Refuse a folder that no other can take the place of.

    Raises:
        CacheError: it is where a disk is mounted, or where this process works.
    """
    mounted = os.path.ismount(_real(folder))
    if mounted or _is_current(folder):
        raise CacheError(
            f"'{folder}' is {'where a disk is mounted' if mounted else 'the folder that you work in'}.\n"
            "A mix is made beside its folder and takes its place in one step, which is not possible there.\n"
            f"Name a folder inside of it: '{folder / 'mix'}'."
        )


def _is_current(folder: Path) -> bool:
    try:
        return folder.samefile(Path.cwd())
    except OSError:  # one of them is not there
        return False


def _require_free(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CacheError(
            f"'{folder}' exists and is not empty.\nWriting a mix into it could mix it up with what is there.\n"
            "Choose a new folder, or remove this one first; `--force` (`replace=True`) replaces an earlier mix."
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


def copy_out(source: Path, target: Path, *, cache: Cache | None = None, replace: bool = False) -> Path:
    """Copy a finished mix, so that the target is there whole or not at all; `replace`: in place of an earlier mix."""
    _require_movable(target)
    (require_own if replace else _require_free)(target)
    require_free_space([(target, size_of(source), "the copy")])
    real = _real(target)
    copy = real.with_name(f".{real.name}.{_identity(cache or Cache())}.partial")
    shutil.rmtree(copy, ignore_errors=True)
    try:
        with _writing(target):
            _copy_content(source, copy)
            sync_tree(copy)
            _clear(real)
            copy.rename(real)
            sync_folder(real.parent)
    except BaseException:
        shutil.rmtree(copy, ignore_errors=True)
        raise
    return target


def _identity(cache: Cache) -> str:
    """What tells a cache from others; one that is empty and read-only has nothing to mistake for that of others."""
    try:
        return cache.identity
    except CacheError:
        return f"{os.getpid():08x}"


def _copy_content(source: Path, target: Path) -> None:
    """Copy a folder, but not who may write it: a cache that others keep may be read-only."""
    target.mkdir(parents=True)
    for path in sorted(source.rglob("*")):
        copy = target / path.relative_to(source)
        if path.is_dir():
            copy.mkdir()
        else:
            shutil.copyfile(path, copy)

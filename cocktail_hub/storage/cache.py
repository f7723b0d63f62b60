"""Finished mixes on disk, by digest. A folder that is there is complete; there is no third state."""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from huggingface_hub import constants

from cocktail_hub.errors import CacheError, CocktailError
from cocktail_hub.storage.disk import FORBIDDEN, FULL, HASHES, QUICK, hash_of, sync_folder, sync_tree, write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

logger = logging.getLogger(__name__)

MANIFEST = ".cocktail.json"
"""In a finished folder: its files with sizes and hashes, so that damage is noticed."""
JOURNAL = ".cocktail-merge.json"
"""In a working folder: its finished weight files, until the manifest says so."""
RECIPE = "recipe.json"
"""In a finished folder: the resolved recipe that it was made from."""
IDENTITY = "identity"
"""Beside the locks: what tells their cache from others."""
LEFTOVER_AGE = 86_400.0
"""Seconds after which a working folder that nobody holds a lock on counts as left behind."""
_DIGEST_DIGITS = 64


def cache_root() -> Path:
    """`COCKTAIL_HUB_CACHE`, or our folder among the assets of huggingface_hub (`HF_HOME/assets/cocktail_hub`)."""
    chosen = os.environ.get("COCKTAIL_HUB_CACHE")
    return Path(chosen).expanduser() if chosen else Path(constants.HF_ASSETS_CACHE) / "cocktail_hub"


@dataclass(frozen=True, kw_only=True)
class CachedMix:
    """One finished mix in the cache."""

    digest: str
    """Digest of the resolved recipe: 64 hex digits; with a suffix where the files are cut otherwise."""
    path: Path
    """The checkpoint folder."""

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """Path -> size in bytes and hash (`xxh128`; `sha256` in early mixes), for every file of the mix.

        Raises:
            CacheError: it is missing or damaged.
        """
        files = self._read(MANIFEST).get("files")
        whole = isinstance(files, dict) and all(
            isinstance(entry, dict) and "size" in entry and HASHES.keys() & entry.keys() for entry in files.values()
        )
        if not isinstance(files, dict) or not whole:
            raise self._unreadable(MANIFEST, "it is no list of files with size and hash")
        return files

    @cached_property
    def nbytes(self) -> int:
        """Bytes that the folder takes."""
        return sum(_size(Path(place, name)) for place, _, names in os.walk(self.path) for name in names)

    @property
    def recipe(self) -> dict[str, Any]:
        """The resolved recipe as JSON.

        Raises:
            CacheError: it is missing or damaged.
        """
        return self._read(RECIPE)

    @property
    def last_used(self) -> float:
        """Seconds since the epoch when the mix was last asked for; 0 for one that is going away at this moment."""
        for path in (self.path / MANIFEST, self.path):
            with suppress(FileNotFoundError):
                return path.stat().st_mtime
        return 0.0

    def damage(self, *, thorough: bool = False) -> list[str]:
        """What is wrong with the files, a line each: missing, of another size, or (thorough) of other content."""
        try:
            entries = self.manifest.items()
        except CacheError as error:
            return [str(error).splitlines()[0]]
        found = (self._damage_of(name, entry, thorough=thorough) for name, entry in entries)
        return [line for line in found if line]

    def _damage_of(self, name: str, entry: dict[str, Any], *, thorough: bool) -> str:
        path = self.path / name
        try:
            if not path.is_file():
                return f"{name} is missing"
            if (size := path.stat().st_size) != entry["size"]:
                return f"{name} has {size} bytes instead of {entry['size']}"
            differs = thorough and any(hash_of(path, kind) != entry[kind] for kind in HASHES.keys() & entry.keys())
        except OSError as error:
            return f"{name} cannot be read: {error}"
        return f"{name} has other content than was written" if differs else ""

    def _read(self, name: str) -> dict[str, Any]:
        try:
            value = json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise self._unreadable(name, str(error)) from error
        if not isinstance(value, dict):
            raise self._unreadable(name, "it is no JSON mapping")
        return value

    def _unreadable(self, name: str, why: str) -> CacheError:
        return CacheError(
            f"'{name}' of the mix in '{self.path}' cannot be read: {why}.\nSomething changed the folder after it was "
            "finished.\nDelete that folder; the mix is made again when it is asked for."
        )


class Cache:
    """The folder that holds finished mixes, work in progress, and locks."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or cache_root()
        """Where everything lies."""

    @property
    def identity(self) -> str:
        """Eight hex digits that no other cache has, not even one of the same name on another machine.

        Raises:
            CacheError: the cache has none yet and cannot be written.
        """
        path = self.root / "locks" / IDENTITY
        if not path.is_file():
            with self.locked(IDENTITY), in_words(self.root):
                if not path.is_file():
                    write_atomically(path, secrets.token_hex(4), sync=False)
        with in_words(self.root):
            return path.read_text(encoding="ascii")

    def folder(self, digest: str) -> Path:
        """Where the mix of a resolved recipe is, or will be."""
        return self.root / "mixes" / digest

    def find(self, digest: str) -> CachedMix | None:
        """The finished mix, if it is there and its files are as they were written.

        A damaged folder counts as absent, but stays: somebody may be reading it. `finish` puts a new one in its place.
        """
        mix = CachedMix(digest=digest, path=self.folder(digest))
        if not mix.path.is_dir():
            return None
        if damage := mix.damage():
            logger.warning("The cached mix in '%s' is damaged (%s); it is made again.", mix.path, damage[0])
            return None
        with suppress(OSError):  # a cache that others keep may be read-only; then it is pruned by them
            os.utime(mix.path / MANIFEST)
        return mix

    @contextmanager
    def locked(self, digest: str) -> Iterator[None]:
        """Hold the lock of a mix: of two processes that want the same, one works and the other waits.

        Raises:
            CacheError: the cache cannot be written.
        """
        lock = self._lock(digest)
        with in_words(self.root):
            try:
                lock.acquire(timeout=0)
            except Timeout:
                logger.info("Another process is making the mix %s; waiting for it.", digest[:12])
                lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def staging(self, digest: str) -> Path:
        """The folder of a mix in the making; kept when the work is interrupted, so that it goes on from there.

        Raises:
            CacheError: the cache cannot be written.
        """
        stage = self.root / "staging" / digest
        with in_words(self.root):
            stage.mkdir(parents=True, exist_ok=True)
        return stage

    def finish(self, digest: str, hashes: dict[str, str]) -> CachedMix:
        """Turn the staging folder into a finished mix: manifest, fsync, `publish`. The caller holds the lock.

        Args:
            digest: of the resolved recipe.
            hashes: XXH3-128, in hex, of the files whose hash is known already and that are on the disk, by path.

        Raises:
            CacheError: the cache cannot be written; what is in the staging folder is kept.
        """
        with in_words(self.root):
            write_manifest(self.staging(digest), hashes)
        return self.publish(digest)

    def publish(self, digest: str) -> CachedMix:
        """Give a staging folder that has its manifest the final name. Raises CacheError. The caller holds the lock."""
        stage, target = self.staging(digest), self.folder(digest)
        with in_words(self.root):
            (stage / JOURNAL).unlink(missing_ok=True)
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                remove(target)
            stage.rename(target)
            sync_folder(target.parent)
        return CachedMix(digest=digest, path=target)

    def mixes(self) -> list[CachedMix]:
        """Every finished mix, most recently used first."""
        folders = [path for path in _inside(self.root / "mixes") if path.is_dir() and not path.name.startswith(".")]
        found = [CachedMix(digest=path.name, path=path) for path in folders]
        return sorted(found, key=lambda mix: mix.last_used, reverse=True)

    def leftovers(self) -> list[Path]:
        """Folders of merges that were interrupted and not taken up again, and mixes that were removed by half."""
        removed = (path for path in _inside(self.root / "mixes") if path.name.startswith("."))
        return sorted([*_inside(self.root / "staging"), *removed])

    def prune(self, *, older_than: float | None = None, max_bytes: int | None = None) -> list[CachedMix]:
        """Remove mixes that were not used for `older_than` seconds, and those that do not fit into `max_bytes`.

        Room goes to the mixes that were used last.

        A mix that somebody is making or replacing just now stays. What interrupted merges have left goes, too, when
        nobody has touched it for `older_than` seconds; where that is not given, for a day.

        Returns:
            The mixes that were removed.

        Raises:
            CacheError: the cache cannot be written.
        """
        self.prune_leftovers(older_than=LEFTOVER_AGE if older_than is None else older_than)
        doomed, kept = [], 0
        for mix in self.mixes():
            too_old = older_than is not None and time.time() - mix.last_used > older_than
            if too_old or (max_bytes is not None and kept + mix.nbytes > max_bytes):
                doomed.append(mix)
            else:
                kept += mix.nbytes
        return [mix for mix in doomed if self._removed(mix)]

    def prune_leftovers(self, *, older_than: float = LEFTOVER_AGE) -> list[Path]:
        """Remove what interrupted work has left and nobody has touched for `older_than` seconds.

        Folders that no lock tells to be in use are kept for a day, whatever `older_than` says.

        Returns:
            The folders that were removed.
        """
        return [path for path in self.leftovers() if self._abandoned(path, older_than)]

    def _abandoned(self, path: Path, older_than: float) -> bool:
        """Remove a working folder if nobody needs it; whether it was removed."""
        lockable = len(path.name) >= _DIGEST_DIGITS and not path.name.startswith(".")
        if not lockable and path.parent.name == "staging":
            older_than = max(older_than, LEFTOVER_AGE)
        elif not lockable:
            older_than = 0.0  # half of a removed mix
        if _age(path) < older_than:
            return False
        return self.if_free(path.name if lockable else "leftovers", lambda: shutil.rmtree(path, ignore_errors=True))

    def _removed(self, mix: CachedMix) -> bool:
        """Remove a mix unless somebody holds its lock; whether it was removed."""
        _ = mix.nbytes  # kept by the mix, to be told when it is gone
        done: list[bool] = []
        self.if_free(mix.digest, lambda: done.append(remove(mix.path)))
        return done == [True]

    def if_free(self, name: str, act: Callable[[], object]) -> bool:
        """Do something unless somebody holds the lock `name`; whether it was done. Raises CacheError."""
        lock = self._lock(name)
        try:
            with in_words(self.root):
                lock.acquire(timeout=0)
        except Timeout:
            return False
        try:
            act()
        finally:
            lock.release()
        return True

    def _lock(self, name: str) -> FileLock:
        path = self.root / "locks" / f"{name}.lock"
        with in_words(self.root):
            path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(path)


@contextmanager
def in_words(root: Path) -> Iterator[None]:
    """Say what it means when the cache's folder cannot be written.

    Raises:
        CacheError: instead of an OSError; names the folder and what to do.
    """
    try:
        yield
    except (CocktailError, Timeout):  # both are OSErrors, and say what they mean
        raise
    except OSError as error:
        raise CacheError(_explained(root, error)) from error
    except NotImplementedError as error:
        raise CacheError(
            f"'{root}' lies on a disk without file locks.\nTwo processes could write the same mix there at once.\n"
            "Set COCKTAIL_HUB_CACHE to a folder on a local disk."
        ) from error


def _explained(root: Path, error: OSError) -> str:
    if error.errno in FULL:
        return (
            f"There is no room for the mix in '{root}': {error}.\nA mix takes as much room as one of its ingredients.\n"
            "Make room (`cocktail cache prune --older-than 30`, or `--all`), or set COCKTAIL_HUB_CACHE to a folder on "
            "a larger disk."
        )
    fault = "cannot be written" if error.errno in FORBIDDEN else "cannot hold the cache"
    return (
        f"'{root}' {fault}: {error}.\nFinished mixes are kept there.\n"
        "Set COCKTAIL_HUB_CACHE to a folder that you may write to."
    )


def write_manifest(folder: Path, hashes: dict[str, str]) -> None:
    """List every file of a folder with size and hash, and make sure that all of it is on the disk."""
    for partial in folder.glob(f".{MANIFEST}.*.partial"):
        partial.unlink()  # left by a process that was killed here
    ours = (folder / MANIFEST, folder / JOURNAL)
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p not in ours):
        name = path.relative_to(folder).as_posix()
        files[name] = {"size": path.stat().st_size, QUICK: hashes.get(name) or hash_of(path)}
    sync_tree(folder, synced=hashes)  # before the manifest says that the files are there
    write_atomically(folder / MANIFEST, json.dumps({"files": files}, indent=1), sync=True)


def remove(folder: Path) -> bool:
    """Remove a finished folder so that no half of it is ever taken for the whole; whether it was still there.

    Raises:
        CacheError: the folder cannot be moved out of the way.
    """
    doomed = folder.with_name(f".{folder.name}.removed-{secrets.token_hex(4)}")
    try:
        folder.rename(doomed)
    except FileNotFoundError:  # another process was quicker
        return False
    except OSError as error:
        raise CacheError(
            f"Cannot remove '{folder}': {error}.\nA program may be using it.\nClose that program, or delete it by hand."
        ) from error
    shutil.rmtree(doomed, ignore_errors=True)
    return True


def _inside(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _size(path: Path) -> int:
    """Bytes of a file; 0 for a folder, and for a file that is going away at this moment."""
    with suppress(FileNotFoundError):
        return path.stat().st_size if path.is_file() else 0
    return 0


def _age(path: Path) -> float:
    """Seconds since anything in a folder was written; 0 for one that is going away at this moment."""
    try:
        times = [path.stat().st_mtime, *(inner.stat().st_mtime for inner in path.rglob("*"))]
    except FileNotFoundError:
        return 0.0
    return time.time() - max(times)

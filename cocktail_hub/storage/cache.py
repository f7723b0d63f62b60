"""Finished mixes on disk, by digest. A mix that is in the cache is complete."""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import time
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from huggingface_hub import constants

from cocktail_hub.errors import CacheError, CocktailError
from cocktail_hub.storage.disk import (
    FORBIDDEN,
    FULL,
    HASHES,
    QUICK,
    hash_of,
    size_of,
    sync_folder,
    sync_tree,
    write_atomically,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

logger = logging.getLogger(__name__)

MANIFEST = ".cocktail.json"
"""In a finished folder and in a merged repo: its files with sizes and hashes, to detect damage and training."""
JOURNAL = ".cocktail-merge.json"
"""In a staging folder: the shards that are finished."""
RECIPE = "recipe.json"
"""In a finished folder: the resolved recipe that it was made from."""
LEFTOVER_AGE = 86_400.0
"""Seconds after the last write when a staging folder that no process has locked counts as abandoned."""
LONGEST_REMOVAL = 2.0
"""Seconds to wait for a mix that is being removed."""
_USE = ".use.lock"
_DIGEST_DIGITS = 64


def cache_root() -> Path:
    """`COCKTAIL_HUB_CACHE`, or our folder among the assets of huggingface_hub (`HF_HOME/assets/cocktail_hub`)."""
    chosen = os.environ.get("COCKTAIL_HUB_CACHE")
    return Path(chosen).expanduser() if chosen else Path(constants.HF_ASSETS_CACHE) / "cocktail_hub"


@dataclass(frozen=True, kw_only=True)
class CachedMix:
    """One finished mix in the cache."""

    digest: str
    """Digest of the resolved recipe: 64 hex digits, and a suffix for other file sizes or custom code."""
    path: Path
    """The checkpoint folder."""

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """Path -> size in bytes and hash (`xxh128`; `sha256` in early mixes). Raises CacheError if it is damaged."""
        files = self._read(MANIFEST).get("files")
        if isinstance(files, dict) and all(
            isinstance(entry, dict) and "size" in entry and HASHES.keys() & entry.keys() for entry in files.values()
        ):
            return files
        raise self._unreadable(MANIFEST, "it is not a list of files with size and hash")

    @property
    def max_shard_size(self) -> int | str | None:
        """What its weights were cut into; `None` if that is not recorded. Raises CacheError if it is damaged."""
        found = self._read(MANIFEST).get("max_shard_size")
        return found if isinstance(found, (int, str)) else None

    @property
    def notes(self) -> tuple[str, ...]:
        """What its card says of its ingredients, a sentence each. Raises CacheError if the manifest is damaged."""
        found = self._read(MANIFEST).get("notes")
        return tuple(map(str, found)) if isinstance(found, list) else ()

    @cached_property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return size_of(self.path)

    @property
    def recipe(self) -> dict[str, Any]:
        """The resolved recipe as JSON. Raises CacheError if it is missing or damaged."""
        return self._read(RECIPE)

    @property
    def last_used(self) -> float:
        """Seconds since the epoch when the mix was last found; 0 if another process is removing it."""
        for path in (self.path / MANIFEST, self.path):
            with suppress(FileNotFoundError):
                return path.stat().st_mtime
        return 0.0

    def damage(self, *, thorough: bool = False) -> list[str]:
        """Describe, a line each, the files that are missing, have another size, or (`thorough`) other content."""
        found = []
        try:
            for name, entry in self.manifest.items():
                path = self.path / name
                try:
                    if not path.is_file():
                        found.append(f"{name} is missing")
                    elif (size := path.stat().st_size) != entry["size"]:
                        found.append(f"{name} has {size} bytes instead of {entry['size']}")
                    elif thorough and any(hash_of(path, kind) != entry[kind] for kind in HASHES.keys() & entry.keys()):
                        found.append(f"{name} has other content than was written")
                except OSError as error:
                    found.append(f"{name} cannot be read: {error}")
        except CacheError as error:
            found.append(str(error).splitlines()[0])
        return found

    def _read(self, name: str) -> dict[str, Any]:
        try:
            value = json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise self._unreadable(name, str(error)) from error
        if not isinstance(value, dict):
            raise self._unreadable(name, "it is not a JSON object")
        return value

    def _unreadable(self, name: str, why: str) -> CacheError:
        return CacheError(
            f"'{name}' of the mix in '{self.path}' cannot be read: {why}.\nThe folder was changed after it was "
            "finished.\nDelete it; the mix is made again when it is next requested."
        )


class Cache:
    """The folder of finished mixes, of work in progress, and of locks."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or cache_root()
        """Folder of the cache; it need not exist yet."""

    @property
    def identity(self) -> str:
        """Eight hex digits that tell this cache from all others, also from one at the same path on another machine.

        They are kept in a file. A read-only cache without that file is named after the process.
        """
        path = self.root / "locks" / "identity"

        def known() -> str:
            return path.read_text(encoding="ascii") if path.is_file() else ""

        with suppress(CacheError), cache_errors(self.root):
            if not known():  # also when a process was killed while it wrote the file
                with self.locked("identity"):
                    if not known():
                        path.write_text(secrets.token_hex(4), encoding="ascii")
            return known()
        return f"{os.getpid():08x}"

    def folder(self, digest: str) -> Path:
        """Where the mix with this digest is, or will be."""
        return self.root / "mixes" / digest

    def find(self, digest: str) -> CachedMix | None:
        """The finished mix, if it is there and undamaged.

        A damaged folder stays, since a process may be reading it; `finish` replaces it.
        """
        mix = CachedMix(digest=digest, path=self.folder(digest))
        if not mix.path.is_dir():
            return None
        if damage := mix.damage():
            logger.warning("The cached mix in '%s' is damaged (%s); it is made again.", mix.path, damage[0])
            return None
        with suppress(OSError):  # a shared cache may be read-only
            os.utime(mix.path / MANIFEST)
        return mix

    @contextmanager
    def locked(self, name: str, *, wait: bool = True) -> Iterator[bool]:
        """Hold the lock called `name`, such as the digest of a mix; yields whether it is held. Raises CacheError.

        If another process holds it, wait, or with `wait=False` yield `False`.
        """
        path = self.root / "locks" / f"{name}.lock"
        lock = FileLock(path)
        with cache_errors(self.root):
            path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(Timeout):
                lock.acquire(timeout=0)
            if wait and not lock.is_locked:
                logger.info("Another process is making the mix %s; waiting for it.", name[:12])
                lock.acquire()
        try:
            yield lock.is_locked
        finally:
            lock.release()

    @contextmanager
    def in_use(self, folder: Path) -> Iterator[None]:
        """Keep `prune` from removing a finished mix while the block runs; does nothing for another folder."""
        if folder.parent != self.root / "mixes":
            yield
            return
        prefix = self.root / "locks" / folder.name
        pruning, reading = FileLock(f"{prefix}.lock"), FileLock(f"{prefix}.{secrets.token_hex(8)}{_USE}")
        with suppress(OSError, NotImplementedError):  # a cache that is read-only, or without locks
            prefix.parent.mkdir(parents=True, exist_ok=True)
            with suppress(Timeout):
                pruning.acquire(timeout=LONGEST_REMOVAL)
            reading.acquire()
        pruning.release()
        try:
            yield
        finally:
            reading.release()
            with suppress(OSError):
                Path(reading.lock_file).unlink()

    def has_users(self, digest: str) -> bool:
        """Whether a process uses a mix; what killed ones have left is removed."""
        for path in (self.root / "locks").glob(f"{digest}.*{_USE}"):
            try:
                with FileLock(path, timeout=0):
                    path.unlink(missing_ok=True)
            except Timeout:
                return True
        return False

    def staging(self, digest: str) -> Path:
        """The folder of a mix in progress; kept after an interruption, for the next run. Raises CacheError."""
        stage = self.root / "staging" / digest
        with cache_errors(self.root):
            stage.mkdir(parents=True, exist_ok=True)
        return stage

    def finish(
        self,
        digest: str,
        hashes: Mapping[str, str] | None,
        max_shard_size: int | str | None = None,
        notes: Sequence[str] = (),
    ) -> CachedMix:
        """Turn the staging folder into a finished mix. The caller holds the lock.

        Args:
            digest: of the resolved recipe.
            hashes: for `write_manifest`; `None` if the folder has its manifest already.
            max_shard_size: for `write_manifest`.
            notes: for `write_manifest`.

        Raises:
            CacheError: the cache cannot be written; the staging folder is kept.
        """
        stage, target = self.staging(digest), self.folder(digest)
        with cache_errors(self.root):
            if hashes is not None:
                write_manifest(stage, hashes, max_shard_size, notes)
            (stage / JOURNAL).unlink(missing_ok=True)
            target.parent.mkdir(parents=True, exist_ok=True)
            remove(target)
            stage.rename(target)
            sync_folder(target.parent)
        return CachedMix(digest=digest, path=target)

    def mixes(self) -> list[CachedMix]:
        """Every finished mix, most recently used first."""
        folders = (path for path in (self.root / "mixes").glob("*") if path.is_dir() and not path.name.startswith("."))
        found = (CachedMix(digest=path.name, path=path) for path in folders)
        return sorted(found, key=lambda mix: mix.last_used, reverse=True)

    def leftovers(self) -> list[Path]:
        """Staging folders of interrupted merges, and mixes whose removal was interrupted."""
        return sorted([*(self.root / "staging").glob("*"), *(self.root / "mixes").glob(".*.removed-*")])

    def prune(self, *, older_than: float | None = None, max_bytes: int | None = None) -> list[CachedMix]:
        """Remove mixes unused for `older_than` seconds, and the least recently used ones beyond `max_bytes`.

        Mixes that a process has locked or uses are kept, and so are links and folders without the manifest of a mix.
        Leftovers of interrupted merges are removed, too, if nothing was written to them for `older_than` seconds, by
        default for a day. Returns the removed mixes. Raises CacheError.
        """
        self.prune_leftovers(older_than=LEFTOVER_AGE if older_than is None else older_than)
        removed, kept = [], 0
        for mix in self.mixes():
            too_old = older_than is not None and time.time() - mix.last_used > older_than
            nbytes = mix.nbytes  # also remembered by the mix for when it is gone
            if not too_old and (max_bytes is None or kept + nbytes <= max_bytes):
                kept += nbytes
                continue
            with self.locked(mix.digest, wait=False) as held:
                ours = (mix.path / MANIFEST).is_file() and not mix.path.is_symlink()
                if held and ours and not self.has_users(mix.digest) and remove(mix.path):
                    removed.append(mix)
        return removed

    def prune_leftovers(self, *, older_than: float = LEFTOVER_AGE) -> list[Path]:
        """Remove and return leftovers of interrupted work to which nothing was written for `older_than` seconds.

        Staging folders without a lock of their own are kept for at least a day.
        """
        removed = []
        for path in self.leftovers():
            lockable = path.parent.name == "staging" and len(path.name) >= _DIGEST_DIGITS
            least = older_than if lockable else 0.0 if path.parent.name == "mixes" else max(older_than, LEFTOVER_AGE)
            with suppress(FileNotFoundError):  # another process removes it
                written = max(inner.stat().st_mtime for inner in (path, *path.rglob("*")))
                if time.time() - written >= least:
                    with self.locked(path.name, wait=False) if lockable else nullcontext(True) as free:
                        if free:
                            shutil.rmtree(path, ignore_errors=True)
                            removed.append(path)
        return removed


@contextmanager
def cache_errors(root: Path) -> Iterator[None]:
    """Translate an OSError of writing to the cache to CacheError."""
    try:
        yield
    except (CocktailError, Timeout):  # some are OSErrors, and are translated already
        raise
    except OSError as error:
        if error.errno in FULL:
            raise CacheError(
                f"The disk is too full for the mix in '{root}': {error}.\n"
                "A mix is as large as one of its ingredients.\n"
                "Free some space (`cocktail cache prune --older-than 30d`, or `--all`), or set COCKTAIL_HUB_CACHE to a "
                "folder on a larger disk."
            ) from error
        fault = "cannot be written" if error.errno in FORBIDDEN else "cannot hold the cache"
        raise CacheError(
            f"'{root}' {fault}: {error}.\nFinished mixes are kept there.\nSet COCKTAIL_HUB_CACHE to a writable folder."
        ) from error
    except NotImplementedError as error:
        raise CacheError(
            f"'{root}' is on a disk without file locks.\nTwo processes could write the same mix there at once.\n"
            "Set COCKTAIL_HUB_CACHE to a folder on a local disk."
        ) from error


def write_manifest(
    folder: Path, hashes: Mapping[str, str], max_shard_size: int | str | None = None, notes: Sequence[str] = ()
) -> None:
    """List every file of a folder with size and hash, and sync all of it to disk.

    Args:
        folder: the finished folder.
        hashes: XXH3-128, in hex, of files whose hash is known and that are synced already, by path.
        max_shard_size: what its weights were cut into.
        notes: what its card says of its ingredients, a sentence each.
    """
    for partial in folder.glob(f".{MANIFEST}.*.partial"):
        partial.unlink()  # left by a process that was killed here
    ours = (folder / MANIFEST, folder / JOURNAL)
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p not in ours):
        name = path.relative_to(folder).as_posix()
        files[name] = {"size": path.stat().st_size, QUICK: hashes.get(name) or hash_of(path)}
    sync_tree(folder, synced=hashes)  # before the manifest says that the files are there
    write_atomically(folder / MANIFEST, manifest_text(files, max_shard_size, notes), sync=True)


def manifest_text(files: Mapping[str, Any], max_shard_size: int | str | None, notes: Sequence[str]) -> str:
    """The content of a manifest."""
    found = {"files": files, "max_shard_size": max_shard_size, "notes": list(notes)}
    return json.dumps({key: value for key, value in found.items() if value or key == "files"}, indent=1)


def remove(folder: Path) -> bool:
    """Remove a finished folder; returns whether it was there. Raises CacheError.

    It is renamed first, so that no part of it passes for a mix.
    """
    hidden = folder.with_name(f".{folder.name}.removed-{secrets.token_hex(4)}")
    try:
        folder.rename(hidden)
    except FileNotFoundError:  # not there, or another process was faster
        return False
    except OSError as error:
        raise CacheError(
            f"Cannot remove '{folder}': {error}.\nAnother program may be using it.\n"
            "Close that program, or delete the folder yourself."
        ) from error
    shutil.rmtree(hidden, ignore_errors=True)
    return True

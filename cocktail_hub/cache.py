"""Finished mixes on disk, by digest. A folder that is there is complete; there is no third state."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock
from huggingface_hub import cached_assets_path

from cocktail_hub.errors import CacheError

MANIFEST = ".cocktail.json"
"""In a finished folder: its files with sizes and sha256, so that damage is noticed."""
RECIPE = "recipe.json"
"""In a finished folder: the resolved recipe that it was made from."""
_CHUNK = 1 << 22


def cache_root() -> Path:
    """`COCKTAIL_HUB_CACHE`, or the folder that huggingface_hub keeps for us under `HF_HOME/assets`."""
    chosen = os.environ.get("COCKTAIL_HUB_CACHE")
    return Path(chosen).expanduser() if chosen else cached_assets_path("cocktail_hub").parent.parent


@dataclass(frozen=True, kw_only=True)
class CachedMix:
    """One finished mix in the cache."""

    digest: str
    """Digest of the resolved recipe: 64 hex digits."""
    path: Path
    """The checkpoint folder."""

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """Path -> size in bytes and sha256, for every file of the mix."""
        files: dict[str, Any] = json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))["files"]
        return files

    @property
    def nbytes(self) -> int:
        """Size of all files in bytes."""
        return sum(entry["size"] for entry in self.manifest.values())

    @property
    def recipe(self) -> dict[str, Any]:
        """The resolved recipe as JSON."""
        recipe: dict[str, Any] = json.loads((self.path / RECIPE).read_text(encoding="utf-8"))
        return recipe

    @property
    def last_used(self) -> float:
        """Seconds since the epoch when the mix was last asked for."""
        return (self.path / MANIFEST).stat().st_mtime

    def damage(self, *, thorough: bool = False) -> list[str]:
        """What is wrong with the files, a line each: missing, of another size, or (thorough) of other content."""
        return [line for name, entry in self._entries() if (line := self._damage_of(name, entry, thorough=thorough))]

    def _entries(self) -> list[tuple[str, Any]]:
        try:
            return list(self.manifest.items())
        except (OSError, ValueError, KeyError) as error:
            return [(MANIFEST, error)]

    def _damage_of(self, name: str, entry: Any, *, thorough: bool) -> str:
        path = self.path / name
        if isinstance(entry, Exception):
            return f"{name} cannot be read: {entry}"
        if not path.is_file():
            return f"{name} is missing"
        if (size := path.stat().st_size) != entry["size"]:
            return f"{name} has {size} bytes instead of {entry['size']}"
        return f"{name} has other content than was written" if thorough and sha256_of(path) != entry["sha256"] else ""


class Cache:
    """The folder that holds finished mixes, work in progress, and locks."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or cache_root()
        """Where everything lies."""

    def folder(self, digest: str) -> Path:
        """Where the mix of a resolved recipe is, or will be."""
        return self.root / "mixes" / digest

    def find(self, digest: str) -> CachedMix | None:
        """The finished mix, if it is there and its files are as they were written.

        A damaged folder is removed, so that the mix is made again.
        """
        mix = CachedMix(digest=digest, path=self.folder(digest))
        if not mix.path.is_dir():
            return None
        if mix.damage():
            remove(mix.path)
            return None
        os.utime(mix.path / MANIFEST)
        return mix

    @contextmanager
    def locked(self, digest: str) -> Iterator[None]:
        """Hold the lock of a mix: of two processes that want the same, one works and the other waits."""
        lock = self.root / "locks" / f"{digest}.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            yield

    def staging(self, digest: str) -> Path:
        """The folder of a mix in the making; kept when the work is interrupted, so that it goes on from there."""
        stage = self.root / "staging" / digest
        stage.mkdir(parents=True, exist_ok=True)
        return stage

    def finish(self, digest: str, hashes: dict[str, str]) -> CachedMix:
        """Turn the staging folder into a finished mix: manifest, fsync, rename.

        Args:
            digest: of the resolved recipe.
            hashes: sha256 of the files whose hash is known already, by path.
        """
        stage = self.staging(digest)
        write_manifest(stage, hashes)
        target = self.folder(digest)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            remove(target)
        stage.rename(target)
        sync_folder(target.parent)
        return CachedMix(digest=digest, path=target)

    def mixes(self) -> list[CachedMix]:
        """Every finished mix, most recently used first."""
        folders = (self.root / "mixes").glob("*/" + MANIFEST)
        found = [CachedMix(digest=path.parent.name, path=path.parent) for path in folders]
        return sorted(found, key=lambda mix: mix.last_used, reverse=True)

    def leftovers(self) -> list[Path]:
        """Folders of merges that were interrupted and not taken up again."""
        return sorted((self.root / "staging").glob("*"))

    def prune(self, *, older_than: float | None = None, max_bytes: int | None = None) -> list[CachedMix]:
        """Remove mixes that were not used for `older_than` seconds, then the oldest until `max_bytes` fit.

        Returns:
            The mixes that were removed.
        """
        doomed, kept = [], 0
        for mix in self.mixes():
            kept += mix.nbytes
            too_old = older_than is not None and time.time() - mix.last_used > older_than
            too_much = max_bytes is not None and kept > max_bytes
            if too_old or too_much:
                kept -= mix.nbytes
                doomed.append(mix)
        for mix in doomed:
            with self.locked(mix.digest):
                _ = mix.manifest  # keep what it held, for the report
                remove(mix.path)
        return doomed


def write_manifest(folder: Path, hashes: dict[str, str]) -> None:
    """List every file of a folder with size and sha256, and make sure that all of it is on the disk."""
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST):
        name = path.relative_to(folder).as_posix()
        files[name] = {"size": path.stat().st_size, "sha256": hashes.get(name) or sha256_of(path)}
        if name not in hashes:
            sync_file(path)
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps({"files": files}, indent=1), encoding="utf-8")
    sync_file(manifest)
    sync_folder(folder)


def sha256_of(path: Path) -> str:
    """Sha256 of a file's content, as hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def sync_file(path: Path) -> None:
    """Make sure that a file survives a power cut."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Make sure that the names in a folder survive a power cut, where the system has a way to say so."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(folder: Path) -> None:
    """Remove a finished folder so that no half of it is ever taken for the whole.

    Raises:
        CacheError: the folder cannot be moved out of the way.
    """
    doomed = folder.with_name(f".{folder.name}.removed-{os.getpid()}")
    try:
        folder.rename(doomed)
    except OSError as error:
        raise CacheError(f"Cannot remove '{folder}': {error}. Close the programs that use it, or delete it by hand.") from error
    shutil.rmtree(doomed, ignore_errors=True)

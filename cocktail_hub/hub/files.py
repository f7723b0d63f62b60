"""Models on the Hub: pin a revision, look at files before the weights, download what a mix needs."""

from __future__ import annotations

import glob
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import huggingface_hub
from huggingface_hub import constants

from cocktail_hub.errors import SourceError, nearest
from cocktail_hub.hub.explained import explained
from cocktail_hub.version import USER_AGENT, VERSION

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cocktail_hub.hub.options import HubOptions

SIDE_BY_SIDE = 4
"""Models downloaded at the same time; each fetches several files at once."""
FIRST_WAIT = 1.0
"""Seconds before a range of bytes is asked for again; doubled for each further try."""
ROOT_CONFIGS = ("config.json", "adapter_config.json", "modules.json")
"""Files that tell what a model is; every model has at least one of them."""


class HubFiles:
    """A Hub repo at a commit, as `RepoFiles`: everything that can be known before its weights are downloaded."""

    def __init__(self, model: str, commit: str, options: HubOptions, *, repo_type: str | None = None) -> None:
        self.model = model
        """Repo id."""
        self.commit = commit
        """Full commit hash; what it names never changes, so whatever is cached is right."""
        self.options = options
        """How to talk to the Hub."""
        self.repo_type = repo_type
        """`dataset` for a dataset; `None` for a model."""
        self.name = model
        """What to call it in messages."""
        self._place = (model, commit, repo_type, options.cache_dir)

    def __eq__(self, other: object) -> bool:
        """Whether it is the same repo in the same cache: what several adapters adapt is one model."""
        return isinstance(other, HubFiles) and self._place == other._place

    def __hash__(self) -> int:
        return hash(self._place)

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        """Every file -> its size in bytes.

        Raises:
            SourceError: no access, no such commit, or not cached and the Hub is out of reach.
        """
        with explained(self.model, self.commit):
            found = self._listing()
        for path in found:
            if "\\" in path or PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
                raise SourceError(f"'{self.name}' lists the file '{path}', which would lie outside of its folder.")
        return dict(sorted(found.items()))

    def _listing(self) -> dict[str, int]:
        tree = self._cached_tree()
        if tree is None and self.options.offline:
            return self._cached_files()
        if tree is None and self.repo_type is None:
            from cocktail_hub.hub.no_bar import NoBar

            self._snapshot(ROOT_CONFIGS, tqdm_class=NoBar)  # the client keeps the listing beside what it downloads
            tree = self._cached_tree()
        return self._remote_tree() if tree is None else tree

    def _cached_tree(self) -> dict[str, int] | None:
        from huggingface_hub.errors import CachedRepoTreeNotFoundError

        try:
            tree = huggingface_hub.get_cached_repo_tree(
                self.model, repo_type=self.repo_type, revision=self.commit, cache_dir=self.options.cache_dir
            )
        except CachedRepoTreeNotFoundError:
            return None
        return {entry.path: entry.size for entry in tree}

    def _remote_tree(self) -> dict[str, int]:
        found = self.options.api.list_repo_tree(
            self.model, recursive=True, revision=self.commit, repo_type=self.repo_type
        )
        return {entry.path: entry.size for entry in found if isinstance(entry, huggingface_hub.RepoFile)}

    def _cached_files(self) -> dict[str, int]:
        """What an earlier download left, where it left no listing."""
        folder = self._snapshot(None)
        return {p.relative_to(folder).as_posix(): p.stat().st_size for p in folder.rglob("*") if p.is_file()}

    def path(self, path: str) -> Path:
        """Download one small file into the Hub cache and return where it is."""
        self._require(path)
        with explained(self.model, self.commit):
            return Path(
                huggingface_hub.hf_hub_download(
                    self.model,
                    path,
                    repo_type=self.repo_type,
                    revision=self.commit,
                    cache_dir=self.options.cache_dir,
                    token=self.options.token,
                    local_files_only=self.options.local_files_only,
                    library_name="cocktail_hub",
                    library_version=VERSION,
                    user_agent=USER_AGENT,
                )
            )

    def read(self, path: str) -> bytes:
        """The whole of a small file, through the Hub cache."""
        local = self.path(path)
        with explained(self.model, self.commit):
            return local.read_bytes()

    def read_range(self, path: str, start: int, stop: int) -> bytes:
        """Bytes `start:stop` of a file, from the cache or by an HTTP range request.

        Raises:
            SourceError: the file is not there, or fewer bytes came than were asked for.
        """
        self._require(path)
        if start >= stop:
            return b""
        cached = self.cached(path)
        with explained(self.model, self.commit):
            data = _read_local(cached, start, stop) if cached else self._fetch(path, start, stop)
        if len(data) != stop - start:
            raise SourceError(
                f"'{path}' of '{self.name}' gave {len(data)} bytes where {stop - start} were asked for.\n"
                "Its header cannot be read.\nTry again; if it stays, the file on the Hub is truncated."
            )
        return data

    def cached(self, path: str) -> Path | None:
        """Where a file lies on this machine; `None` if it was not downloaded yet."""
        found = huggingface_hub.try_to_load_from_cache(
            self.model, path, cache_dir=self.options.cache_dir, revision=self.commit, repo_type=self.repo_type
        )
        return Path(found) if isinstance(found, str) else None

    def range_request(self, path: str, start: int, stop: int) -> tuple[str, dict[str, str]]:
        """The address and headers that ask for bytes `start:stop` of a file, `start` below `stop`."""
        from huggingface_hub.utils import build_hf_headers

        headers: dict[str, str] = build_hf_headers(
            token=self.options.token, library_name="cocktail_hub", library_version=VERSION, user_agent=USER_AGENT
        )
        url = huggingface_hub.hf_hub_url(self.model, path, repo_type=self.repo_type, revision=self.commit)
        return url, {**headers, "Range": f"bytes={start}-{stop - 1}"}

    def _fetch(self, path: str, start: int, stop: int) -> bytes:
        from huggingface_hub.utils import http_backoff

        self._require_online(path)
        url, headers = self.range_request(path, start, stop)
        response = http_backoff(
            "GET",
            url,
            headers=headers,
            base_wait_time=FIRST_WAIT,
            follow_redirects=True,
            timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
        )
        huggingface_hub.hf_raise_for_status(response)
        whole: bytes = response.content
        return whole[start:stop] if response.status_code == 200 else whole  # noqa: PLR2004 - the range was ignored

    def _require_online(self, path: str) -> None:
        if self.options.offline:
            from huggingface_hub.errors import OfflineModeIsEnabled

            raise OfflineModeIsEnabled(f"'{path}' is not cached")

    def hashes(self, paths: Sequence[str]) -> dict[str, str]:
        """Path -> sha256 of large files, as the Hub has them; nothing is downloaded."""
        with explained(self.model, self.commit):
            self._require_online(", ".join(paths))
            found = self.options.api.get_paths_info(
                self.model, list(paths), revision=self.commit, repo_type=self.repo_type
            )
        return {
            entry.path: entry.lfs.sha256 for entry in found if isinstance(entry, huggingface_hub.RepoFile) and entry.lfs
        }

    def missing(self, paths: Sequence[str]) -> int:
        """Bytes of `paths` that are not in the Hub cache yet."""
        return sum(self.sizes[path] for path in paths if self.cached(path) is None)

    def download(self, paths: Sequence[str]) -> Path:
        """Bring `paths` into the Hub cache and return the snapshot folder that holds them.

        Raises:
            SourceError: one of them is not there, or cannot be downloaded.
            DiskSpaceError: there is no room for them.
        """
        for path in paths:
            self._require(path)
        with explained(self.model, self.commit):
            folder = self._snapshot(paths, force_download=self.options.force_download)
        for path in paths:
            if not (folder / path).is_file():
                raise self._absent(path)
        return folder

    def _snapshot(self, paths: Sequence[str] | None, **kwargs: Any) -> Path:
        return Path(
            huggingface_hub.snapshot_download(
                self.model,
                repo_type=self.repo_type,
                revision=self.commit,
                cache_dir=self.options.cache_dir,
                token=self.options.token,
                local_files_only=self.options.local_files_only,
                allow_patterns=None if paths is None else [glob.escape(path) for path in paths],
                library_name="cocktail_hub",
                library_version=VERSION,
                user_agent=USER_AGENT,
                **kwargs,
            )
        )

    def _require(self, path: str) -> None:
        if path not in self.sizes:
            raise self._absent(path)

    def _absent(self, path: str) -> SourceError:
        if self.options.offline:
            return SourceError(
                f"'{path}' of '{self.name}' is not in the local cache, and the Hub is not to be asked.\n"
                "Working offline (`HF_HUB_OFFLINE`, `local_files_only=True`) needs everything cached.\n"
                "Go online once."
            )
        close = nearest(path, self.sizes)
        hint = f" Did you mean '{close}'?" if close else ""
        return SourceError(f"'{self.name}' has no file '{path}'.{hint}")


def _read_local(path: Path, start: int, stop: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(stop - start)


def download_all(wanted: Sequence[tuple[HubFiles, Sequence[str]]]) -> list[Path]:
    """Download the files of several models side by side; returns a snapshot folder for each, in order."""
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        return list(pool.map(lambda pair: pair[0].download(pair[1]), wanted))

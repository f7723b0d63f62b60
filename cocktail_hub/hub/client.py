"""The Hub, bound to a token and a cache: find commits, read repos, download models, publish."""

from __future__ import annotations

import glob
import hashlib
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

import huggingface_hub
from huggingface_hub import constants

from cocktail_hub.errors import PublishError, SourceError, nearest
from cocktail_hub.hub.commit import Publication, Publisher, Uploaded
from cocktail_hub.hub.errors import FIRST_WAIT, hub_errors
from cocktail_hub.storage.disk import LARGEST_SMALL_FILE, require_small
from cocktail_hub.version import USER_AGENT, VERSION

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from huggingface_hub import CommitInfo, HfApi

CONCURRENT_MODELS = 4
"""Models downloaded at the same time; the client downloads several files of each at once."""
ROOT_CONFIGS = ("config.json", "adapter_config.json", "modules.json")
"""Small files that identify a model; every model has at least one of them."""
_STATED = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_AGENT: dict[str, Any] = {"library_name": "cocktail_hub", "library_version": VERSION, "user_agent": USER_AGENT}


@dataclass(frozen=True, kw_only=True)
class Hub:
    """The Hub with one token and one cache; the fields mean what they mean in `from_pretrained`."""

    token: str | bool | None = field(default=None, repr=False)
    """Access token; `None`: the saved one; `False`: none. Never logged, cached or written."""
    local_files_only: bool = False
    """Use only files in the local cache, without any request."""
    cache_dir: str | Path | None = None
    """Folder of the Hub cache; `None`: `HF_HUB_CACHE`."""
    force_download: bool = False
    """Download files again even if they are cached."""

    @property
    def offline(self) -> bool:
        """Whether no requests may be made, because of `local_files_only` or `HF_HUB_OFFLINE`."""
        return self.local_files_only or huggingface_hub.is_offline_mode()

    @property
    def cache_folder(self) -> Path:
        """Folder of the Hub cache."""
        return Path(self.cache_dir or constants.HF_HUB_CACHE).expanduser()

    @property
    def api(self) -> HfApi:
        """The client with our token and user agent."""
        return huggingface_hub.HfApi(token=self.token, **_AGENT)

    def resolve(self, repo_id: str, revision: str | None, *, repo_type: str | None = None) -> str:
        """Return the 40-hex commit of a revision; offline, the one it last pointed to. Raises SourceError."""
        with hub_errors(repo_id, revision):
            return self.api.resolve_revision(
                repo_id,
                revision=revision,
                repo_type=repo_type,
                cache_dir=self.cache_dir,
                local_files_only=self.local_files_only,
            ).resolved

    def files(self, repo_id: str, commit: str, *, repo_type: str | None = None) -> HubFiles:
        """Return the files of a repo at a commit. Makes no request."""
        return HubFiles(repo_id, commit, self, repo_type=repo_type)

    def commit(self, publication: Publication) -> CommitInfo:
        """Publish files in one commit or one pull request. Raises PublishError; the repo then has all or nothing."""
        return self._publisher(self.make_repo(publication)).commit()

    def claim(self, publication: Publication) -> Publication:
        """Return a publication with the full id of its repo (`me/name` for `name`), before any work is done for it.

        Raises:
            PublishError: nobody is logged in, or the account may not write there.
        """
        return self._publisher(publication).claim()

    def make_repo(self, publication: Publication) -> Publication:
        """Create the repo and the branch if they do not exist; return the publication with the full id of its repo.

        Raises:
            PublishError: the Hub did not accept it.
        """
        return self._publisher(publication).make_repo()

    def upload(self, publication: Publication, name: str, file: Path, sha256: str) -> Uploaded:
        """Upload one large file, `name` in the repo, ahead of the commit. The repo must exist. Raises PublishError."""
        return self._publisher(publication).upload(name, file, sha256)

    def remove_recipe(self, publication: Publication, names: Collection[str]) -> None:
        """Remove the recipe, the files `names`, and its part of the card, in one commit. Raises PublishError."""
        self._publisher(self.make_repo(publication)).remove_recipe(names)

    def _publisher(self, publication: Publication) -> Publisher:
        if self.offline:
            raise PublishError(
                f"'{publication.repo_id}' cannot be published offline.\nNothing was sent to the Hub.\n"
                "Unset HF_HUB_OFFLINE, and leave out `local_files_only`."
            )
        return Publisher(publication, self.api, self.cache_dir)


class Listed(NamedTuple):
    """What the Hub states of a file."""

    size: int
    """Bytes."""
    oid: str
    """sha256 where it is known, else git's id of the file or of the pointer to it; empty where the cache has none."""


@dataclass(frozen=True)
class HubFiles:
    """A Hub repo at a commit, as `RepoFiles`. Equal to another one of the same repo and commit."""

    name: str
    """Repo id."""
    commit: str
    """40-hex commit hash. Its content never changes, so cached files are always valid."""
    hub: Hub = field(compare=False)
    """The client."""
    repo_type: str | None = field(default=None, kw_only=True)
    """`dataset` for a dataset; `None` for a model."""

    @property
    def _at(self) -> dict[str, Any]:
        return {"revision": self.commit, "repo_type": self.repo_type}

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        """Every file -> its size in bytes. Raises SourceError."""
        return {path: listed.size for path, listed in self.listing.items()}

    @cached_property
    def listing(self) -> Mapping[str, Listed]:
        """Every file -> what the Hub states of it. Raises SourceError."""
        with hub_errors(self.name, self.commit):
            found = self._listing()
        for path in found:
            if "\\" in path or PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
                raise SourceError(f"'{self.name}' lists the file '{path}', which would be outside its folder.")
        return dict(sorted(found.items()))

    def _listing(self) -> dict[str, Listed]:
        tree = self._cached_tree()
        if tree is None and self.hub.offline:  # an earlier download that left no listing
            folder = self._snapshot(None)
            paths = (path for path in folder.rglob("*") if path.is_file())
            return {p.relative_to(folder).as_posix(): Listed(p.stat().st_size, "") for p in paths}
        if tree is None and self.repo_type is None:
            from huggingface_hub.utils import tqdm

            class NoBar(tqdm):
                def __init__(self, *args: Any, **kwargs: Any) -> None:
                    super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]

            self._snapshot(ROOT_CONFIGS, tqdm_class=NoBar)  # the client caches the listing with what it downloads
            tree = self._cached_tree()
        if tree is None:
            found = self.hub.api.list_repo_tree(self.name, recursive=True, **self._at)
            tree = [entry for entry in found if isinstance(entry, huggingface_hub.RepoFile)]
        return {entry.path: Listed(entry.size, entry.lfs.sha256 if entry.lfs else entry.blob_id) for entry in tree}

    def _cached_tree(self) -> list[huggingface_hub.RepoFile] | None:
        from huggingface_hub.errors import CachedRepoTreeNotFoundError

        try:
            return huggingface_hub.get_cached_repo_tree(self.name, cache_dir=self.hub.cache_dir, **self._at)
        except CachedRepoTreeNotFoundError:
            return None

    def require_stated(self, path: str, sha256: str, content: bytes | None = None, *, recorded: str = "") -> None:
        """Refuse a file that is not the one that the Hub states.

        Args:
            path: the file.
            sha256: of what was read.
            content: all of it, of a small file; `None`: that of the cache.
            recorded: the sha256 that a recipe has of it.

        Raises:
            SourceError: it was damaged on the way or on the disk, or somebody has changed it.
        """
        (size, stated), local = self.listing[path], self.cached(path)
        if local and local.is_symlink() and _STATED.fullmatch(blob := local.readlink().name):
            stated = blob  # the client names blobs after their hash
        known, kind, found = [sha256], "sha256", sha256
        if len(stated) < len(sha256):  # git has small files and, of large ones, a pointer
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
            if content is None and local and size <= LARGEST_SMALL_FILE:
                content = local.read_bytes()
            bodies = [pointer] if content is None else [pointer, content]
            known = [hashlib.sha1(b"blob %d\0%b" % (len(b), b), usedforsecurity=False).hexdigest() for b in bodies]
            kind, found = "git blob id", known[-1]
        if stated not in ("", *known):
            raise SourceError(
                f"'{path}' of '{self.name}' is damaged: its {kind} is {found}, but the Hub states {stated}.\n"
                "It came with other bytes, or they changed on the disk, so that nothing was made of it.\n"
                f"{f'Delete {str(local.resolve())!r}, and run' if local else 'Run'} the same command again: "
                "the file is downloaded anew."
            )
        if recorded not in ("", sha256):
            raise SourceError(
                f"'{path}' of '{self.name}' has the sha256 {sha256}, but the recipe was made of a file with {recorded}."
                "\nThe mix would not be the one that the recipe describes.\n"
                "Remove `materials` from the recipe's `evidence` to mix what the Hub has."
            )

    def path(self, path: str) -> Path:
        """Download one small file to the Hub cache and return where it is."""
        self._require(path)
        with hub_errors(self.name, self.commit):
            return Path(huggingface_hub.hf_hub_download(self.name, path, **self._at, **self._download_options))

    @property
    def _download_options(self) -> dict[str, Any]:
        hub = self.hub
        return {"cache_dir": hub.cache_dir, "token": hub.token, "local_files_only": hub.local_files_only, **_AGENT}

    def read(self, path: str) -> bytes:
        """The content of a small file, downloaded to the Hub cache."""
        require_small(path, self.name, self.sizes.get(path, 0))
        local = self.path(path)
        with hub_errors(self.name, self.commit):
            content = local.read_bytes()
        self.require_stated(path, hashlib.sha256(content).hexdigest(), content)
        return content

    def read_range(self, path: str, start: int, stop: int) -> bytes:
        """Bytes `start:stop` of a file, from the cache or by an HTTP range request.

        Raises:
            SourceError: there is no such file, or it ends before `stop`.
        """
        self._require(path)
        if start >= stop:
            return b""
        with hub_errors(self.name, self.commit):
            if cached := self.cached(path):
                with cached.open("rb") as file:
                    file.seek(start)
                    data = file.read(stop - start)
            else:
                data = self._fetch(path, start, stop)
        if len(data) != stop - start:
            raise SourceError(
                f"'{path}' of '{self.name}' gave {len(data)} bytes instead of {stop - start}.\n"
                "Its header cannot be read.\nTry again; if the error persists, the file on the Hub is truncated."
            )
        return data

    def cached(self, path: str) -> Path | None:
        """Where a file is in the Hub cache; `None` if it was not downloaded yet."""
        found = huggingface_hub.try_to_load_from_cache(self.name, path, cache_dir=self.hub.cache_dir, **self._at)
        return Path(found) if isinstance(found, str) else None

    def range_request(self, path: str, start: int, stop: int) -> tuple[str, dict[str, str]]:
        """URL and headers of a request for bytes `start:stop` of a file, `start` below `stop`. Raises SourceError."""
        from huggingface_hub.utils import build_hf_headers

        self._require_online(path)
        headers: dict[str, str] = build_hf_headers(token=self.hub.token, **_AGENT)
        headers["Range"] = f"bytes={start}-{stop - 1}"
        return huggingface_hub.hf_hub_url(self.name, path, **self._at), headers

    def _fetch(self, path: str, start: int, stop: int) -> bytes:
        from huggingface_hub.utils import http_backoff

        url, headers = self.range_request(path, start, stop)
        options: dict[str, Any] = {"base_wait_time": FIRST_WAIT, "timeout": constants.HF_HUB_DOWNLOAD_TIMEOUT}
        response = http_backoff("GET", url, headers=headers, follow_redirects=True, **options)
        huggingface_hub.hf_raise_for_status(response)
        content: bytes = response.content
        return content[start:stop] if response.status_code == 200 else content  # noqa: PLR2004 - the range was ignored

    def hashes(self, paths: Sequence[str]) -> dict[str, str]:
        """Path -> sha256 of large files, as the Hub records them; nothing is downloaded."""
        self._require_online(", ".join(paths))
        with hub_errors(self.name, self.commit):
            found = self.hub.api.get_paths_info(self.name, list(paths), **self._at)
        return {
            entry.path: entry.lfs.sha256 for entry in found if isinstance(entry, huggingface_hub.RepoFile) and entry.lfs
        }

    def missing(self, paths: Sequence[str]) -> int:
        """Bytes of `paths` that are not in the Hub cache yet."""
        return sum(self.sizes[path] for path in paths if self.cached(path) is None)

    def download(self, paths: Sequence[str]) -> Path:
        """Download `paths` to the Hub cache and return the snapshot folder that holds them.

        Raises:
            SourceError: one of them does not exist, or cannot be downloaded.
            DiskSpaceError: the disk is too full for them.
        """
        for path in paths:
            self._require(path)
        with hub_errors(self.name, self.commit):
            folder = self._snapshot(paths, force_download=self.hub.force_download)
        for path in paths:
            if not (folder / path).is_file():
                raise self._absent(path)
        return folder

    def _snapshot(self, paths: Sequence[str] | None, **kwargs: Any) -> Path:
        patterns = None if paths is None else [glob.escape(path) for path in paths]
        options = self._at | self._download_options | kwargs
        return Path(huggingface_hub.snapshot_download(self.name, allow_patterns=patterns, **options))

    def _require(self, path: str) -> None:
        if path not in self.sizes:
            raise self._absent(path)

    def _require_online(self, path: str) -> None:
        if self.hub.offline:
            raise self._absent(path)

    def _absent(self, path: str) -> SourceError:
        if self.hub.offline:
            return SourceError(
                f"'{path}' of '{self.name}' is not in the local cache, and no requests may be made.\n"
                "Working offline (`HF_HUB_OFFLINE`, `local_files_only=True`) needs everything cached.\n"
                "Go online once."
            )
        close = nearest(path, self.sizes)
        return SourceError(f"'{self.name}' has no file '{path}'.{f' Did you mean {close!r}?' if close else ''}")


def download_all(wanted: Sequence[tuple[HubFiles, Sequence[str]]]) -> list[Path]:
    """Download files of several models at once; returns a snapshot folder for each, in order."""
    with ThreadPoolExecutor(CONCURRENT_MODELS) as pool:
        return list(pool.map(lambda pair: pair[0].download(pair[1]), wanted))

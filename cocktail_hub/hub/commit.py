"""Put files on the Hub in one commit, or one pull request. Safe to repeat."""

from __future__ import annotations

import json
import logging
import re
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete
from huggingface_hub.errors import HfHubHTTPError, HTTPError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.lfs import UploadInfo

from cocktail_hub.errors import PublishError
from cocktail_hub.hub.errors import LOGIN, PASSING, first_line, status_of
from cocktail_hub.hub.publication import README, Publication, Uploaded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from huggingface_hub import Discussion, HfApi

    from cocktail_hub.hub.options import HubOptions

logger = logging.getLogger(__name__)

ATTEMPTS = 5
"""How often a commit is tried; the client itself does not try it again."""
FIRST_WAIT = 1.0
"""Seconds before the second try; doubled for each further one."""
LONGEST_WAIT = 60.0
"""Seconds that are waited at most, whatever the Hub asks for."""
OURS = re.compile(r"(\d+_\w+/)?(model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json)|recipe\.json")
"""Files that an earlier publication may have left: weights in the root or in a module's folder, and the recipe."""
T = TypeVar("T")
Prepared: TypeAlias = "dict[str, list[CommitOperationAdd]]"
"""Commit to build on -> the files, hashed, and perhaps uploaded by an earlier try."""
_CLIENT_ERRORS = (HTTPError, ConnectionError, RuntimeError, ValueError)
"""What the client raises: for answers of the Hub, broken connections, broken uploads, and metadata it refuses."""


def publish_files(publication: Publication, options: HubOptions) -> CommitInfo:
    """Write files to the Hub as one commit, and remove what an earlier one left.

    Files that are there already are not sent again, and where nothing is new there is no commit: it is safe to repeat.

    Raises:
        PublishError: the Hub did not take it; the repo has all of it or none.
    """
    prepared: Prepared = {}
    known: frozenset[int] | None = None

    def publish() -> CommitInfo:
        nonlocal known
        with _heard():
            _make_repo(publication, options.api)
            opened = _pull_requests(publication, options.api)
            known = frozenset(opened) if known is None else known
            if unheard := opened.keys() - known:  # an earlier try opened one, but its answer was lost
                return opened[min(unheard)]
        return _commit(publication, options, prepared)

    return _persistently(publication, options, publish)


def forget_recipe(publication: Publication, name: str, options: HubOptions) -> None:
    """Remove the recipe, a file called `name`, and what the card says of it, in one commit; nothing where it is gone.

    Args:
        publication: the repo; its `readme` gives the card without that.
        name: of the file.
        options: how to talk to the Hub.

    Raises:
        PublishError: the Hub did not take it.
    """

    def forget() -> None:
        with _heard():
            head = str(options.api.repo_info(publication.repo_id, revision=publication.revision).sha)
            present = options.api.list_repo_files(publication.repo_id, revision=head)
            card = _readme(publication, options, head) if README in present else b""
        text = publication.readme(_decoded(publication, card))
        changes: list[CommitOperationAdd | CommitOperationDelete] = [
            *([CommitOperationDelete(name)] if name in present else []),
            *([CommitOperationAdd(README, text.encode())] if text.encode() != card else []),
        ]
        if changes:
            with _heard():
                options.api.create_commit(
                    publication.repo_id,
                    changes,
                    commit_message=publication.message,
                    revision=publication.revision,
                    parent_commit=head,
                )

    _persistently(publication, options, forget)


def make_repo(publication: Publication, options: HubOptions) -> None:
    """Make sure that the repo and the branch are there.

    Raises:
        PublishError: the Hub refuses, or cannot be reached.
    """

    def make() -> None:
        with _heard():
            _make_repo(publication, options.api)

    _persistently(publication, options, make)


def upload_ahead(publication: Publication, name: str, file: Path, sha256: str, options: HubOptions) -> Uploaded:
    """Send one large file ahead of the commit; after that, the local one is not needed any more.

    Args:
        publication: where it will be committed; the repo must be there.
        name: path in the repo.
        file: on this machine.
        sha256: of its content, in hex.
        options: how to talk to the Hub.

    Raises:
        PublishError: the Hub did not take it.
    """
    size = file.stat().st_size

    def send() -> Uploaded:
        with _heard():
            operation = CommitOperationAdd(name, file)
            operation.upload_info.sha256 = bytes.fromhex(sha256)
            options.api.preupload_lfs_files(
                publication.repo_id,
                [operation],
                revision=publication.revision,
                create_pr=publication.create_pr,
                free_memory=False,
            )
        if not operation._is_uploaded:  # noqa: SLF001 - the client has no other word for it
            raise PublishError(
                f"'{publication.repo_id}' does not take '{name}' as a large file.\n"
                "Its .gitattributes or .gitignore say otherwise, so that it could not be sent ahead of the commit.\n"
                "Restore the repo's .gitattributes, or publish without `low_disk`."
            )
        return Uploaded(size=size, sha256=sha256)

    return _persistently(publication, options, send)


def _persistently(publication: Publication, options: HubOptions, step: Callable[[], T]) -> T:
    """Take a step again and again until it is done, or cannot be."""
    if options.offline:
        raise PublishError(
            f"'{publication.repo_id}' cannot be published offline.\nNothing was sent to the Hub.\n"
            "Unset HF_HUB_OFFLINE, and leave out `local_files_only`."
        )
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return step()
        except _ClientError as failure:
            error = failure.error
            if attempt == ATTEMPTS or not _may_pass(error):
                raise _refused(publication, error, attempt) from error
            wait = _wait(error, attempt)
            logger.info("Try %d to publish '%s' failed (%s); again in %g s.", attempt, publication.repo_id, error, wait)
            time.sleep(wait)
    raise AssertionError("unreachable: the last attempt returns or raises")


class _ClientError(Exception):
    """An error of the client, not of the callback that writes the card."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


@contextmanager
def _heard() -> Iterator[None]:
    try:
        yield
    except _CLIENT_ERRORS as error:
        raise _ClientError(error) from error


def _make_repo(publication: Publication, api: HfApi) -> None:
    api.create_repo(publication.repo_id, private=publication.private, exist_ok=True)
    if publication.revision and not publication.revision.startswith("refs/"):
        api.create_branch(publication.repo_id, branch=publication.revision, exist_ok=True)


def _commit(publication: Publication, options: HubOptions, prepared: Prepared) -> CommitInfo:
    api = options.api
    with _heard():
        head = str(api.repo_info(publication.repo_id, revision=publication.revision).sha)
        present = api.list_repo_files(publication.repo_id, revision=head)
        card = _readme(publication, options, head) if README in present else None
        additions = _additions(publication, head, prepared, api)
    stale = [path for path in present if OURS.fullmatch(path) and path not in publication.files]
    text = publication.readme(None if card is None else _decoded(publication, card))
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        *additions,
        CommitOperationAdd(README, text.encode()),
        *(CommitOperationDelete(path) for path in stale),
    ]
    with _heard():
        return api.create_commit(
            publication.repo_id,
            operations,
            commit_message=publication.message,
            revision=publication.revision,
            create_pr=publication.create_pr,
            parent_commit=head,  # somebody else's commit in between is a 412, and this is done again on top of it
        )


def _additions(publication: Publication, head: str, prepared: Prepared, api: HfApi) -> list[CommitOperationAdd]:
    """The files, ready to be sent. They remember what the Hub has of them at `head`, so another one needs new ones."""
    if head not in prepared:
        prepared.clear()
        files = sorted(publication.files.items())
        there = _present_hashes(
            publication, [name for name, source in files if isinstance(source, Uploaded)], head, api
        )
        prepared[head] = [
            _sent(name, source, there.get(name)) if isinstance(source, Uploaded) else CommitOperationAdd(name, source)
            for name, source in files
        ]
    return prepared[head]


def _present_hashes(publication: Publication, names: list[str], head: str, api: HfApi) -> dict[str, str]:
    """Path -> sha256 of the large files that the repo has at a commit."""
    found = api.get_paths_info(publication.repo_id, names, revision=head) if names else []
    return {entry.path: entry.lfs.sha256 for entry in found if isinstance(entry, RepoFile) and entry.lfs}


def _sent(name: str, uploaded: Uploaded, present: str | None) -> CommitOperationAdd:
    """What `preupload_lfs_files` leaves of an addition, for a file that is gone from this machine."""
    operation = CommitOperationAdd(name, b"")
    operation.upload_info = UploadInfo(size=uploaded.size, sample=b"", sha256=bytes.fromhex(uploaded.sha256))
    operation._upload_mode, operation._should_ignore = "lfs", False  # noqa: SLF001 - the client offers no other way
    operation._remote_oid, operation._is_uploaded = present, True  # noqa: SLF001
    return operation


def _readme(publication: Publication, options: HubOptions, commit: str | None) -> bytes:
    """The card that is there."""
    local = options.api.hf_hub_download(publication.repo_id, README, revision=commit, cache_dir=options.cache_dir)
    return Path(local).read_bytes()


def _decoded(publication: Publication, card: bytes) -> str:
    """The card as text, with its own line ends."""
    try:
        return card.decode()
    except UnicodeDecodeError as error:
        raise PublishError(
            f"The README.md of '{publication.repo_id}' is not UTF-8: {error}.\n"
            "It is kept and our part put into it, which cannot be done without reading it.\n"
            "Save it as UTF-8, or remove it from the repo."
        ) from error


def _pull_requests(publication: Publication, api: HfApi) -> dict[int, CommitInfo]:
    """Open pull requests with our title, by number; nothing is asked where none is going to be opened."""
    if not publication.create_pr:
        return {}
    found = api.get_repo_discussions(publication.repo_id, discussion_type="pull_request", discussion_status="open")
    return {d.num: _as_commit(publication, d, api) for d in found if d.title == publication.message}


def _as_commit(publication: Publication, opened: Discussion, api: HfApi) -> CommitInfo:
    commit = api.repo_info(publication.repo_id, revision=opened.git_reference).sha
    return CommitInfo(
        commit_url=f"{api.endpoint}/{publication.repo_id}/commit/{commit}",
        commit_message=publication.message,
        commit_description="",
        oid=str(commit),
        pr_url=opened.url,
        _endpoint=api.endpoint,
    )


def _may_pass(error: Exception) -> bool:
    """Whether a later try may get past it."""
    cause = error.__cause__ if isinstance(error, RuntimeError) else error  # an upload that broke off
    if isinstance(cause, HfHubHTTPError):
        return cause.response.status_code in PASSING
    broken = isinstance(cause, (HTTPError, ConnectionError))
    return broken or isinstance(error, (RuntimeError, json.JSONDecodeError))  # the latter: a proxy's page of HTML


def _wait(error: Exception, attempt: int) -> float:
    """Seconds before the next try: what the Hub asks for, or twice as long each time."""
    asked = error.response.headers.get("Retry-After", "") if isinstance(error, HfHubHTTPError) else ""
    return min(LONGEST_WAIT, float(asked) if asked.isdigit() else FIRST_WAIT * 2.0 ** (attempt - 1))


def _refused(publication: Publication, error: Exception, attempts: int) -> PublishError:
    status = status_of(error)
    if status in (401, 403) or isinstance(error, RepositoryNotFoundError):
        state, fix = "Nothing in the repo was changed.", f"To write to it, {LOGIN} of an account that may."
    elif _may_pass(error):
        state = "The repo has all of it or none."
        fix = "The Hub or the connection is in trouble. Try again: what was uploaded is not sent twice."
    else:
        state, fix = "Nothing in the repo was changed.", "Check the repo id, the branch and the card's metadata."
    tries = "" if attempts == 1 else f" {attempts} times"
    reason = " ".join(str(error).split()) if isinstance(error, ValueError) else first_line(error)
    return PublishError(f"The Hub refused{tries} to take '{publication.repo_id}': {reason}\n{state}\n{fix}")

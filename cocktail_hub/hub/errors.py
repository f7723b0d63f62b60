"""Errors of the Hub's client: what they mean, and which ones are worth a retry."""

from __future__ import annotations

import json
import logging
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from cocktail_hub.errors import CocktailError, DiskSpaceError, SourceError
from cocktail_hub.storage.disk import FORBIDDEN, FULL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

logger = logging.getLogger(__name__)
T = TypeVar("T")
LOGIN = "log in with `hf auth login`, or pass `token=`"
RETRIED = frozenset({408, 409, 412, 429, 500, 502, 503, 504})
"""HTTP statuses worth a retry: the Hub is busy or down, or somebody else committed in between."""
FIRST_WAIT = 1.0
"""Seconds before the first retry; doubled before each further one."""
ATTEMPTS = 3
"""Attempts to read. The client itself repeats some requests, but not all, and not after every failure."""
PATIENCE = 5.0
"""Seconds."""
LONGEST_WAIT = 60.0
"""Maximum seconds before a retry, even if the Hub asks for more."""


def ask(step: Callable[[], T], repo_id: str, revision: str | None = None) -> T:
    """Return what reading a repo gives, with its errors translated. What may pass is tried `ATTEMPTS` times.

    An attempt of more than `PATIENCE` is the last one: the client has repeated its requests by itself.
    """
    with hub_errors(repo_id, revision):
        for attempt in range(1, ATTEMPTS + 1):
            began = time.monotonic()
            try:
                return step()
            except Exception as error:
                last = attempt == ATTEMPTS or time.monotonic() - began > PATIENCE
                garbage = isinstance(error, (KeyError, TypeError, AttributeError))  # what the client makes of it
                if last and garbage:
                    raise ConnectionError(f"an answer is not what the Hub sends ({error!r})") from error
                if last or not (garbage or may_pass(error)):
                    raise
                wait = retry_wait(attempt, error)
                logger.info("Attempt %d to read '%s' failed (%s); retrying in %g s.", attempt, repo_id, error, wait)
                time.sleep(wait)
    raise AssertionError  # the last attempt has returned or raised


@contextmanager
def hub_errors(repo_id: str, revision: str | None = None) -> Iterator[None]:
    """Translate errors of the client while a repo is read to SourceError, or DiskSpaceError if the disk is full."""
    try:
        yield
    except CocktailError:
        raise
    except Exception as error:
        if translated := _translated(error, repo_id, revision):
            raise translated from error
        raise


def _translated(error: BaseException, repo_id: str, revision: str | None) -> CocktailError | None:
    from huggingface_hub import errors as hf  # loads the HTTP client, which a mix of local folders does not need

    reason, status = first_line(error), status_of(error)
    number = error.errno if isinstance(error, OSError) else None
    not_cached = isinstance(error, (hf.LocalEntryNotFoundError, hf.RevisionResolutionError, hf.OfflineModeIsEnabled))
    down = first_line(error.__cause__) if not_cached and error.__cause__ and may_pass(error) else ""
    if not_cached and error.__cause__ and status_of(error.__cause__) not in (None, *RETRIED):
        return _translated(error.__cause__, repo_id, revision)  # the client looked into the cache after a refusal
    folder, revision = repo_id.rsplit("/", maxsplit=1)[-1], revision or "main"
    table = (  # the first row that applies: what is wrong, why it matters, how to fix it
        (
            number in FULL,
            f"The disk became full while '{repo_id}' was downloaded: {reason}",
            "Files that were downloaded completely are kept.",
            "Free some space, or set HF_HOME to a folder on a larger disk.",
        ),
        (
            number in FORBIDDEN,
            f"The Hub cache cannot be written while '{repo_id}' is downloaded: {reason}",
            "Downloaded files are kept there.",
            "Set HF_HOME, or pass `cache_dir` (`--cache-dir`), to a writable folder.",
        ),
        (
            bool(down),
            f"The Hub did not answer, and '{repo_id}' at revision '{revision}' is not in the local cache: {down}",
            "Nothing was changed or lost.",
            "Check the connection, and try again; if the error persists, look at https://status.huggingface.co.",
        ),
        (
            not_cached,
            f"'{repo_id}' at revision '{revision}' is not in the local cache, and no requests may be made.",
            "Working offline (`HF_HUB_OFFLINE`, `local_files_only=True`) needs everything cached.",
            f"Go online once. ({reason})",
        ),
        (
            isinstance(error, hf.GatedRepoError),
            f"'{repo_id}' is gated, and this account has no access to it.",
            "Its files cannot be downloaded until its authors grant access.",
            f"Request access on its page on the Hub, then {LOGIN}.",
        ),
        (
            isinstance(error, hf.RepositoryNotFoundError),
            f"'{repo_id}' is not on the Hub, or it is private and the token in use cannot see it.",
            "Nothing can be downloaded from it.",
            f"Check the spelling; for a private repo {LOGIN}; for a local folder write './{folder}'.",
        ),
        (
            isinstance(error, hf.RevisionNotFoundError),
            f"'{repo_id}' has no revision '{revision}'.",
            "A revision is a branch, a tag or a commit.",
            "Check its spelling, or leave `revision` out for the default branch.",
        ),
        (
            isinstance(error, hf.EntryNotFoundError),
            f"'{repo_id}' lacks a required file: {reason}",
            "The model cannot be read without it.",
            "Check the repo id and the revision, or choose another model.",
        ),
        (
            isinstance(error, hf.DisabledRepoError),
            f"The Hub has disabled '{repo_id}'.",
            "Nothing can be downloaded from it.",
            "Choose another model.",
        ),
        (
            status == 401,  # noqa: PLR2004
            f"The Hub does not accept the access token that was sent for '{repo_id}': {reason}",
            "It may have expired, or be mistyped.",
            f"To get another one, {LOGIN}.",
        ),
        (
            status == 403,  # noqa: PLR2004
            f"The access token in use may not read '{repo_id}': {reason}",
            "Nothing can be downloaded from it.",
            f"Grant it access at https://huggingface.co/settings/tokens, or {LOGIN} of another account.",
        ),
        (
            status is not None,
            f"The Hub refused a request about '{repo_id}': {reason}",
            "Nothing was changed or lost.",
            "Try again later; if the error persists, look at https://status.huggingface.co.",
        ),
        (
            isinstance(error, hf.HFValidationError),
            f"'{repo_id}' is neither a local folder nor a Hub id: {reason}",
            "Nothing can be read from it.",
            "Write 'org/name' for a repo on the Hub, './name' for a folder.",
        ),
        (
            # OSError and RuntimeError also come from the Xet client; a proxy's page of HTML is no JSON
            isinstance(error, (hf.HTTPError, OSError, RuntimeError, json.JSONDecodeError)),
            f"The connection to the Hub broke while reading '{repo_id}': {reason}",
            "Files that were downloaded completely are kept.",
            "Try again.",
        ),
    )
    for applies, *lines in table:
        if applies:
            return (DiskSpaceError if number in FULL else SourceError)("\n".join(lines))
    return None


def first_line(error: BaseException) -> str:
    """The first non-empty line of an error's text, or else its class."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def status_of(error: BaseException | None) -> int | None:
    """HTTP status of the Hub's answer; `None` for errors without one."""
    return getattr(getattr(error, "response", None), "status_code", None)


def may_pass(error: BaseException) -> bool:
    """Whether a retry may succeed."""
    from huggingface_hub import errors as hf

    # The first two: the client looked into its cache, in vain, after the Hub did not answer. RuntimeError: an upload.
    wrapped = isinstance(error, (hf.LocalEntryNotFoundError, hf.RevisionResolutionError, RuntimeError))
    cause = error.__cause__ if wrapped else error
    if isinstance(cause, hf.OfflineModeIsEnabled):
        return False
    if (status := status_of(cause)) is not None:
        return status in RETRIED
    # JSONDecodeError, FileMetadataError: a proxy's page. OSError without a number: the client counted too few bytes.
    broken = isinstance(cause, (hf.HTTPError, ConnectionError, json.JSONDecodeError, hf.FileMetadataError))
    return broken or isinstance(error, RuntimeError) or (type(cause) is OSError and cause.errno is None)


def url_expired(error: Exception) -> bool:
    """Whether the storage refused a file that was sent to the address that the Hub gave: a fresh one may do."""
    response: Any = getattr(error.__cause__ or error, "response", None)
    return status_of(error.__cause__ or error) == 403 and response.request.method == "PUT"  # noqa: PLR2004


def retry_wait(attempt: int, error: Exception | None) -> float:
    """Seconds to wait after the failed attempt number `attempt`, from 1: what the Hub asks for, or twice as long."""
    asked = getattr(getattr(error, "response", None), "headers", {}).get("Retry-After", "")
    return min(LONGEST_WAIT, float(asked) if asked.isdigit() else FIRST_WAIT * 2.0 ** (attempt - 1))

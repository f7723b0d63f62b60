"""Errors of the Hub's client: what they mean, and which ones are worth a retry."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cocktail_hub.errors import CocktailError, DiskSpaceError, SourceError
from cocktail_hub.storage.disk import FORBIDDEN, FULL

if TYPE_CHECKING:
    from collections.abc import Iterator

LOGIN = "log in with `hf auth login`, or pass `token=`"
RETRIED = frozenset({408, 409, 412, 429, 500, 502, 503, 504})
"""HTTP statuses worth a retry: the Hub is busy or down, or somebody else committed in between."""
FIRST_WAIT = 1.0
"""Seconds before the first retry; doubled before each further one."""
LONGEST_WAIT = 60.0
"""Maximum seconds before a retry, even if the Hub asks for more."""


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
            not_cached,
            f"'{repo_id}' at revision '{revision}' is not in the local cache, and the Hub could not be asked.",
            "Working offline (`HF_HUB_OFFLINE`, `local_files_only=True`, or no connection) needs everything cached.",
            f"Go online once, or check the connection. ({reason})",
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


def may_pass(error: Exception) -> bool:
    """Whether a retry may succeed."""
    from huggingface_hub.errors import HTTPError

    cause = error.__cause__ if isinstance(error, RuntimeError) else error  # RuntimeError: an upload that broke off
    if (status := status_of(cause)) is not None:
        return status in RETRIED
    broken = isinstance(cause, (HTTPError, ConnectionError))
    return broken or isinstance(error, (RuntimeError, json.JSONDecodeError))  # the latter: the HTML page of a proxy


def retry_wait(attempt: int, error: Exception | None) -> float:
    """Seconds to wait after the failed attempt number `attempt`, from 1: what the Hub asks for, or twice as long."""
    asked = getattr(getattr(error, "response", None), "headers", {}).get("Retry-After", "")
    return min(LONGEST_WAIT, float(asked) if asked.isdigit() else FIRST_WAIT * 2.0 ** (attempt - 1))

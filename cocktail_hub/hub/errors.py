"""What the Hub's refusals mean, in words: what is wrong, why it matters, how to fix it."""

from __future__ import annotations

from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)

from cocktail_hub.errors import CocktailError, DiskSpaceError, SourceError
from cocktail_hub.storage.disk import FORBIDDEN, FULL

LOGIN = "log in with `hf auth login`, or pass `token=`"
PASSING = frozenset({408, 409, 412, 429, 500, 502, 503, 504})
"""HTTP statuses that a later try can get past: busy, down, or somebody committed in between."""
_UNAUTHORIZED = 401
_MAY_NOT = 403
_CLIENT_ERRORS = (
    HTTPError,
    OSError,  # ConnectionError of the Xet client among them
    RuntimeError,  # what is left of the Xet client's
    EntryNotFoundError,
    HFValidationError,
    RevisionResolutionError,
)


def status_of(error: BaseException) -> int | None:
    """HTTP status of the Hub's answer; `None` where no answer came."""
    return error.response.status_code if isinstance(error, HfHubHTTPError) else None


def first_line(error: BaseException) -> str:
    """The first line of an error that says something."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def in_words(error: Exception, model: str, revision: str | None) -> CocktailError | None:
    """What an error of the client says about one repo, and how to fix it; `None`: it is not the client's."""
    return _told(error, model, revision) if isinstance(error, _CLIENT_ERRORS) else None


def _told(error: Exception, model: str, revision: str | None) -> CocktailError:
    if isinstance(error, OSError) and error.errno in FULL | FORBIDDEN:
        return _not_written(error, model)
    if isinstance(error, (LocalEntryNotFoundError, RevisionResolutionError, OfflineModeIsEnabled)):
        return _offline(error, model, revision)
    if isinstance(error, HfHubHTTPError):
        return _answered(error, model, revision)
    if isinstance(error, HFValidationError):
        return SourceError(
            f"'{model}' is neither a local folder nor a Hub id: {first_line(error)}\n"
            "Nothing can be read from it.\nWrite 'org/name' for a repo on the Hub, './name' for a folder."
        )
    if isinstance(error, EntryNotFoundError):
        return SourceError(f"'{model}' lacks a file that is needed: {first_line(error)}")
    return SourceError(
        f"The connection to the Hub broke while reading '{model}': {first_line(error)}\n"
        "Files that came whole are kept.\nTry again."
    )


def _not_written(error: OSError, model: str) -> CocktailError:
    """The disk of the Hub cache says no."""
    if error.errno in FULL:
        return DiskSpaceError(
            f"The disk became full while '{model}' was downloaded: {first_line(error)}\n"
            "What was downloaded whole is kept.\nFree some space, or set HF_HOME to a folder on a larger disk."
        )
    return SourceError(
        f"The Hub cache cannot be written while '{model}' is downloaded: {first_line(error)}\n"
        "What is not in it cannot be brought to this machine.\n"
        "Set HF_HOME, or pass `cache_dir` (`--cache-dir`), to a folder that you may write to."
    )


def _offline(error: Exception, model: str, revision: str | None) -> CocktailError:
    """Not cached, and the Hub was not asked or gave no usable answer; where it gave one, that is what counts."""
    cause = error.__cause__
    if isinstance(cause, HfHubHTTPError) and cause.response.status_code not in PASSING:
        return _answered(cause, model, revision)
    return SourceError(
        f"'{model}' at revision '{revision or 'main'}' is not in the local cache, and the Hub could not be asked.\n"
        "Working offline (`HF_HUB_OFFLINE`, `local_files_only=True`, or no connection) needs everything cached.\n"
        f"Go online once, or check the connection. ({first_line(error)})"
    )


def _answered(error: HfHubHTTPError, model: str, revision: str | None) -> SourceError:
    """What the Hub itself said."""
    if isinstance(error, GatedRepoError):
        return SourceError(
            f"'{model}' is gated, and this account has no access to it.\n"
            "Its files cannot be downloaded until its authors grant it.\n"
            f"Ask for access on its page on the Hub, then {LOGIN}."
        )
    if isinstance(error, RepositoryNotFoundError):
        folder = model.rsplit("/", maxsplit=1)[-1]
        return SourceError(
            f"'{model}' is not on the Hub, or it is private and the token in use cannot see it.\n"
            "Nothing can be downloaded from it.\n"
            f"Check the spelling; for a private repo {LOGIN}; for a local folder write './{folder}'."
        )
    if isinstance(error, RevisionNotFoundError):
        return SourceError(
            f"'{model}' has no revision '{revision or 'main'}'.\nA revision is a branch, a tag or a commit.\n"
            "Check its spelling, or leave `revision` out for the default branch."
        )
    if isinstance(error, EntryNotFoundError):
        return SourceError(f"'{model}' lacks a file that is needed: {first_line(error)}")
    return _refused(error, model)


def _refused(error: HfHubHTTPError, model: str) -> SourceError:
    """An answer that says no more than its status."""
    if isinstance(error, DisabledRepoError):
        return SourceError(
            f"The Hub has disabled '{model}'.\nNothing can be downloaded from it.\nChoose another model."
        )
    if error.response.status_code == _UNAUTHORIZED:
        return SourceError(
            f"The Hub does not accept the access token that was sent for '{model}': {first_line(error)}\n"
            f"It may have expired, or be mistyped.\nTo get another one, {LOGIN}."
        )
    if error.response.status_code == _MAY_NOT:
        return SourceError(
            f"The access token in use may not read '{model}': {first_line(error)}\n"
            "Nothing can be downloaded from it.\n"
            f"Give the token that permission on https://huggingface.co/settings/tokens, or {LOGIN} of another account."
        )
    return SourceError(
        f"The Hub refused a request about '{model}': {first_line(error)}\n"
        "Nothing was changed or lost.\nTry again in a while; if it stays, look at https://status.huggingface.co."
    )

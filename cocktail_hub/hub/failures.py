"""What the Hub's refusals mean, in words: what is wrong, why it matters, how to fix it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

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

from cocktail_hub.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOGIN = "log in with `hf auth login`, or pass `token=`"


@contextmanager
def explained(model: str, revision: str | None = None) -> Iterator[None]:
    """Turn the client's errors about one repo into a `SourceError` that says how to fix them.

    Raises:
        SourceError: the Hub said no, could not be reached, or is not to be asked.
    """
    try:
        yield
    except GatedRepoError as error:
        raise SourceError(
            f"'{model}' is gated, and this account has no access to it.\n"
            "Its files cannot be downloaded until its authors grant it.\n"
            f"Ask for access on the model's page, then {_LOGIN}."
        ) from error
    except RepositoryNotFoundError as error:
        raise SourceError(
            f"'{model}' is not on the Hub, or it is private and the token in use cannot see it.\n"
            "Nothing can be downloaded from it.\n"
            f"Check the spelling; for a private repo {_LOGIN}; for a local folder write './{model.rsplit('/', maxsplit=1)[-1]}'."
        ) from error
    except RevisionNotFoundError as error:
        raise SourceError(
            f"'{model}' has no revision '{revision}'.\nA revision is a branch, a tag or a commit.\n"
            "Check its spelling, or leave `revision` out for the default branch."
        ) from error
    except (LocalEntryNotFoundError, RevisionResolutionError, OfflineModeIsEnabled) as error:
        raise SourceError(
            f"'{model}' at revision '{revision or 'main'}' is not in the local cache, and the Hub could not be asked.\n"
            "Working offline (`HF_HUB_OFFLINE`, `local_files_only=True`, or no connection) needs everything cached.\n"
            f"Go online once, or check the connection. ({_first_line(error)})"
        ) from error
    except EntryNotFoundError as error:
        raise SourceError(f"'{model}' lacks a file that is needed: {_first_line(error)}") from error
    except DisabledRepoError as error:
        raise SourceError(f"The Hub has disabled '{model}'. Choose another model.") from error
    except HFValidationError as error:
        raise SourceError(f"'{model}' is neither a local folder nor a Hub id: {_first_line(error)}") from error
    except HfHubHTTPError as error:
        raise SourceError(
            f"The Hub refused a request about '{model}': {_first_line(error)}\n"
            "Try again in a while; if it stays, check the token and https://status.huggingface.co."
        ) from error
    except (HTTPError, ConnectionError) as error:  # the Xet client raises Python's own ConnectionError
        raise SourceError(
            f"The connection to the Hub broke while reading '{model}': {_first_line(error)}\n"
            "What was downloaded is kept. Try again."
        ) from error


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)

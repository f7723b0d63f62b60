"""Every message about an error of the Hub says what is wrong, why it matters and how to fix it."""

from __future__ import annotations

import errno
import json
import os

import httpx2
import pytest
from huggingface_hub import errors

from cocktail_hub.errors import CheckpointError, CocktailError, DiskSpaceError, SourceError
from cocktail_hub.hub import errors as hub_room
from cocktail_hub.hub.errors import first_line, hub_errors, may_pass, retry_wait, status_of


def answer(status: int) -> httpx2.Response:
    return httpx2.Response(status, request=httpx2.Request("GET", "http://hub/x"))


def told(error: Exception, kind: type[CocktailError] = SourceError) -> str:
    with pytest.raises(kind) as caught, hub_errors("org/a", "v1"):
        raise error
    assert caught.value.__cause__ is error
    return str(caught.value)


@pytest.mark.parametrize(
    ("error", "starts", "ends"),
    [
        (
            errors.GatedRepoError("no", response=answer(403)),
            "'org/a' is gated, and this account has no access to it.\nIts files cannot be downloaded until its authors",
            "Request access on its page on the Hub, then log in with `hf auth login`, or pass `token=`.",
        ),
        (
            errors.RepositoryNotFoundError("no", response=answer(404)),
            "'org/a' is not on the Hub, or it is private and the token in use cannot see it.\nNothing can be",
            "for a local folder write './a'.",
        ),
        (
            errors.RevisionNotFoundError("no", response=answer(404)),
            "'org/a' has no revision 'v1'.\nA revision is a branch, a tag or a commit.",
            "Check its spelling, or leave `revision` out for the default branch.",
        ),
        (
            errors.RemoteEntryNotFoundError("404: config.json", response=answer(404)),
            "'org/a' lacks a required file: 404: config.json",
            "or choose another model.",
        ),
        (
            errors.DisabledRepoError("no", response=answer(403)),
            "The Hub has disabled 'org/a'.\nNothing can be downloaded from it.",
            "Choose another model.",
        ),
        (
            errors.HfHubHTTPError("401 bad", response=answer(401)),
            "The Hub does not accept the access token that was sent for 'org/a': 401 bad\nIt may have expired",
            "To get another one, log in with `hf auth login`, or pass `token=`.",
        ),
        (
            errors.HfHubHTTPError("403 no", response=answer(403)),
            "The access token in use may not read 'org/a': 403 no\nNothing can be downloaded from it.",
            "or log in with `hf auth login`, or pass `token=` of another account.",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied"),
            "The Hub cache cannot be written while 'org/a' is downloaded: [Errno 13] Permission denied\nDownloaded",
            "to a writable folder.",
        ),
        (
            errors.HfHubHTTPError("\n\n503 busy\nmore", response=answer(503)),
            "The Hub refused a request about 'org/a': 503 busy\nNothing was changed or lost.",
            "Try again later; if the error persists, look at https://status.huggingface.co.",
        ),
        (
            errors.LocalEntryNotFoundError("not cached"),
            "'org/a' at revision 'v1' is not in the local cache, and no requests may be made.\nWorking offline",
            "Go online once. (not cached)",
        ),
        (
            errors.OfflineModeIsEnabled("offline"),
            "'org/a' at revision 'v1' is not in the local cache, and no requests may be made.",
            "(offline)",
        ),
        (
            errors.RevisionResolutionError("no ref"),
            "'org/a' at revision 'v1' is not in the local cache, and no requests may be made.",
            "(no ref)",
        ),
        (
            errors.HFValidationError("Repo id must be"),
            "'org/a' is neither a local folder nor a Hub id: Repo id must be\nNothing can be read from it.",
            "Write 'org/name' for a repo on the Hub, './name' for a folder.",
        ),
        (
            httpx2.ConnectError("refused"),
            "The connection to the Hub broke while reading 'org/a': refused\nFiles that were",
            "Try again.",
        ),
        (ConnectionError("Network error: 404"), "The connection to the Hub broke while reading 'org/a'", "Try again."),
        (json.JSONDecodeError("HTML", "", 0), "The connection to the Hub broke while reading 'org/a'", "Try again."),
        (RuntimeError("xet"), "The connection to the Hub broke while reading 'org/a': xet", "Try again."),
        (
            OSError("Consistency check failed: file should be of size 3"),
            "The connection to the Hub broke while reading 'org/a': Consistency check failed",
            "Try again.",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_every_error_is_translated(error: Exception, starts: str, ends: str) -> None:
    message = told(error)
    assert message.startswith(starts)
    assert message.endswith(ends)


def test_a_full_disk_is_reported_with_a_way_out() -> None:
    message = told(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), DiskSpaceError)
    assert message.startswith("The disk became full while 'org/a' was downloaded: [Errno 28]")
    assert message.endswith("Free some space, or set HF_HOME to a folder on a larger disk.")


def test_a_refusal_behind_a_missing_cache_entry_is_reported() -> None:
    """After a refusal the client looks into the cache, and reports that the file is not cached."""
    hidden = errors.LocalEntryNotFoundError("not cached")
    hidden.__cause__ = errors.GatedRepoError("no", response=answer(403))
    assert told(hidden).startswith("'org/a' is gated")
    down = errors.LocalEntryNotFoundError("not cached")
    down.__cause__ = errors.HfHubHTTPError("503", response=answer(503))
    message = told(down)
    assert message.startswith("The Hub did not answer, and 'org/a' at revision 'v1' is not in the local cache: 503\n")
    assert "offline" not in message


def test_our_own_errors_are_not_translated() -> None:
    for error in (SourceError("mine"), CheckpointError("mine")):
        with pytest.raises(type(error), match=r"^mine$"), hub_errors("org/a"):
            raise error


def test_bugs_are_not_translated() -> None:
    with pytest.raises(KeyError), hub_errors("org/a"):
        raise KeyError("bug")


def test_the_first_line_is_the_first_that_is_not_empty() -> None:
    assert first_line(ValueError("\n  \n  one\ntwo")) == "one"
    assert first_line(ValueError("")) == "ValueError"


def test_only_an_answer_has_a_status() -> None:
    assert status_of(errors.HfHubHTTPError("x", response=answer(418))) == 418
    assert status_of(ConnectionError()) is None


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.HfHubHTTPError("busy", response=answer(503)), True),
        (errors.HfHubHTTPError("somebody else committed", response=answer(412)), True),
        (errors.HfHubHTTPError("no", response=answer(403)), False),
        (httpx2.ConnectError("refused"), True),
        (ConnectionError("reset"), True),
        (RuntimeError("an upload that broke off"), True),
        (json.JSONDecodeError("a proxy's page of HTML", "", 0), True),
        (ValueError("metadata"), False),
        (OSError("Consistency check failed: file should be of size 3"), True),
        (OSError(errno.EACCES, "Permission denied"), False),
        (errors.OfflineModeIsEnabled("offline"), False),
        (errors.LocalEntryNotFoundError("not cached"), False),
    ],
)
def test_what_may_pass_is_worth_a_retry(error: Exception, expected: bool) -> None:
    assert may_pass(error) is expected


def test_an_upload_that_the_hub_refused_is_not_worth_a_retry() -> None:
    failed = RuntimeError("upload failed")
    failed.__cause__ = errors.HfHubHTTPError("no", response=answer(403))
    assert not may_pass(failed)


def test_the_waits_grow_and_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_room, "FIRST_WAIT", 1.0)
    assert [retry_wait(attempt, ConnectionError()) for attempt in (1, 2, 3, 4, 20)] == [1.0, 2.0, 4.0, 8.0, 60.0]

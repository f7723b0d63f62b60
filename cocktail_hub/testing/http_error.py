"""HttpError: an answer other than success, raised anywhere below a route."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class HttpError(Exception):
    """Ends a request with a redirect or an error, and with the headers by which the client picks its own exception.

    Args:
        status: HTTP status, 300 or above.
        message: what the user reads; sent as JSON and as `X-Error-Message`.
        code: `X-Error-Code`, one of RepoNotFound, RevisionNotFound, EntryNotFound, GatedRepo, or empty.
        headers: sent besides.
    """

    def __init__(
        self, status: int, message: str = "", *, code: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.headers = dict(headers or {})


def repo_not_found(*, logged_in: bool) -> HttpError:
    """The Hub says 401 to strangers and 404 to users, for a missing repo and a private one alike."""
    return HttpError(404 if logged_in else 401, "Repository not found", code="RepoNotFound")


def revision_not_found(revision: str) -> HttpError:
    """No branch, tag, pull request or commit has this name."""
    return HttpError(404, f"Invalid rev id: {revision}", code="RevisionNotFound")


def entry_not_found(message: str, commit: str) -> HttpError:
    """The commit exists, but has no such file. The client remembers that under `X-Repo-Commit`."""
    return HttpError(404, message, code="EntryNotFound", headers={"X-Repo-Commit": commit})

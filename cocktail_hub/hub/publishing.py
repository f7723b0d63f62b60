"""Put files on the Hub in one commit, or one pull request. Safe to repeat."""

from __future__ import annotations

import logging
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HTTPError, RepositoryNotFoundError

from cocktail_hub.errors import PublishError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from huggingface_hub import HfApi

    from cocktail_hub.hub.files import HubOptions

logger = logging.getLogger(__name__)

ATTEMPTS = 5
"""How often a commit is tried; the client itself does not try it again."""
FIRST_WAIT = 1.0
"""Seconds before the second try; doubled for each further one."""
PASSING = frozenset({408, 409, 412, 429, 500, 502, 503, 504})
"""HTTP statuses that a later try can get past: busy, down, or somebody committed in between."""
OUR_WEIGHTS = re.compile(r"([^/]+/)*(model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json)")
"""Weight files that an earlier publication may have left, in the root or a module's folder."""


@dataclass(frozen=True, kw_only=True)
class Publication:
    """What to write where."""

    repo_id: str
    """Repo to write to; made if it is not there."""
    files: Mapping[str, Path | bytes]
    """Path in the repo -> what to write there. The card comes from `readme`."""
    readme: Callable[[str | None], str]
    """The card to write, given the one that is there (`None`: there is none)."""
    message: str
    """First line of the commit."""
    private: bool | None = None
    """Visibility of a repo that has to be made; `None`: the account's default."""
    revision: str | None = None
    """Branch to commit to, made if it is not there; `None`: the default branch."""
    create_pr: bool = False
    """Open a pull request instead of committing to the branch."""


def publish_files(publication: Publication, options: HubOptions) -> CommitInfo:
    """Write files to the Hub as one commit, and remove the weights that an earlier one left.

    Files that are there already are not sent again, so that it is safe to repeat after any failure.

    Raises:
        PublishError: the Hub did not take it; the repo is as it was before.
    """
    api = options.api
    _make_repo(publication, api)
    additions = [CommitOperationAdd(name, source) for name, source in sorted(publication.files.items())]
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _commit(publication, api, additions)
        except (HTTPError, ConnectionError) as error:
            status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
            if attempt == ATTEMPTS or (status is not None and status not in PASSING):
                raise _refused(publication, error, attempt) from error
            wait = FIRST_WAIT * 2 ** (attempt - 1)
            logger.info("Try %d to commit to '%s' failed (%s); again in %g s.", attempt, publication.repo_id, error, wait)
            time.sleep(wait)
    raise AssertionError("unreachable: the last attempt returns or raises")


def _make_repo(publication: Publication, api: HfApi) -> None:
    try:
        api.create_repo(publication.repo_id, private=publication.private, exist_ok=True)
        if publication.revision and not publication.revision.startswith("refs/pr/"):
            api.create_branch(publication.repo_id, branch=publication.revision, exist_ok=True)
    except (HTTPError, ConnectionError, ValueError) as error:
        raise _refused(publication, error, 1) from error


def _commit(publication: Publication, api: HfApi, additions: list[CommitOperationAdd]) -> CommitInfo:
    head = api.repo_info(publication.repo_id, revision=publication.revision).sha
    present = _present(publication, api, head)
    written = {operation.path_in_repo for operation in additions}
    stale = [path for path in present if OUR_WEIGHTS.fullmatch(path) and path not in written]
    card = publication.readme(present.get("README.md"))
    return api.create_commit(
        publication.repo_id,
        [
            *additions,
            CommitOperationAdd("README.md", card.encode()),
            *(CommitOperationDelete(path) for path in stale),
        ],
        commit_message=publication.message,
        revision=publication.revision,
        create_pr=publication.create_pr,
        parent_commit=head,  # somebody else's commit in between is a 412, and this is done again on top of it
    )


def _present(publication: Publication, api: HfApi, commit: str | None) -> Mapping[str, str]:
    """Every path of the repo; the README with its text."""
    paths = dict.fromkeys(api.list_repo_files(publication.repo_id, revision=commit), "")
    if "README.md" in paths:
        try:
            local = api.hf_hub_download(publication.repo_id, "README.md", revision=commit)
        except EntryNotFoundError:
            del paths["README.md"]
        else:
            with open(local, encoding="utf-8", newline="") as file:  # noqa: PTH123 - keep the line ends as they are
                paths["README.md"] = file.read()
    return paths


def _refused(publication: Publication, error: Exception, attempts: int) -> PublishError:
    reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if status in (401, 403) or isinstance(error, RepositoryNotFoundError):
        fix = "Log in with `hf auth login`, or pass a `token` that may write to this repo."
    elif status is None or status in PASSING:
        fix = "The Hub or the connection is in trouble. Try again: what was uploaded is not sent twice."
    else:
        fix = "Check the repo id and the branch."
    tries = "" if attempts == 1 else f" {attempts} times"
    return PublishError(
        f"The Hub refused{tries} to take '{publication.repo_id}': {reason}\n"
        f"Nothing in the repo was changed.\n{fix}"
    )

"""Publish files to the Hub in one commit, or one pull request. Safe to repeat."""

from __future__ import annotations

import logging
import re
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import huggingface_hub

from cocktail_hub.errors import CocktailError, PublishError
from cocktail_hub.hub.errors import LOGIN, first_line, may_pass, retry_wait, status_of, url_expired

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, RepoFile

logger = logging.getLogger(__name__)
T = TypeVar("T")
Operation: TypeAlias = "CommitOperationAdd | CommitOperationDelete"

README = "README.md"
ATTEMPTS = 5
"""Attempts to commit; the client itself does not retry a commit."""
OURS = re.compile(
    r"(\d+_\w+/)?(model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json)|recipe\.json|\.cocktail\.json"
)
"""Files that an earlier publication may have left: weights in the root or in a module's folder, recipe, manifest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Uploaded:
    """A large file that was uploaded ahead of the commit that names it."""

    size: int
    """Bytes."""
    sha256: str
    """Of its content, in hex."""


@dataclass(frozen=True, kw_only=True)
class Publication:
    """What to publish where.

    Raises:
        PublishError: the fields contradict each other.
    """

    repo_id: str
    """Repo to commit to; created if it does not exist."""
    files: Mapping[str, Path | bytes | Uploaded]
    """Path in the repo -> content. The card comes from `readme`."""
    readme: Callable[[str | None], str]
    """Returns the new card for the existing one (`None` if there is none)."""
    message: str
    """First line of the commit message."""
    description: str | None = None
    """The rest of the commit message."""
    tags: tuple[str, ...] = ()
    """Tags for the card, besides those that say what it is."""
    results: Mapping[str, Any] | None = None
    """Figures for the card, as an `Evaluation` has them for JSON."""
    private: bool | None = None
    """Visibility of a repo that has to be created; `None`: the account's default."""
    revision: str | None = None
    """Branch to commit to, created if it does not exist; `None`: the default branch."""
    create_pr: bool = False
    """Open a pull request instead of committing to the branch."""

    def __post_init__(self) -> None:
        if self.create_pr and self.revision not in (None, "main"):
            raise PublishError(
                f"A pull request goes to the default branch, not to '{self.revision}'.\nNothing was sent to the Hub.\n"
                "Leave out `revision`, or commit to it without `create_pr`."
            )
        if README in self.files:
            raise PublishError(
                f"'{README}' is written by `readme`, which keeps the existing card. Remove it from `files`."
            )


@dataclass(frozen=True)
class Publisher:
    """The steps of a publication. Each is retried while that may help; then it raises PublishError."""

    publication: Publication
    api: HfApi
    cache_dir: str | Path | None
    """Folder of the Hub cache, to which the existing card is downloaded."""

    def claim(self) -> Publication:
        """Return the publication with the full id of its repo, if the account in use may write there. Makes no repo."""
        target = self.publication
        user = self._whoami()
        repo_id = target.repo_id if "/" in target.repo_id else f"{user['name']}/{target.repo_id}"
        role = user.get("auth", {}).get("accessToken", {}).get("role")
        if role == "read":
            raise PublishError(
                f"The access token of '{user['name']}' may only read.\n'{repo_id}' cannot be published with it.\n"
                "Make one that may write at https://huggingface.co/settings/tokens, and run `hf auth login --force`."
            )
        namespace = repo_id.partition("/")[0]
        orgs = [org["name"] for org in user.get("orgs", ()) if org.get("roleInOrg") != "read"]
        if not self._retry(lambda: self._is_writable(repo_id)) and namespace not in (user["name"], *orgs):
            raise PublishError(
                f"'{user['name']}' may not make a repo in '{namespace}', and sees no '{repo_id}' there.\n"
                "So nothing can be published to it.\n"
                f"Check the spelling, write '{user['name']}/{repo_id.partition('/')[2]}', "
                f"or {LOGIN} of an account that may."
            )
        return replace(target, repo_id=repo_id)

    def _whoami(self) -> Mapping[str, Any]:
        from huggingface_hub.utils import get_token, validate_repo_id

        repo_id, token = self.publication.repo_id, self.api.token
        self._retry(lambda: validate_repo_id(repo_id))
        if token is False or not (token if isinstance(token, str) else get_token()):
            raise PublishError(
                f"You are not logged in.\nNobody can publish to '{repo_id}' without an account.\n"
                "Run `hf auth login`, or give a token."
            )
        try:
            found: Mapping[str, Any] = self._retry(self.api.whoami)
        except PublishError as error:
            if status_of(error.__cause__) != 401:  # noqa: PLR2004
                raise
            raise PublishError(
                f"The Hub does not accept the access token in use.\nNothing can be published to '{repo_id}' with it: "
                "it may have expired, or be mistyped.\nRun `hf auth login --force`, or give another token."
            ) from error
        return found

    def _is_writable(self, repo_id: str) -> bool:
        """Whether the repo exists and may be written to; anybody may open a pull request. Raises where it may not."""
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

        if self.publication.create_pr:
            return bool(self.api.repo_exists(repo_id))
        try:
            self.api.auth_check(repo_id, write=True)
        except RepositoryNotFoundError as error:
            if isinstance(error, GatedRepoError):
                raise
            return False
        return True

    def make_repo(self) -> Publication:
        """Create the repo and the branch if they do not exist; return the publication with the full id of its repo."""
        target = self.publication
        made = self._retry(lambda: self.api.create_repo(target.repo_id, private=target.private, exist_ok=True))
        target = replace(target, repo_id=made.repo_id)
        if (branch := target.revision) and not branch.startswith("refs/"):
            self._retry(lambda: self.api.create_branch(target.repo_id, branch=branch, exist_ok=True))
        return target

    def upload(self, name: str, file: Path, sha256: str) -> Uploaded:
        """Upload one large file ahead of the commit; the local file is not needed after that."""
        target, size = self.publication, file.stat().st_size

        def upload() -> Uploaded:
            operation = huggingface_hub.CommitOperationAdd(name, file)
            operation.upload_info.sha256 = bytes.fromhex(sha256)
            self.api.preupload_lfs_files(
                target.repo_id, [operation], revision=target.revision, create_pr=target.create_pr, free_memory=False
            )
            if not operation._is_uploaded:  # noqa: SLF001 - the client has no public name for it
                raise PublishError(
                    f"'{target.repo_id}' does not accept '{name}' as a large file.\n"
                    "Its .gitattributes or .gitignore prevent that, so it cannot be uploaded ahead of the commit.\n"
                    "Restore the repo's .gitattributes, or publish without `low_disk`."
                )
            return Uploaded(size=size, sha256=sha256)

        return self._retry(upload)

    def commit(self) -> CommitInfo:
        """Commit the files and the card, and delete weights and recipe that an earlier publication left.

        The repo must exist. Files that it already has are not sent again, and without any change there is no commit.
        """
        target = self.publication
        known: set[int] | None = None  # pull requests that were open before the first attempt
        additions: dict[str, list[CommitOperationAdd]] = {}  # by the commit that the client compared them with

        def commit() -> CommitInfo:
            nonlocal known
            opened = self._pull_requests()
            known = set(opened) if known is None else known
            if lost := opened.keys() - known:  # an earlier attempt opened it, but the answer was lost
                return opened[min(lost)]
            head, present, card = self._head()
            if head not in additions:
                additions.clear()
                additions[head] = [_addition(name, target.files[name], present) for name in sorted(target.files)]
            stale = [path for path in present if OURS.fullmatch(path) and path not in target.files]
            readme = huggingface_hub.CommitOperationAdd(README, target.readme(card).encode())
            return self._create([*additions[head], readme, *map(huggingface_hub.CommitOperationDelete, stale)], head)

        return self._retry(commit)

    def remove_recipe(self, names: Collection[str]) -> None:
        """Delete the files of the recipe, and write the card without it, in one commit; none if all that is gone."""

        def remove() -> None:
            head, present, card = self._head()
            text = self.publication.readme(card)
            operations: list[Operation] = [
                huggingface_hub.CommitOperationDelete(name) for name in names if name in present
            ]
            if text != (card or ""):
                operations.append(huggingface_hub.CommitOperationAdd(README, text.encode()))
            if operations:
                self._create(operations, head)

        self._retry(remove)

    def _head(self) -> tuple[str, dict[str, RepoFile], str | None]:
        """The commit to build on, its files by path, and its card."""
        repo_id = self.publication.repo_id
        head = str(self.api.repo_info(repo_id, revision=self.publication.revision).sha)
        tree = self.api.list_repo_tree(repo_id, recursive=True, revision=head)
        present = {entry.path: entry for entry in tree if isinstance(entry, huggingface_hub.RepoFile)}
        if README not in present:
            return head, present, None
        card = Path(self.api.hf_hub_download(repo_id, README, revision=head, cache_dir=self.cache_dir)).read_bytes()
        try:
            return head, present, card.decode()  # with its own line ends
        except UnicodeDecodeError as error:
            raise PublishError(
                f"The README.md of '{repo_id}' is not UTF-8: {error}.\n"
                "The card of the mix is inserted into it, which requires reading it.\n"
                "Save it as UTF-8, or remove it from the repo."
            ) from error

    def _create(self, operations: list[Operation], head: str) -> CommitInfo:
        """Commit on top of `head`; if somebody else has committed since, the Hub answers 412 and it is all redone."""
        target = self.publication
        return self.api.create_commit(
            target.repo_id,
            operations,
            commit_message=target.message,
            commit_description=target.description,
            revision=target.revision,
            create_pr=target.create_pr,
            parent_commit=head,
        )

    def _pull_requests(self) -> dict[int, CommitInfo]:
        """Open pull requests with our title, by number; none unless one is to be opened."""
        if not self.publication.create_pr:
            return {}
        repo_id, title, endpoint = self.publication.repo_id, self.publication.message, self.api.endpoint
        opened = self.api.get_repo_discussions(repo_id, discussion_type="pull_request", discussion_status="open")
        found = {}
        for request in (request for request in opened if request.title == title):
            oid = str(self.api.repo_info(repo_id, revision=request.git_reference).sha)
            found[request.num] = huggingface_hub.CommitInfo(
                commit_url=f"{endpoint}/{repo_id}/commit/{oid}",
                commit_message=title,
                commit_description="",
                oid=oid,
                pr_url=request.url,
                _endpoint=endpoint,
            )
        return found

    def _retry(self, step: Callable[[], T]) -> T:
        from huggingface_hub.errors import HTTPError, RepositoryNotFoundError

        repo_id, attempt = self.publication.repo_id, 0
        while True:
            attempt += 1
            try:
                return step()
            except CocktailError:  # such as those of `readme`
                raise
            except (HTTPError, ConnectionError, RuntimeError, ValueError) as error:
                # ValueError is metadata that the client refuses, RuntimeError an upload that broke off.
                if (may_pass(error) or (attempt == 1 and url_expired(error))) and attempt < ATTEMPTS:
                    wait = retry_wait(attempt, error)
                    logger.info(
                        "Attempt %d to publish '%s' failed (%s); retrying in %g s.", attempt, repo_id, error, wait
                    )
                    time.sleep(wait)
                    continue
                state, fix = (
                    "Nothing in the repo was changed.",
                    "Check the repo id, the branch and the card's metadata.",
                )
                if status_of(error) in (401, 403) or isinstance(error, RepositoryNotFoundError):
                    fix = f"To write to it, {LOGIN} of an account that may."
                elif may_pass(error):
                    state = "Either all of it was committed or nothing."
                    fix = "The Hub or the connection is failing. Try again: uploaded files are not sent twice."
                times = "" if attempt == 1 else f" {attempt} times"
                reason = " ".join(str(error).split()) if isinstance(error, ValueError) else first_line(error)
                raise PublishError(f"The Hub refused '{repo_id}'{times}: {reason}\n{state}\n{fix}") from error


def _addition(name: str, source: Path | bytes | Uploaded, present: Mapping[str, RepoFile]) -> CommitOperationAdd:
    if not isinstance(source, Uploaded):
        return huggingface_hub.CommitOperationAdd(name, source)
    from huggingface_hub.lfs import UploadInfo

    # What `preupload_lfs_files` would leave of an addition, for a file that is no longer on this machine. The client
    # has no public way to say so.
    lfs = present[name].lfs if name in present else None
    operation = huggingface_hub.CommitOperationAdd(name, b"")
    operation.upload_info = UploadInfo(size=source.size, sample=b"", sha256=bytes.fromhex(source.sha256))
    operation._upload_mode, operation._should_ignore = "lfs", False  # noqa: SLF001
    operation._remote_oid, operation._is_uploaded = lfs.sha256 if lfs else None, True  # noqa: SLF001
    return operation

"""Call: one request, as the routes see it, and what its sender may do."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from cocktail_hub.testing.http_error import HttpError, repo_not_found

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cocktail_hub.testing.body import RequestBody
    from cocktail_hub.testing.repos import Repo
    from cocktail_hub.testing.site import Site
    from cocktail_hub.testing.users import User


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request."""

    site: Site
    """The Hub that was asked."""
    method: str
    """Of the route: GET also stands for HEAD."""
    path: str
    """Without the query, percent-encoded."""
    args: Mapping[str, str]
    """The parts of the path that the route names, decoded."""
    query: Mapping[str, list[str]]
    """Decoded."""
    headers: Mapping[str, str]
    """Names in lower case."""
    body: RequestBody
    """Not yet read."""

    def json(self) -> dict[str, Any]:
        """The whole body, as a JSON object.

        Raises:
            HttpError: 400, it is not one.
        """
        try:
            value = json.loads(self.body.read() or b"{}")
        except ValueError as error:
            raise HttpError(400, f"The body is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise HttpError(400, "The body is not a JSON object")
        return value

    def first(self, name: str, default: str = "") -> str:
        """The first value of a query parameter."""
        return self.query.get(name, [default])[0]

    def next_page(self, cursor: int) -> dict[str, str]:
        """The `Link` header that leads to the rest of a listing."""
        query = urlencode({**self.query, "cursor": [str(cursor)]}, doseq=True)
        return {"Link": f'<{self.site.url}{self.path}?{query}>; rel="next"'}

    def flag(self, name: str) -> bool:
        """Whether a query parameter says yes: `?name=1`, `?name=true`."""
        return self.first(name).lower() in ("1", "true")

    # -- the sender --------------------------------------------------------------------------------------------------

    @property
    def user(self) -> User | None:
        """The owner of the token; None without a token.

        Raises:
            HttpError: 401, nobody has this token.
        """
        scheme, _, token = self.headers.get("authorization", "").partition(" ")
        if scheme != "Bearer":
            return None
        if token not in self.site.users:
            raise HttpError(401, "Invalid credentials in Authorization header")
        return self.site.users[token]

    def known_user(self) -> User:
        """The owner of the token.

        Raises:
            HttpError: 401, no token, or nobody has it.
        """
        user = self.user
        if user is None:
            raise HttpError(401, "Invalid username or password.")
        return user

    def writer(self) -> User:
        """The owner of the token, if it is one for writing; it may be too little for this repo.

        Raises:
            HttpError: 401 without a token, 403 for a read token.
        """
        user = self.known_user()
        if user.role != "write":
            raise HttpError(403, "Forbidden: you must use a write token")
        return user

    def writer_in(self, namespace: str) -> User:
        """The owner of the token, who may write in a namespace.

        Raises:
            HttpError: 401 without a token, 403 for anyone else.
        """
        user = self.writer()
        if not user.belongs_to(namespace):
            raise HttpError(403, f"Forbidden: {user.name} has no right to write in {namespace!r}")
        return user

    # -- the repo ----------------------------------------------------------------------------------------------------

    @property
    def kind(self) -> str:
        """The kind of repo that the path is about: model, dataset or space."""
        return (self.args.get("kinds") or "models").rstrip("/").removesuffix("s")

    def visible_repo(self, kind: str = "", repo_id: str = "") -> Repo:
        """The repo of the path, or another, if the sender may know that it exists.

        Raises:
            HttpError: 307 for a name that it had before, or has in other letters; 401 or 404 RepoNotFound.
        """
        user, asked = self.user, repo_id or self.args["repo"]
        repo = self.site.find(kind or self.kind, asked)
        if repo is None or not may_see(user, repo):
            raise repo_not_found(logged_in=user is not None)
        if repo.id != asked and not repo_id:
            query = f"?{urlencode(self.query, doseq=True)}" if self.query else ""
            there = self.path.replace(f"/{asked}", f"/{repo.id}", 1) + query
            raise HttpError(307, f"Moved to {repo.id}", headers={"Location": there})
        return repo

    def readable_repo(self) -> Repo:
        """The repo of the path, if the sender may read its files.

        Raises:
            HttpError: 401 or 404 RepoNotFound; 401 or 403 GatedRepo.
        """
        repo, user = self.visible_repo(), self.user
        if not repo.gated or (user and (user.belongs_to(repo.namespace) or user.name in repo.admitted)):
            return repo
        message = f"Access to {repo.kind} {repo.id} is restricted"
        if user is None:
            raise HttpError(401, f"{message}. You must be authenticated to access it. Please log in.", code="GatedRepo")
        raise HttpError(
            403,
            f"{message} and you are not in the authorized list. Visit {self.site.url}/{repo.route} to ask for access.",
            code="GatedRepo",
        )

    def writable_repo(self, kind: str = "", repo_id: str = "") -> Repo:
        """The repo of the path, or another, if the sender may change it.

        Raises:
            HttpError: 401 or 404 RepoNotFound; 401 or 403 without the right to write.
        """
        repo = self.visible_repo(kind, repo_id)
        self.writer_in(repo.namespace)
        return repo


def may_see(user: User | None, repo: Repo) -> bool:
    """Whether a user, or a stranger, may know that a repo exists."""
    return not repo.private or (user is not None and user.belongs_to(repo.namespace))

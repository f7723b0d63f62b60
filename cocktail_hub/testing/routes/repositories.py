"""Repos as wholes: create, list, describe, move, delete."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cocktail_hub.testing.call import may_see
from cocktail_hub.testing.description import describe, summarize
from cocktail_hub.testing.http_error import HttpError
from cocktail_hub.testing.reply import Reply, json_reply

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cocktail_hub.testing.call import Call
    from cocktail_hub.testing.repos import Repo

_PAGE = 1000
"""Repos in one answer to a listing."""


def create(call: Call) -> Reply:
    """POST repos/create."""
    asked = call.json()
    namespace = asked.get("organization") or call.known_user().name
    user = call.writer_in(namespace)
    kind, repo_id = asked.get("type") or "model", f"{namespace}/{asked['name']}"
    with call.site.lock:
        known = call.site.find(kind, repo_id)
        known = known if known and known.id.lower() == repo_id.lower() else None  # a former name is free again
        repo = known or call.site.create_repo(kind, repo_id, author=user.name, private=_is_private(asked) or False)
    url = f"{call.site.url}/{repo.route}"
    if known:
        message = f"You already created this {kind} repo"
        return json_reply({"error": message, "url": url}, status=409, headers={"X-Error-Message": message})
    return json_reply({"url": url, "name": repo_id, "id": "0" * 24})


def delete(call: Call) -> Reply:
    """DELETE repos/delete."""
    asked = call.json()
    repo_id = f"{asked.get('organization') or call.known_user().name}/{asked['name']}"
    with call.site.lock:
        call.site.delete_repo(call.writable_repo(asked.get("type") or "model", repo_id))
    return Reply()


def move(call: Call) -> Reply:
    """POST repos/move: another name, perhaps in another namespace."""
    asked = call.json()
    kind, target = asked.get("type") or "model", asked["toRepo"]
    with call.site.lock:
        repo = call.writable_repo(kind, asked["fromRepo"])
        call.writer_in(target.split("/")[0])
        if (kind, target) in call.site.repos:
            raise HttpError(409, f"A {kind} repository called {target} already exists")
        call.site.move_repo(repo, target)
    return Reply()


def change_settings(call: Call) -> Reply:
    """PUT settings: visibility and gating."""
    asked = call.json()
    with call.site.lock:
        repo = call.writable_repo()
        private = _is_private(asked)
        repo.private = repo.private if private is None else private
        repo.gated = asked.get("gated", repo.gated)
        repo.save()
    return json_reply({"private": repo.private, "gated": repo.gated})


def _is_private(asked: Mapping[str, Any]) -> bool | None:
    """What was asked, in today's words or yesterday's; None for nothing."""
    if asked.get("visibility"):
        return bool(asked["visibility"] == "private")
    private = asked.get("private")
    return None if private is None else bool(private)


def check_access(call: Call) -> Reply:
    """GET auth-check: may the sender read the files?"""
    call.readable_repo()
    return json_reply({})


def check_write_access(call: Call) -> Reply:
    """GET auth-check/write: may the sender write?"""
    call.writable_repo()
    return json_reply({})


def info(call: Call) -> Reply:
    """GET a repo, perhaps at a revision. Public even where the files are gated."""
    repo = call.visible_repo()
    commit = repo.resolve(call.args.get("rev") or "main")
    wanted = call.query.get("expand") or call.query.get("expand[]")
    value = describe(call.site, repo, commit, file_sizes=call.flag("blobs"))
    if wanted:
        value = {name: item for name, item in value.items() if name in ("_id", "id", *wanted)}
    return json_reply(value)


def listing(call: Call) -> Reply:
    """GET all repos of a kind that the sender may see, by author, words and tags."""
    found = [(repo, summarize(call.site, repo, repo.resolve("main"))) for repo in _candidates(call)]
    values = [value for _, value in found if set(call.query.get("filter", [])) <= set(value["tags"])]
    start = int(call.first("cursor", "0"))
    stop = start + min(int(call.first("limit") or _PAGE), _PAGE)
    return json_reply(values[start:stop], headers=call.next_page(stop) if stop < len(values) else {})


def _candidates(call: Call) -> list[Repo]:
    author, words, user = call.first("author"), call.first("search").lower(), call.user
    return [
        repo
        for (kind, repo_id), repo in sorted(call.site.repos.items())
        if kind == call.kind and may_see(user, repo) and author in ("", repo.namespace) and words in repo_id.lower()
    ]

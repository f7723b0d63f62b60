"""Branches and tags."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cocktail_hub.testing.http_error import HttpError, revision_not_found
from cocktail_hub.testing.reply import Reply, json_reply

if TYPE_CHECKING:
    from cocktail_hub.testing.call import Call
    from cocktail_hub.testing.repos import Repo

_NO_NAME = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|[/.]$|\.lock(/|$)")
"""What git allows in no name of a branch or tag."""


def refs(call: Call) -> Reply:
    """GET refs: every name that points to a commit."""
    repo = call.visible_repo()
    value = {
        "branches": _named(repo, "refs/heads/", shown_without="refs/heads/"),
        "converts": _named(repo, "refs/convert/", shown_without="refs/convert/"),
        "tags": _named(repo, "refs/tags/", shown_without="refs/tags/"),
    }
    if call.flag("include_prs"):
        value["pullRequests"] = _named(repo, "refs/pr/", shown_without="refs/")
    return json_reply(value)


def _named(repo: Repo, prefix: str, *, shown_without: str) -> list[dict[str, str]]:
    return [
        {"name": ref.removeprefix(shown_without), "ref": ref, "targetCommit": commit}
        for ref, commit in repo.refs.items()
        if ref.startswith(prefix)
    ]


def create_branch(call: Call) -> Reply:
    """POST branch/{name}: from the given revision, or from main."""
    start = call.json().get("startingPoint") or "main"
    return _create(call, f"refs/heads/{call.args['name']}", start)


def create_tag(call: Call) -> Reply:
    """POST tag/{rev}: name a commit."""
    return _create(call, f"refs/tags/{call.json()['tag']}", call.args["rev"])


def _create(call: Call, ref: str, revision: str) -> Reply:
    with call.site.lock:
        repo = call.writable_repo()
        if ref in repo.refs:
            raise HttpError(409, f"Reference {ref} already exists")
        commit = repo.resolve(revision)
        if _NO_NAME.search(ref):
            raise HttpError(400, f"Not a valid name for a reference: {ref!r}")
        repo.point(ref, commit.id)
    return json_reply({}, status=201)


def delete_branch(call: Call) -> Reply:
    """DELETE branch/{name}: any but main."""
    if call.args["name"] == "main":
        raise HttpError(403, "Cannot delete refs/heads/main")
    return _delete(call, f"refs/heads/{call.args['name']}")


def delete_tag(call: Call) -> Reply:
    """DELETE tag/{name}."""
    return _delete(call, f"refs/tags/{call.args['name']}")


def _delete(call: Call, ref: str) -> Reply:
    with call.site.lock:
        repo = call.writable_repo()
        if ref not in repo.refs:
            raise revision_not_found(ref)
        repo.point(ref, None)
    return Reply(status=204)

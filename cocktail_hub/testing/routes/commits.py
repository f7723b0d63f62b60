"""Writing: what goes where, and the commit that brings it there."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cocktail_hub.testing.commits import Commit, Entry, Tree, edited, files_under
from cocktail_hub.testing.http_error import HttpError, entry_not_found, revision_not_found
from cocktail_hub.testing.large_files import is_ignored, is_large
from cocktail_hub.testing.reply import Reply, json_reply

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cocktail_hub.testing.call import Call
    from cocktail_hub.testing.repos import Repo
    from cocktail_hub.testing.site import Site

_SHA256 = re.compile("[0-9a-f]{64}")


def preupload(call: Call) -> Reply:
    """POST preupload/{rev}: say of each file whether it goes into the commit or ahead of it, and what is there now."""
    repo = call.readable_repo()
    commit, asked = repo.resolve(call.args["rev"]), call.json()
    call.writer()
    if not call.flag("create_pr"):
        _check_branch(call, repo, call.args["rev"])
    kept = {name: _text(call.site, commit, name) for name in (".gitattributes", ".gitignore")}
    kept[".gitignore"] = asked.get("gitIgnore") or kept[".gitignore"]
    return json_reply({"files": [_advice(call.site, commit, file, kept) for file in asked["files"]]})


def _text(site: Site, commit: Commit, path: str) -> str:
    entry = commit.tree.get(path)
    return site.body(entry.sha256).read_text(encoding="utf-8", errors="replace") if entry else ""


def _advice(site: Site, commit: Commit, file: dict[str, Any], kept: Mapping[str, str]) -> dict[str, Any]:
    path, sample = file["path"], base64.b64decode(file.get("sample") or "")
    threshold = site.settings.lfs_threshold
    large = is_large(path, size=file["size"], sample=sample, threshold=threshold, attributes=kept[".gitattributes"])
    return {
        "path": path,
        "uploadMode": "lfs" if large else "regular",
        "shouldIgnore": is_ignored(path, kept[".gitignore"]),
        "oid": commit.tree[path].etag if path in commit.tree else None,
    }


def commit(call: Call) -> Reply:
    """POST commit/{rev}: all operations or none, as one commit; on a new pull request if asked."""
    repo = call.readable_repo()
    user, revision, in_new_pull = call.writer(), call.args["rev"], call.flag("create_pr")
    if not in_new_pull:
        _check_branch(call, repo, revision)
    asked = _read_operations(call)
    value: dict[str, Any] = {"success": True}
    with call.site.lock:
        head, ref = repo.resolve(revision), _branch(repo, revision)
        if ref is None and in_new_pull:
            raise revision_not_found(revision)
        if ref is None:
            raise HttpError(400, f"Cannot commit to {revision}: it is not a branch")
        if asked.parent and not head.id.startswith(asked.parent):
            raise HttpError(412, "The branch was updated since you opened this page. Please refresh and try again.")
        new = asked.apply(head, user.name)
        if in_new_pull:
            talk = repo.open_discussion(user.name, asked.title, asked.message, base=head, status="open")
            ref = talk.ref
            value["pullRequestUrl"] = f"{call.site.url}/{repo.route}/discussions/{talk.num}"
        repo.add(new, ref)
    value |= {"commitOid": new.id, "commitUrl": f"{call.site.url}/{repo.route}/commit/{new.id}", "hookOutput": ""}
    return json_reply(value)


def _check_branch(call: Call, repo: Repo, revision: str) -> None:
    """Refuse who may not write to a branch. The branch of a pull request is also open to its author."""
    authors = [talk.author for talk in repo.discussions.values() if talk.ref == revision]
    if call.writer().name not in authors:
        call.writer_in(repo.namespace)


def _branch(repo: Repo, revision: str) -> str | None:
    """The full name of a branch or pull request; None for a tag or a commit."""
    names = (ref for ref in (f"refs/heads/{revision}", revision) if ref in repo.refs)
    return next((ref for ref in names if not ref.startswith("refs/tags/")), None)


@dataclass(slots=True, kw_only=True)
class _Operations:
    """What a commit is to do."""

    title: str = ""
    """First line of its message."""
    message: str = ""
    """The rest of it."""
    parent: str = ""
    """The commit that must be the last one of the branch, if given."""
    added: Tree = field(default_factory=dict)
    """Files to add or replace."""
    deleted: list[str] = field(default_factory=list)
    """Files to delete."""
    deleted_folders: list[str] = field(default_factory=list)
    """Folders to delete."""

    def apply(self, head: Commit, author: str) -> Commit:
        """The commit after `head`.

        Raises:
            HttpError: 404 EntryNotFound, there is no such file to delete.
        """
        paths = {path: [path] if path in head.tree else files_under(head.tree, path) for path in self.deleted}
        paths |= {folder: files_under(head.tree, folder) for folder in self.deleted_folders}
        for asked, found in paths.items():
            if not found:
                raise entry_not_found(f"A file with this name doesn't exist: {asked}", head.id)
        tree = edited(head.tree, self.added, (path for found in paths.values() for path in found))
        return Commit.make(tree, parent=head.id, title=self.title, message=self.message, author=author)


def _read_operations(call: Call) -> _Operations:
    """Read the body, a JSON object a line, and store the files in it as they pass."""
    asked = _Operations()
    for line in call.body.lines():
        if not line.strip():
            continue
        operation = json.loads(line)
        kind, value = operation["key"], operation["value"]
        if kind == "header":
            asked.title, asked.message = value["summary"], value.get("description") or ""
            asked.parent = value.get("parentCommit") or ""
        elif kind == "file":
            asked.added[_checked(value["path"])] = _regular(call.site, value)
        elif kind == "lfsFile":
            asked.added[_checked(value["path"])] = _large(call.site, value)
        elif kind == "deletedFile":
            asked.deleted.append(value["path"])
        elif kind == "deletedFolder":
            asked.deleted_folders.append(value["path"])
        else:
            raise HttpError(400, f"Unknown operation {kind!r}")
    return asked


def _checked(path: str) -> str:
    if not path or path.startswith("..\\") or {"", ".", "..", ".git"} & set(path.split("/")):
        raise HttpError(422, f"Invalid path: {path!r}")
    return path


def _regular(site: Site, value: dict[str, Any]) -> Entry:
    content = value["content"]
    body = base64.b64decode(content) if value.get("encoding") == "base64" else content.encode()
    return Entry.regular(body, site.blobs.add([body]))


def _large(site: Site, value: dict[str, Any]) -> Entry:
    size = site.size(value["oid"]) if _SHA256.fullmatch(value["oid"]) else None
    if size is None:
        raise HttpError(400, f"LFS pointer pointed to a file that does not exist: {value['path']} ({value['oid']})")
    return Entry.large(value["oid"], size)

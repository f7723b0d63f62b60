"""Files of a commit, by folder and by path, and the commits themselves."""

from __future__ import annotations

import hashlib
from html import escape
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from cocktail_hub.testing.commits import files_under
from cocktail_hub.testing.description import lfs_info
from cocktail_hub.testing.http_error import entry_not_found
from cocktail_hub.testing.reply import Reply, json_reply

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cocktail_hub.testing.call import Call
    from cocktail_hub.testing.commits import Commit, Tree
    from cocktail_hub.testing.repos import Repo

_PAGE, _EXPANDED_PAGE = 1000, 50
"""Items in one answer, without and with the last commit of each."""


def tree(call: Call) -> Reply:
    """GET tree/{rev}[/{folder}]: files and folders, in pages."""
    repo = call.readable_repo()
    commit, folder = repo.resolve(call.args["rev"]), call.args.get("path", "")
    if folder and not files_under(commit.tree, folder):
        raise entry_not_found(f'{folder} does not exist on "{call.args["rev"]}"', commit.id)
    recursive, expand = call.flag("recursive"), call.flag("expand")
    paths = list(_listed(commit.tree, folder, recursive=recursive))
    start = int(call.first("cursor", "0"))
    stop = start + (_EXPANDED_PAGE if expand else _PAGE)
    headers = {"X-Repo-Commit": commit.id}
    if stop < len(paths):
        headers |= call.next_page(stop)
    return json_reply([_item(call, repo, commit, path, expand) for path in paths[start:stop]], headers=headers)


def _listed(files: Tree, folder: str, *, recursive: bool) -> Iterator[str]:
    """Yield the paths of folders and files in `folder`, each folder before what is in it."""
    depth = len(folder.split("/")) if folder else 0
    seen: set[str] = set()
    for path in files_under(files, folder):
        parts = path.split("/")
        steps = range(depth + 1, len(parts) + 1) if recursive else [depth + 1]
        for step in steps:
            shown = "/".join(parts[:step])
            if shown not in seen:
                seen.add(shown)
                yield shown


def paths_info(call: Call) -> Reply:
    """POST paths-info/{rev}: the same, for given paths; those that do not exist are left out."""
    repo = call.readable_repo()
    commit = repo.resolve(call.args["rev"])
    if "json" in call.headers.get("content-type", ""):
        asked = call.json()
        paths, expand = asked.get("paths", []), bool(asked.get("expand"))
    else:
        form = parse_qs(call.body.read().decode())
        paths, expand = form.get("paths", []), form.get("expand", [""])[0].lower() == "true"
    known = [path for path in paths if path in commit.tree or files_under(commit.tree, path)]
    return json_reply([_item(call, repo, commit, path, expand) for path in known])


def _item(call: Call, repo: Repo, commit: Commit, path: str, expand: bool) -> dict[str, Any]:
    """One file or folder, as the API shows it."""
    entry = commit.tree.get(path)
    if entry is None:
        content = "".join(commit.tree[file].oid + file for file in files_under(commit.tree, path))
        oid = hashlib.sha1(content.encode(), usedforsecurity=False).hexdigest()
        value: dict[str, Any] = {"type": "directory", "oid": oid, "size": 0, "path": path}
    else:
        value = {"type": "file", "oid": entry.oid, "size": entry.size, "path": path}
    if entry and entry.lfs:
        value["lfs"] = {"oid": entry.sha256, **lfs_info(entry)}
        xet = call.site.xet.file(entry.sha256)
        if xet:
            value["xetHash"] = xet.hash
    if expand:
        last = repo.last_change(path, commit)
        value["lastCommit"] = {"id": last.id, "title": last.title, "date": last.date}
    return value


def commits(call: Call) -> Reply:
    """GET commits/{rev}: the history, newest first; with titles and messages as HTML if asked."""
    repo = call.readable_repo()
    formatted = "formatted" in (call.query.get("expand") or call.query.get("expand[]") or ())
    history = [
        {
            "id": commit.id,
            "title": commit.title,
            "message": commit.message,
            "authors": [{"user": commit.author}],
            "date": commit.date,
            **({"formatted": {"title": escape(commit.title), "message": escape(commit.message)}} if formatted else {}),
        }
        for commit in repo.history(repo.resolve(call.args["rev"]))
    ]
    return json_reply(history, headers={"X-Total-Count": str(len(history))})

"""Reading files: where a path leads, and the bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from cocktail_hub.testing.http_error import entry_not_found
from cocktail_hub.testing.reply import Reply, file_reply, redirect

if TYPE_CHECKING:
    from cocktail_hub.testing.call import Call
    from cocktail_hub.testing.commits import Commit, Entry
    from cocktail_hub.testing.repos import Repo


def resolve(call: Call) -> Reply:
    """GET resolve/{rev}/{path}: a redirect, whose headers tell what the file is."""
    repo = call.readable_repo()
    commit = repo.resolve(call.args["rev"])
    entry = _entry(call, commit)
    headers = {
        "X-Repo-Commit": commit.id,
        "X-Linked-Size": str(entry.size),
        "ETag": f'"{entry.oid}"',
        "Accept-Ranges": "bytes",
    }
    if entry.lfs:
        return _to_cdn(call, repo, commit, entry, headers)
    path = quote(call.args["path"], safe="")
    return redirect(307, f"/api/resolve-cache/{repo.kind}s/{repo.id}/{commit.id}/{path}", headers)


def _to_cdn(call: Call, repo: Repo, commit: Commit, entry: Entry, headers: dict[str, str]) -> Reply:
    """Large files live at another origin, where the client must not send its token."""
    headers["X-Linked-ETag"] = f'"{entry.sha256}"'
    xet = call.site.xet.file(entry.sha256)
    if xet and call.site.settings.xet:
        token = f"{call.site.url}/api/{repo.kind}s/{repo.id}/xet-read-token/{commit.id}"
        headers |= {"X-Xet-Hash": xet.hash, "X-Xet-Refresh-Route": token, "Link": f'<{token}>; rel="xet-auth"'}
    name = quote(call.args["path"].rsplit("/", 1)[-1], safe="")
    return redirect(302, f"{call.site.cdn_url}/_cdn/file/{entry.sha256}?filename={name}", headers)


def cached(call: Call) -> Reply:
    """GET resolve-cache: the bytes of a file that git holds."""
    repo = call.readable_repo()
    commit = repo.resolve(call.args["commit"])
    entry = _entry(call, commit)
    headers = {"X-Repo-Commit": commit.id, "ETag": f'"{entry.oid}"'}
    return file_reply(call.site.body(entry.sha256), call.headers.get("range", ""), headers)


def from_cdn(call: Call) -> Reply:
    """GET the bytes of a large file. The address is the permission."""
    oid = call.args["oid"]
    return file_reply(call.site.body(oid), call.headers.get("range", ""), {"ETag": f'"{oid}"'})


def _entry(call: Call, commit: Commit) -> Entry:
    entry = commit.tree.get(call.args["path"])
    if entry is None:
        raise entry_not_found("Entry not found", commit.id)
    return entry

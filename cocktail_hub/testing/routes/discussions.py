"""Discussions and pull requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cocktail_hub.testing.commits import Commit, changes, edited
from cocktail_hub.testing.http_error import HttpError
from cocktail_hub.testing.reply import Reply, json_reply

if TYPE_CHECKING:
    from cocktail_hub.testing.call import Call
    from cocktail_hub.testing.repos import Discussion, Repo


def create(call: Call) -> Reply:
    """POST discussions: begin one; a pull request begins as a draft, with the files of main."""
    repo, asked = call.readable_repo(), call.json()
    is_pull, user = bool(asked.get("pullRequest")), call.writer()
    with call.site.lock:
        talk = repo.open_discussion(
            user.name,
            asked["title"],
            asked.get("description") or "",
            base=repo.resolve("main") if is_pull else None,
            status="draft" if is_pull else "open",
        )
    return json_reply({"num": talk.num, "pullRequest": is_pull})


def listing(call: Call) -> Reply:
    """GET discussions: newest first, all on one page; of one author or kind, and open or closed, if asked."""
    repo, kind, status = call.readable_repo(), call.first("type", "all"), call.first("status", "all")
    author = call.first("author")
    found = [_summary(repo, talk) for _, talk in sorted(repo.discussions.items(), reverse=True)]
    closed = sum(talk["status"] in ("closed", "merged") for talk in found)
    states = {"open": ("draft", "open"), "closed": ("closed", "merged")}
    found = [talk for talk in found if kind == "all" or talk["isPullRequest"] is (kind == "pull_request")]
    found = [talk for talk in found if author in ("", talk["author"]["name"])]
    found = [talk for talk in found if status == "all" or talk["status"] in states[status]]
    return json_reply({"count": len(found), "start": 0, "discussions": found, "numClosedDiscussions": closed})


def details(call: Call) -> Reply:
    """GET discussions/{num}: with its events."""
    repo = call.readable_repo()
    talk = _discussion(call, repo)
    value = {**_summary(repo, talk), "events": talk.events}
    if talk.base:
        changed = {"base": "refs/heads/main", "mergeCommitId": talk.merge_commit}
        value |= {"changes": changed, "filesWithConflicts": _conflicts(repo, talk), "diff": ""}
    return json_reply(value)


def comment(call: Call) -> Reply:
    """POST discussions/{num}/comment."""
    repo, user, text = call.readable_repo(), call.writer(), call.json()["comment"]
    with call.site.lock:
        event = _discussion(call, repo).comment(user.name, text)
        repo.save()
    return json_reply({"newMessage": event})


def rename(call: Call) -> Reply:
    """POST discussions/{num}/title: by its author or a member."""
    repo, user, title = call.readable_repo(), call.writer(), call.json()["title"]
    with call.site.lock:
        talk = _discussion(call, repo)
        if talk.author != user.name:
            call.writer_in(repo.namespace)
        event = talk.log("title-change", user.name, {"from": talk.title, "to": title})
        talk.title = title
        repo.save()
    return json_reply({"newTitle": event})


def change_status(call: Call) -> Reply:
    """POST discussions/{num}/status: open or closed, by its author or a member."""
    repo, user, status = call.readable_repo(), call.writer(), call.json()["status"]
    with call.site.lock:
        talk = _discussion(call, repo)
        if talk.author != user.name:
            call.writer_in(repo.namespace)
        talk.status = status
        event = talk.log("status-change", user.name, {"status": status})
        repo.save()
    return json_reply({"newStatus": event})


def merge(call: Call) -> Reply:
    """POST discussions/{num}/merge: bring its changes to main, file by file, as one commit."""
    with call.site.lock:
        repo = call.writable_repo()
        talk, user = _discussion(call, repo), call.known_user()
        if talk.base is None or talk.status in ("closed", "merged"):
            raise HttpError(400, f"Discussion {talk.num} is {talk.status}, or no pull request")
        if _conflicts(repo, talk):
            raise HttpError(409, f"Changed both here and on main: {', '.join(_conflicts(repo, talk))}")
        head, proposed = repo.resolve("main"), repo.resolve(talk.ref)
        tree = edited(head.tree, *changes(repo.commits[talk.base].tree, proposed.tree))
        merged = Commit.make(tree, parent=head.id, title=f"{talk.title} (#{talk.num})", author=user.name)
        repo.add(merged, "refs/heads/main")
        talk.merge_commit, talk.status = merged.id, "merged"
        talk.log("status-change", user.name, {"status": "merged"})
        repo.save()
    return json_reply({})


def _discussion(call: Call, repo: Repo) -> Discussion:
    talk = repo.discussions.get(int(call.args["num"]))
    if talk is None:
        raise HttpError(404, f"No discussion {call.args['num']}")
    return talk


def _summary(repo: Repo, talk: Discussion) -> dict[str, Any]:
    return {
        "num": talk.num,
        "title": talk.title,
        "author": {"name": talk.author},
        "createdAt": talk.created,
        "status": talk.status,
        "isPullRequest": talk.base is not None,
        "repo": {"name": repo.id, "type": repo.kind},
    }


def _conflicts(repo: Repo, talk: Discussion) -> list[str]:
    """Files that both the pull request and main have changed since it began, differently."""
    if talk.base is None or talk.status == "merged":
        return []
    base, main, proposed = repo.commits[talk.base].tree, repo.resolve("main").tree, repo.resolve(talk.ref).tree
    paths = sorted({*base, *main, *proposed})
    trees = (main, proposed, base)
    return [path for path in paths if len({tree.get(path) for tree in trees}) == len(trees)]

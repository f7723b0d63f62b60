"""The table of routes: method and address -> function."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

from cocktail_hub.testing.reply import Reply
from cocktail_hub.testing.routes import cas, commits, discussions, files, identity, lfs, refs, repositories, trees

if TYPE_CHECKING:
    from collections.abc import Callable

    from cocktail_hub.testing.call import Call

_PARTS = {
    "kinds": "models|datasets|spaces",
    "kinds/": "(?:datasets/|spaces/)?",
    "repo": "[^/]+(?:/[^/]+)?",
    "rev": "refs/(?:pr|convert)/[^/]+|[^/]+",
    "commit": "[0-9a-f]{40}",
    "path": ".+",
    "oid": "[0-9a-f]{64}",
    "hash": "[0-9a-f]{64}",
    "num": r"\d{1,9}",
    "name": "[^/]+",
    "store": "_cas|_self",
}
"""What each {part} of an address may be, before percent-decoding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One kind of request."""

    method: str
    """GET also stands for HEAD."""
    address: re.Pattern[str]
    """Of the whole path; each group is a part of it."""
    answer: Callable[[Call], Reply]
    """What to do."""

    def parts(self, method: str, path: str) -> dict[str, str] | None:
        """The decoded parts of a path that leads here; None for any other."""
        found = self.address.fullmatch(path) if method == self.method else None
        return found and {name: unquote(part) for name, part in found.groupdict(default="").items()}


def _route(method: str, address: str, answer: Callable[[Call], Reply]) -> Route:
    pattern = re.sub(r"\{([a-z]+)(/?)\}", lambda part: f"(?P<{part[1]}>{_PARTS[part[1] + part[2]]})", address)
    return Route(method=method, address=re.compile(pattern), answer=answer)


def _nothing(_: Call) -> Reply:
    return Reply()


_REPO = "/api/{kinds}/{repo}"
_GIT = "/{kinds/}{repo}"

ROUTES = (
    _route("GET", "/api/whoami-v2", identity.whoami),
    _route("GET", "/api/agent-harnesses", identity.agent_harnesses),
    _route("GET", "/api/telemetry/.*", identity.telemetry),
    _route("POST", "/api/validate-yaml", identity.validate_yaml),
    _route("POST", "/api/repos/create", repositories.create),
    _route("DELETE", "/api/repos/delete", repositories.delete),
    _route("POST", "/api/repos/move", repositories.move),
    _route("GET", "/api/{kinds}", repositories.listing),
    _route("GET", "/api/resolve-cache/{kinds}/{repo}/{commit}/{path}", files.cached),
    _route("GET", _REPO + "/revision/{rev}", repositories.info),
    _route("PUT", _REPO + "/settings", repositories.change_settings),
    _route("GET", _REPO + "/auth-check", repositories.check_access),
    _route("GET", _REPO + "/auth-check/write", repositories.check_write_access),
    _route("GET", _REPO + "/tree/{rev}", trees.tree),
    _route("GET", _REPO + "/tree/{rev}/{path}", trees.tree),
    _route("POST", _REPO + "/paths-info/{rev}", trees.paths_info),
    _route("GET", _REPO + "/commits/{rev}", trees.commits),
    _route("GET", _REPO + "/refs", refs.refs),
    _route("POST", _REPO + "/branch/{name}", refs.create_branch),
    _route("DELETE", _REPO + "/branch/{name}", refs.delete_branch),
    _route("POST", _REPO + "/tag/{rev}", refs.create_tag),
    _route("DELETE", _REPO + "/tag/{name}", refs.delete_tag),
    _route("POST", _REPO + "/preupload/{rev}", commits.preupload),
    _route("POST", _REPO + "/commit/{rev}", commits.commit),
    _route("GET", _REPO + "/discussions", discussions.listing),
    _route("POST", _REPO + "/discussions", discussions.create),
    _route("GET", _REPO + "/discussions/{num}", discussions.details),
    _route("POST", _REPO + "/discussions/{num}/comment", discussions.comment),
    _route("POST", _REPO + "/discussions/{num}/status", discussions.change_status),
    _route("POST", _REPO + "/discussions/{num}/title", discussions.rename),
    _route("POST", _REPO + "/discussions/{num}/merge", discussions.merge),
    _route("GET", _REPO + "/xet-read-token/{rev}", cas.read_token),
    _route("GET", _REPO + "/xet-write-token/{rev}", cas.write_token),
    _route("GET", _REPO, repositories.info),  # after all others that begin so: a repo id may hold a slash, or none
    _route("GET", _GIT + "/resolve/{rev}/{path}", files.resolve),
    _route("POST", _GIT + ".git/info/lfs/objects/batch", lfs.batch),
    _route("PUT", "/_lfs/put/{oid}", lfs.put),
    _route("PUT", "/_lfs/part/{oid}/{num}", lfs.put_part),
    _route("POST", "/_lfs/complete/{oid}", lfs.complete),
    _route("POST", "/_lfs/verify/{oid}", lfs.verify),
    _route("GET", "/_cdn/file/{oid}", files.from_cdn),
    _route("GET", "/_cdn/xorb/{hash}", cas.xorb),
    _route("GET", "/_self/xorb/{hash}", cas.xorb),
    _route("POST", "/{store}/v1/xorbs/default/{hash}", cas.put_xorb),
    _route("POST", "/{store}/v1/shards", cas.put_shard),
    _route("GET", "/{store}/v1/reconstructions/{hash}", cas.reconstruction),
    _route("POST", "/{store}/v1/telemetry", _nothing),
)
"""The first that fits answers. What hf_xet asks of newer servers (/v2/..., dedup queries) has none: it falls back."""

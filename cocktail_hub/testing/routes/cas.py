"""Xet: tokens for its store of chunks (CAS), and the store itself."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from cocktail_hub.testing.http_error import HttpError
from cocktail_hub.testing.reply import Reply, file_reply, json_reply

if TYPE_CHECKING:
    from cocktail_hub.testing.call import Call

_TOKEN = "xet-loopback"  # noqa: S105
_TOKEN_LIFE = 3600
"""Seconds."""


def read_token(call: Call) -> Reply:
    """GET xet-read-token/{rev}: to who may read the files."""
    call.readable_repo()
    return _token(call)


def write_token(call: Call) -> Reply:
    """GET xet-write-token/{rev}: to any user who may write somewhere; the commit checks the right to the branch."""
    call.readable_repo()
    call.writer()
    return _token(call)


def _token(call: Call) -> Reply:
    if not call.site.settings.xet:
        raise HttpError(404, "This Hub was started without Xet: set HF_HUB_DISABLE_XET=1")
    url, expiry = f"{call.site.url}/_cas", int(time.time()) + _TOKEN_LIFE
    headers = {"X-Xet-Cas-Url": url, "X-Xet-Access-Token": _TOKEN, "X-Xet-Token-Expiration": str(expiry)}
    return json_reply({"accessToken": _TOKEN, "exp": expiry, "casUrl": url}, headers=headers)


def put_xorb(call: Call) -> Reply:
    """POST v1/xorbs: a pack of chunks."""
    _check_token(call)
    return json_reply({"was_inserted": call.site.xet.add_xorb(call.args["hash"], call.body.pieces())})


def put_shard(call: Call) -> Reply:
    """POST v1/shards: how files are made of chunks."""
    _check_token(call)
    shard = call.body.read()
    with call.site.lock:
        call.site.xet.add_shard(shard)
    return json_reply({"result": 1})


def reconstruction(call: Call) -> Reply:
    """GET v1/reconstructions: how to put a file, or a range of it, together."""
    _check_token(call)
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", call.headers.get("range", ""))
    start = int(wanted[1]) if wanted else 0
    stop = int(wanted[2]) + 1 if wanted and wanted[2] else None
    # What the Hub reads itself, to serve clients without Xet, goes by an address of its own: no client downloaded it.
    xorbs = f"{call.site.url}/_self/xorb" if call.args["store"] == "_self" else f"{call.site.cdn_url}/_cdn/xorb"
    return json_reply(call.site.xet.reconstruction(call.args["hash"], xorbs, start, stop))


def xorb(call: Call) -> Reply:
    """GET the bytes of a xorb. The address is the permission."""
    return file_reply(call.site.xet.xorb(call.args["hash"]), call.headers.get("range", ""), {})


def _check_token(call: Call) -> None:
    if not call.headers.get("authorization", "").startswith("Bearer "):
        raise HttpError(401, "A Xet token is needed")

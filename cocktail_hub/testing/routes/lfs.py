"""Plain LFS: large files go up ahead of the commit that names them, whole or in parts."""

from __future__ import annotations

import math
import shutil
from typing import TYPE_CHECKING, Any

from cocktail_hub.testing.blobs import pieces
from cocktail_hub.testing.http_error import HttpError
from cocktail_hub.testing.reply import Reply, json_reply

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cocktail_hub.testing.call import Call
    from cocktail_hub.testing.site import Site


def batch(call: Call) -> Reply:
    """POST objects/batch: where to put, or get, each of these files."""
    asked = call.json()
    call.readable_repo()
    if asked["operation"] == "upload":
        call.writer()  # who opens a pull request uploads too: the commit checks the right to the branch
    chunk = call.site.settings.multipart_chunk if "multipart" in asked.get("transfers", []) else None
    objects, transfer = [], "basic"
    for item in asked["objects"]:
        value: dict[str, Any] = {"oid": item["oid"], "size": item["size"], "authenticated": True}
        if asked["operation"] == "download":
            value["actions"] = {"download": {"href": f"{call.site.cdn_url}/_cdn/file/{item['oid']}"}}
        elif item["oid"] not in call.site.blobs:
            in_parts = chunk is not None and item["size"] > chunk
            transfer = "multipart" if in_parts else transfer
            value["actions"] = _upload(call.site, item["oid"], item["size"], chunk if in_parts else None)
        objects.append(value)
    return json_reply(
        {"transfer": transfer, "objects": objects}, headers={"Content-Type": "application/vnd.git-lfs+json"}
    )


def _upload(site: Site, oid: str, size: int, chunk: int | None) -> dict[str, Any]:
    lfs = f"{site.url}/_lfs"
    upload = {"href": f"{lfs}/put/{oid}", "header": {}}
    if chunk:
        numbers = range(1, math.ceil(size / chunk) + 1)
        parts = {f"{number:05d}": f"{lfs}/part/{oid}/{number}" for number in numbers}
        upload = {"href": f"{lfs}/complete/{oid}", "header": {"chunk_size": str(chunk), **parts}}
    return {"upload": upload, "verify": {"href": f"{lfs}/verify/{oid}", "header": {}}}


def put(call: Call) -> Reply:
    """PUT a whole file. The address is the permission, as with the Hub's own storage."""
    name = call.site.blobs.add(call.body.pieces(), expected=call.args["oid"])
    return Reply(headers={"ETag": f'"{name}"'})


def put_part(call: Call) -> Reply:
    """PUT one part of a file."""
    path = _part(call, int(call.args["num"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.writelines(call.body.pieces())
    return Reply(headers={"ETag": f'"part-{call.args["num"]}"'})


def complete(call: Call) -> Reply:
    """POST the list of parts: now they are a file."""
    numbers = [part["partNumber"] for part in call.json()["parts"]]
    paths = [_part(call, number) for number in numbers]
    if not all(path.is_file() for path in paths):
        raise HttpError(400, "Some of the parts were not uploaded")
    call.site.blobs.add(_joined(paths), expected=call.args["oid"])
    shutil.rmtree(paths[0].parent)
    return json_reply({})


def _part(call: Call, number: int) -> Path:
    return call.site.parts / call.args["oid"] / str(number)


def _joined(paths: list[Path]) -> Iterator[bytes]:
    for path in paths:
        yield from pieces(path)


def verify(call: Call) -> Reply:
    """POST oid and size: has all of it arrived?"""
    if call.site.blobs.size(call.args["oid"]) != call.json()["size"]:
        raise HttpError(404, f"{call.args['oid']} was not uploaded, or not all of it")
    return json_reply({})

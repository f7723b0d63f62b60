"""XetStore: the server side of Xet, where a file is a list of chunk ranges of stored xorbs.

Formats as hf_xet 1.8 writes them. Nothing is decompressed here: where plain bytes are needed, hf_xet itself
puts the file together from this store.
"""

from __future__ import annotations

import json
import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cocktail_hub.testing.http_error import HttpError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from cocktail_hub.testing.blobs import BlobStore

_BLOCK = 48
"""Bytes in every record of a shard, and in the shard's own header."""
_END_OF_FILES = b"\xff" * 32
_HAS_VERIFICATION = 1 << 31
_HAS_SHA256 = 1 << 30

_SMALL_BUFFERS = {
    "reconstruction.min_reconstruction_fetch_size": 16_000_000,
    "reconstruction.max_reconstruction_fetch_size": 16_000_000,
    "reconstruction.min_prefetch_buffer": 16_000_000,
    "reconstruction.download_buffer_size": 32_000_000,
    "reconstruction.download_buffer_perfile_size": 32_000_000,
    "reconstruction.download_buffer_limit": 32_000_000,
    "client.ac_max_download_concurrency": 2,
    "telemetry.enabled": False,
}
"""hf_xet reads ahead by a gigabyte otherwise, which pays over a network only. Bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """A run of chunks of one xorb: the next piece of a file."""

    xorb: str
    """Hash of the xorb, 64 hex digits."""
    size: int
    """Bytes of the file that it yields."""
    start: int
    """First chunk."""
    stop: int
    """One past the last chunk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class XetFile:
    """How to put one file together."""

    hash: str
    """Xet's name for it, 64 hex digits."""
    sha256: str
    """LFS's name for it; empty if the uploader did not say."""
    terms: tuple[Term, ...]
    """In file order."""

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return sum(term.size for term in self.terms)


class XetStore:
    """Xorbs and recipes of files, in a folder."""

    def __init__(self, root: Path) -> None:
        self._xorbs = root / "xorbs"
        self._recipes = root / "files"
        self._xorbs.mkdir(parents=True, exist_ok=True)
        self._recipes.mkdir(exist_ok=True)
        self._bounds: dict[str, list[int]] = {}
        self._files: dict[str, XetFile] = {}
        self._by_sha256: dict[str, XetFile] = {}
        for path in self._recipes.glob("*.json"):
            value = json.loads(path.read_text(encoding="utf-8"))
            self._know(XetFile(**{**value, "terms": tuple(Term(**term) for term in value["terms"])}))

    def _know(self, file: XetFile) -> None:
        self._files[file.hash] = file
        if file.sha256:
            self._by_sha256[file.sha256] = file

    def file(self, sha256: str) -> XetFile | None:
        """The file with this sha256, if it was uploaded over Xet."""
        return self._by_sha256.get(sha256)

    def xorb(self, name: str) -> Path:
        """Where a xorb is kept.

        Raises:
            HttpError: 404.
        """
        path = self._xorbs / name
        if not path.is_file():
            raise HttpError(404, f"No xorb {name}")
        return path

    def add_xorb(self, name: str, body: Iterable[bytes]) -> bool:
        """Keep a xorb as it streams in; False if it was here."""
        if (self._xorbs / name).is_file():
            return False
        beside = self._xorbs / f"{name}.{time.time_ns()}"
        with beside.open("wb") as file:
            file.writelines(body)
        beside.replace(self._xorbs / name)
        return True

    def add_shard(self, shard: bytes) -> None:
        """Learn the files that a shard describes.

        Raises:
            HttpError: 400, it refers to a xorb that was never uploaded.
        """
        for file in _read_shard(shard):
            for term in file.terms:
                if not (self._xorbs / term.xorb).is_file():
                    raise HttpError(400, f"The shard refers to xorb {term.xorb}, which was not uploaded")
            value = {"hash": file.hash, "sha256": file.sha256, "terms": [_fields(term) for term in file.terms]}
            (self._recipes / f"{file.hash}.json").write_text(json.dumps(value), encoding="utf-8")
            self._know(file)

    def reconstruction(self, name: str, xorb_url: str, start: int, stop: int | None) -> dict[str, Any]:
        """Tell a client which chunks make up bytes `start:stop` of a file, and where to get them.

        Args:
            name: the file's Xet hash.
            xorb_url: address before a xorb's name.
            start: first byte wanted.
            stop: one past the last byte wanted; None for all.

        Raises:
            HttpError: 404 for an unknown file, 416 if `start` lies behind its end.
        """
        file = self._files.get(name)
        if file is None:
            raise HttpError(404, f"No Xet file {name}")
        stop = file.size if stop is None else min(stop, file.size)
        if start >= file.size > 0:
            raise HttpError(416, f"The file has {file.size} bytes, {start} is behind its end")
        terms, skipped = _overlapping(file.terms, start, stop)
        runs: dict[str, list[tuple[int, int]]] = {}
        for term in terms:
            runs.setdefault(term.xorb, []).append((term.start, term.stop))
        return {
            "offset_into_first_range": start - skipped,
            "terms": [
                {
                    "hash": term.xorb,
                    "unpacked_length": term.size,
                    "range": {"start": term.start, "end": term.stop},
                }
                for term in terms
            ],
            "fetch_info": {xorb: self._fetches(xorb, spans, xorb_url) for xorb, spans in runs.items()},
        }

    def _fetches(self, xorb: str, spans: list[tuple[int, int]], xorb_url: str) -> list[dict[str, Any]]:
        bounds = self._chunk_bounds(xorb)
        return [
            {
                "range": {"start": start, "end": stop},
                "url": f"{xorb_url}/{xorb}",
                "url_range": {"start": bounds[start], "end": bounds[stop] - 1},  # inclusive, as in HTTP
            }
            for start, stop in _merged(spans)
        ]

    def _chunk_bounds(self, xorb: str) -> list[int]:
        """Offsets at which the chunks of a xorb begin, and the last one ends."""
        if xorb not in self._bounds:
            self._bounds[xorb] = _read_bounds(self.xorb(xorb))
        return self._bounds[xorb]

    def rebuild(self, file: XetFile, cas_url: str, blobs: BlobStore) -> None:
        """Put a file together for clients that do not speak Xet, by asking `cas_url`, which is this store, as one.

        Raises:
            HttpError: 400, the result is not what was announced.
        """
        import hf_xet

        target = blobs.new_file()
        session = hf_xet.XetSession(hf_xet.XetConfig().with_config(_SMALL_BUFFERS))
        expiry = int(time.time()) + 3600
        with session.new_file_download_group(endpoint=cas_url, token="self", token_expiry_unix_secs=expiry) as group:  # noqa: S106
            group.start_download_file(hf_xet.XetFileInfo(file.hash, file.size), str(target))
        blobs.adopt(target, expected=file.sha256)


def _fields(term: Term) -> dict[str, Any]:
    return {"xorb": term.xorb, "size": term.size, "start": term.start, "stop": term.stop}


def _read_shard(shard: bytes) -> list[XetFile]:
    """List the files in a shard: each a header, a record per term, and optional records that flags announce."""
    files, offset = [], _BLOCK
    while shard[offset : offset + 32] != _END_OF_FILES:
        name = _hex(shard[offset : offset + 32])
        flags, count = struct.unpack_from("<II", shard, offset + 32)
        terms = tuple(_read_term(shard, offset + _BLOCK * (1 + index)) for index in range(count))
        offset += _BLOCK * (1 + count + (count if flags & _HAS_VERIFICATION else 0))
        sha256 = ""
        if flags & _HAS_SHA256:
            sha256 = _hex(shard[offset : offset + 32])
            offset += _BLOCK
        files.append(XetFile(hash=name, sha256=sha256, terms=terms))
    return files


def _read_term(shard: bytes, offset: int) -> Term:
    _flags, size, start, stop = struct.unpack_from("<4I", shard, offset + 32)
    return Term(xorb=_hex(shard[offset : offset + 32]), size=size, start=start, stop=stop)


def _hex(name: bytes) -> str:
    """Xet prints its 32-byte names as four little-endian numbers."""
    return "".join(f"{word:016x}" for word in struct.unpack("<4Q", name))


def _read_bounds(path: Path) -> list[int]:
    """Walk the chunk headers of a xorb: version (1 byte), packed size (3), scheme (1), unpacked size (3)."""
    bounds, size = [0], path.stat().st_size
    with path.open("rb") as file:
        while bounds[-1] + 8 <= size:
            file.seek(bounds[-1])
            header = file.read(8)
            if header.startswith(b"XETBLOB"):  # the footer
                break
            bounds.append(bounds[-1] + 8 + int.from_bytes(header[1:4], "little"))
    return bounds


def _overlapping(terms: tuple[Term, ...], start: int, stop: int) -> tuple[list[Term], int]:
    """The terms that hold bytes `start:stop`, and the position in the file at which the first of them begins."""
    found: list[Term] = []
    position = first = 0
    for term in terms:
        if position + term.size > start and position < stop:
            if not found:
                first = position
            found.append(term)
        position += term.size
    return found, first if found else start


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join spans that touch: hf_xet does not survive overlapping ones."""
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(stop, merged[-1][1])
        else:
            merged.append((start, stop))
    return merged

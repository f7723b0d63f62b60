"""Sentencepiece models, byte by byte."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6


def integer(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value % 128 + 128]) + integer(value // 128)


def block(tag: int, content: bytes) -> bytes:
    return bytes([tag]) + integer(len(content)) + content


def piece(text: str, score: float = 0.0, kind: int = NORMAL) -> bytes:
    stated = b"" if kind == NORMAL else b"\x18" + integer(kind)
    return block(0x0A, block(0x0A, text.encode()) + b"\x15" + struct.pack("<f", score) + stated)


def model(pieces: Sequence[tuple[str, float, int]], normalizer: bytes = b"\x0a\x04nmt ") -> bytes:
    """A model with a trainer's settings and a normaliser behind its pieces."""
    return b"".join(piece(*entry) for entry in pieces) + block(0x12, b"\x18\x80\x01") + block(0x1A, normalizer)

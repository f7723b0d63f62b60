"""Read the pieces of a sentencepiece model, without sentencepiece.

The file is a protocol buffer (https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto). Its
field 1 is repeated, a piece each: text (1), score (2), kind (3). Field 3 says how text is normalised.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_PIECE, _NORMALIZER = 1, 3
_TEXT, _SCORE, _KIND = 1, 2, 3
_LENGTHS = {0: None, 1: 8, 2: None, 5: 4}
"""Last three bits of a tag, which say how the value is encoded -> bytes of the value, where they are fixed."""
_INTEGER = 0
_FIRST_TEXT, _FIRST_FLOAT = 0x0A, 0x15
"""Tags of field 1 as text or message, and of field 2 as float32."""
_MORE = 128
"""The bit of a byte that says that the integer goes on."""
_LONGEST = 63
"""Bits of an integer before its last byte."""
MOST_PIECES = 1 << 20
"""Four times those of the largest vocabularies."""
_NORMAL, _BYTE = 1, 6
"""Kinds of pieces that text is split into. Others are unknown, control symbols, and the user's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pieces:
    """The vocabulary of a sentencepiece model."""

    learnt: Mapping[int, str]
    """Position -> piece that text is split into."""
    special: Mapping[int, str]
    """Position -> unknown, control, unused and user-defined piece."""
    scores: bytes
    """Score of each of `learnt`, float32: with them, the same pieces split text in the same way."""
    normalizer: bytes
    """How text is normalised."""


def read_pieces(data: bytes) -> Pieces | None:
    """Parse a `.model` file; `None` if it is none of sentencepiece, such as one of tiktoken, or far too long."""
    texts: list[bytes] = []
    scores, kinds, normalizer = [], [], b""
    at, end = 0, len(data)
    try:
        while at < end:
            if len(texts) > MOST_PIECES:
                return None
            # Nearly all pieces have fewer than 128 bytes: tag, size, tag, size, text, tag, score, and a kind but for 1.
            stop, score = (at + 2 + data[at + 1], at + 5 + data[at + 3]) if at + 4 < end else (0, 0)
            quick = data[at] == _FIRST_TEXT and score + 4 <= stop < at + 2 + _MORE and data[at + 2] == _FIRST_TEXT
            if quick and data[score - 1] == _FIRST_FLOAT:
                texts.append(data[at + 4 : score - 1])
                scores.append(data[score : score + 4])
                kinds.append(data[stop - 1] if stop > score + 4 else _NORMAL)
                at = stop
                continue
            field, value, at = _field(data, at)
            if field == _PIECE:
                parts = _fields(value)
                texts.append(parts[_TEXT])
                scores.append(parts.get(_SCORE, bytes(4)))
                kinds.append(parts.get(_KIND, bytes([_NORMAL]))[0])
            elif field == _NORMALIZER:
                normalizer = value
        names = [text.decode() for text in texts]
    except (ValueError, IndexError, KeyError):
        return None
    learnt = {n: name for n, (name, kind) in enumerate(zip(names, kinds, strict=True)) if kind in (_NORMAL, _BYTE)}
    special = {n: name for n, name in enumerate(names) if n not in learnt}
    used = b"".join(scores[n] for n in learnt)
    return Pieces(learnt=learnt, special=special, scores=used, normalizer=normalizer) if names else None


def _fields(data: bytes) -> dict[int, bytes]:
    found, at = {}, 0
    while at < len(data):
        field, value, at = _field(data, at)
        found[field] = value
    return found


def _field(data: bytes, at: int) -> tuple[int, bytes, int]:
    """Number and value of a field, of an integer its bytes, and the position after it. Raises ValueError."""
    tag, start = _integer(data, at)
    length = _LENGTHS.get(tag & 7, -1)
    if length is None:
        length, after = _integer(data, start)
        length, start = (after - start, start) if tag & 7 == _INTEGER else (length, after)
    if length < 0 or start + length > len(data):
        raise ValueError("no such encoding, or cut short")
    return tag >> 3, data[start : start + length], start + length


def _integer(data: bytes, at: int) -> tuple[int, int]:
    """An integer of seven bits a byte, the lowest first, and the position after it."""
    value = shift = 0
    while data[at] >= _MORE:
        if shift > _LONGEST:
            raise ValueError("an integer of more than 64 bits")
        value, shift, at = value | (data[at] - _MORE) << shift, shift + 7, at + 1
    return value | data[at] << shift, at + 1

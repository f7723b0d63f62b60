"""The sizes of the pages of a Parquet file, by which it is unpacked; what its metadata says of them may be wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_SIZE, _PACKED, _VALUES = 2, 3, 1
"""Ids of fields in the header of a page, the last in the part about its kind."""
_DATA = (5, 8)
"""Ids of the parts about data, in the first and second format; a dictionary has none."""
_TRUE, _FALSE, _BYTE, _LONG, _BINARY, _STRUCT = 1, 2, 3, 6, 8, 12
"""Types of the compact protocol of Thrift that occur there; those from `_BYTE` to `_LONG` are whole numbers."""

_LONGEST = 10
"""Bytes of a number of 64 bits."""


def pages(data: bytes, metadata: Any) -> Iterator[tuple[int, int]]:
    """Yield the bytes once unpacked and the number of values of each page; one of a dictionary counts no values.

    Args:
        data: the file.
        metadata: of the file, as pyarrow has it.

    Raises:
        ValueError, IndexError: a header is damaged.
    """
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for column in map(group.column, range(group.num_columns)):
            at = min(filter(None, (column.dictionary_page_offset, column.data_page_offset)), default=0)
            end = at + column.total_compressed_size
            while at < end:
                header, at = _struct(data, at)
                counts = header[_SIZE], sum(header[kind][_VALUES] for kind in _DATA if kind in header)
                if min(*counts, header[_PACKED]) < 0:
                    raise ValueError("a page has less than no bytes")
                at += header[_PACKED]
                yield counts


def _struct(data: bytes, at: int) -> tuple[dict[int, Any], int]:
    """Fields by their ids, texts left out, and the index behind them."""
    fields: dict[int, Any] = {}
    number = 0
    while kind := data[at]:
        at += 1
        if not kind >> 4:
            raise ValueError("a page has a header of an unknown kind")
        number, kind = number + (kind >> 4), kind & 15
        if kind == _STRUCT:
            fields[number], at = _struct(data, at)
        elif kind == _BINARY:
            length, at = _varint(data, at)
            at += length
        elif _BYTE < kind <= _LONG:
            value, at = _varint(data, at)
            fields[number] = (value >> 1) ^ -(value & 1)
        elif kind not in (_TRUE, _FALSE):
            raise ValueError("a page has a header of an unknown kind")
    return fields, at + 1


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for place in range(_LONGEST):
        value |= (data[at + place] & 127) << 7 * place
        if not data[at + place] & 128:
            return value, at + place + 1
    raise ValueError("a page has a number without end")

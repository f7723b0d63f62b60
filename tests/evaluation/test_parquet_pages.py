"""Pages of Parquet files tell their sizes themselves."""

from __future__ import annotations

import io
import struct

import pytest

from cocktail_hub.evaluation.parquet_pages import pages

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

WAYS = [
    {},
    {"use_dictionary": False, "compression": "none"},
    {"compression": "zstd"},
    {"data_page_version": "2.0"},
    {"row_group_size": 7},
    {"data_page_size": 50, "write_batch_size": 5},
    {"write_page_checksum": True, "write_page_index": True},
]


def written(columns, **options):
    stream = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), stream, **options)
    return stream.getvalue(), parquet.ParquetFile(stream).metadata


@pytest.mark.parametrize("options", WAYS, ids=str)
def test_every_value_of_every_kind_of_column_is_in_a_page(options):
    count = 40
    columns = {
        "text": [f"text {number % 9} ä" * 9 for number in range(count)],
        "list": [[f"{number}", "x"] for number in range(count)],
        "nothing": [None] * count,
        "number": [float(number) for number in range(count)],
        "mapping": [{"a": number, "b": "x"} for number in range(count)],
        "flag": [True] * count,
    }
    data, metadata = written(columns, **options)
    assert sum(values for _, values in pages(data, metadata)) == 8 * count


def test_a_page_says_how_large_it_will_be():
    data, metadata = written({"a": ["x" * 1_000_000]}, compression="zstd", use_dictionary=False)
    assert len(data) < 10_000
    (size, values) = next(pages(data, metadata))
    assert (1_000_000 < size < 1_000_100, values) == (True, 1)


@pytest.mark.parametrize("header", [b"\xff" * 40, b"\x15\x00" * 20, b"\x1c" * 40, b"\x15\x01\x15\x01\x15\x01\x00"])
def test_damage_is_an_error(header):
    data, metadata = written({"a": ["x" * 100]}, compression="none", use_dictionary=False)
    with pytest.raises((ValueError, LookupError, RecursionError)):
        list(pages(data[:4] + header + data[4 + len(header) :], metadata))


def test_an_end_before_its_time_is_an_error():
    data, metadata = written({"a": ["x" * 100]})
    length = struct.unpack("<I", data[-8:-4])[0]
    with pytest.raises(LookupError):
        list(pages(data[: len(data) - length - 60], metadata))

"""The instructions of a pickle are looked through before any is carried out."""

from __future__ import annotations

import io
import pickle
from collections import Counter, OrderedDict

import pytest
import torch

from cocktail_hub.checkpoint import pickle_check
from cocktail_hub.checkpoint.pickle_check import check_pickle


def member(content: object) -> bytes:
    """The pickle in what `torch.save` writes in the older format, which has it in the open."""
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=False)
    stream.seek(0)
    for _ in range(3):
        pickle.load(stream)
    start = stream.tell()
    check_pickle(stream)
    return stream.getvalue()[start : stream.tell()]


def test_tensors_of_every_kind_pass() -> None:
    shared = torch.zeros(4, 4)
    parts = {
        "a": shared,
        "b": shared.T,
        "c": shared[1:].to(torch.bfloat16),
        "d": torch.nn.Parameter(torch.ones(2)),
        "e": torch.ones(()),
    }
    assert member(OrderedDict(parts)).endswith(b".")


def test_what_follows_a_pickle_is_not_read() -> None:
    stream = io.BytesIO(b"\x80\x02}.rest")
    check_pickle(stream)
    assert stream.read() == b"rest"


@pytest.mark.parametrize(
    "content", [bytearray(9), {"a"}, b"text", Counter("a")], ids=lambda value: type(value).__name__
)
def test_what_can_grow_to_any_size_is_more_than_tensors(content: object) -> None:
    with pytest.raises(pickle.UnpicklingError, match=r"^GLOBAL \w+\.(bytearray|set|encode|Counter)$"):
        check_pickle(io.BytesIO(pickle.dumps(content, protocol=2)))


def test_a_tensor_of_no_data_is_more_than_tensors() -> None:
    with pytest.raises(pickle.UnpicklingError, match=r"^GLOBAL torch\.FloatTensor$"):
        check_pickle(io.BytesIO(b"\x80\x02ctorch\nFloatTensor\nK\x09\x85R."))


def test_a_tuple_that_stands_twice_is_refused() -> None:
    one, other = ((number,) for number in (1, 1))
    check_pickle(io.BytesIO(pickle.dumps([one, other], protocol=2)))
    with pytest.raises(pickle.UnpicklingError, match=r"^a tuple stands twice$"):
        check_pickle(io.BytesIO(pickle.dumps([one, one], protocol=2)))


def test_a_pickle_of_too_many_instructions_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_check, "MOST_INSTRUCTIONS", 1000)
    check_pickle(io.BytesIO(b"]" * 999 + b"."))
    with pytest.raises(ValueError, match=r"^its pickle has more than 1,000 instructions$"):
        check_pickle(io.BytesIO(b"]" * 1000 + b"."))

"""Sentencepiece models as bytes, against the protocol buffers of transformers where those are installed."""

from __future__ import annotations

import struct

import pytest
from piece_helpers import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, block, model

from cocktail_hub.compat.pieces import read_pieces

FEW = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("▁the", -1.5, NORMAL), ("<0x0A>", 0.0, BYTE)]


def test_pieces_scores_and_normalizer_are_read() -> None:
    found = read_pieces(model([*FEW, ("▁" * 200, -3.0, NORMAL), ("<mine>", 0.0, USER_DEFINED)]))
    assert found is not None
    assert found.learnt == {2: "▁the", 3: "<0x0A>", 4: "▁" * 200}
    assert found.special == {0: "<unk>", 1: "<s>", 5: "<mine>"}
    assert struct.unpack("<3f", found.scores) == (-1.5, 0.0, -3.0)
    assert found.normalizer == b"\x0a\x04nmt "


def test_pieces_with_their_fields_in_another_order_are_read() -> None:
    turned = block(0x0A, b"\x15" + struct.pack("<f", 2.0) + block(0x0A, b"a") + b"\x7a\x00")
    unscored = block(0x0A, block(0x0A, b"b"))
    found = read_pieces(turned + unscored)
    assert found is not None
    assert (found.learnt, struct.unpack("<2f", found.scores)) == ({0: "a", 1: "b"}, (2.0, 0.0))


@pytest.mark.parametrize(
    "data",
    [b"", b"IQ== 0\nIg== 1\n", b"the same", b"\x0a", b"\xff" * 20, model(FEW)[:-3], block(0x0A, b"\x0a\x01\xff")],
)
def test_anything_else_is_none_of_sentencepiece(data: bytes) -> None:
    assert read_pieces(data) is None


def test_every_cut_of_a_model_is_read_or_refused() -> None:
    whole = model(FEW)
    for end in range(len(whole)):
        found = read_pieces(whole[:end])
        assert (
            found is None or {**found.learnt, **found.special}.items() <= dict(enumerate(t for t, _, _ in FEW)).items()
        )


def test_the_protocol_buffers_of_transformers_say_the_same() -> None:
    pytest.importorskip("google.protobuf")
    from transformers.utils import sentencepiece_model_pb2_new as protocol

    written = protocol.ModelProto()
    for number in range(300):
        entry = written.pieces.add(piece="▁w" * (number % 90 + 1), score=-number / 7)
        entry.type = number % 6 + 1
    written.normalizer_spec.name = "nmt_nfkc"
    written.normalizer_spec.precompiled_charsmap = bytes(1000)
    found = read_pieces(written.SerializeToString())
    assert found is not None
    assert [{**found.learnt, **found.special}[n] for n in range(300)] == [entry.piece for entry in written.pieces]
    assert set(found.learnt) == {n for n, entry in enumerate(written.pieces) if entry.type in (NORMAL, BYTE)}
    assert list(struct.unpack("<100f", found.scores)) == [written.pieces[n].score for n in found.learnt]
    assert found.normalizer == written.normalizer_spec.SerializeToString()


def test_integers_and_vocabularies_without_end_are_no_pieces(monkeypatch):
    assert read_pieces(b"\xff" * 1_000_000) is None
    monkeypatch.setattr("cocktail_hub.compat.pieces.MOST_PIECES", 2)
    piece = b"\n\x08\n\x01a\x15\0\0\0\0"
    assert len(read_pieces(piece * 2).learnt) == 2
    assert read_pieces(piece * 4) is None

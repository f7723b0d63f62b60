from dataclasses import replace

import numpy as np
import pytest

from cocktail_hub.evaluation.losses import Losses
from cocktail_hub.evaluation.losses_cache import LossesCache

LOSSES = Losses.of("a", [0.1, 1 / 3], truncated=1, texts=2, tokens=9, reading="plain text")
KEY = "ab" * 32


def test_losses_come_back_bit_for_bit_under_the_given_name(tmp_path):
    cache = LossesCache(tmp_path / "new")
    assert cache.get(KEY, name="a") is None
    cache.put(KEY, LOSSES)
    assert cache.get(KEY, name="a") == LOSSES
    assert cache.get(KEY, name="b").name == "b"


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"key": "other"}', '{"losses": {}}', "\udc80"])
def test_a_damaged_file_is_ignored_and_replaced(tmp_path, text):
    cache = LossesCache(tmp_path)
    cache.put(KEY, LOSSES).write_bytes(text.encode(errors="surrogateescape"))
    assert cache.get(KEY, name="a") is None
    cache.put(KEY, LOSSES)
    assert cache.get(KEY, name="a") == LOSSES


def test_a_file_with_a_loss_that_is_not_finite_is_ignored(tmp_path):
    cache = LossesCache(tmp_path)
    path = cache.put(KEY, LOSSES)
    path.write_text(path.read_text().replace("0.1", "NaN"))
    assert cache.get(KEY, name="a") is None


def test_writing_leaves_no_other_file(tmp_path):
    cache = LossesCache(tmp_path)
    for _ in range(2):
        cache.put(KEY, LOSSES)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [f"{KEY}.json"]


def test_outputs_come_back_with_the_losses_and_are_compared_with_their_digest(tmp_path):
    cache = LossesCache(tmp_path)
    outputs = {"scores": np.arange(3.0), "cosine": np.array(True)}
    path = cache.put(KEY, replace(LOSSES, outputs=outputs))
    found = cache.get(KEY, name="a")
    assert found == LOSSES
    assert found.outputs["scores"].tolist() == [0.0, 1.0, 2.0]
    assert bool(found.outputs["cosine"])
    np.savez(path.with_suffix(".npz"), scores=np.arange(4.0))
    assert cache.get(KEY, name="a") is None
    path.with_suffix(".npz").unlink()
    assert cache.get(KEY, name="a") is None

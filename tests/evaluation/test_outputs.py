import numpy as np
import pytest
import torch

from cocktail_hub.evaluation import outputs
from cocktail_hub.evaluation.outputs import digest_of, join_outputs, output_tokens

LOGITS = torch.tensor([[1.0, 2.0, 0.0, -1.0], [0.0, 0.0, 5.0, 0.0]])
TARGETS = torch.tensor([0, 2])
LOGS = LOGITS.log_softmax(dim=-1).numpy()


def test_the_loss_is_the_same_with_and_without_what_is_kept():
    total, kept = output_tokens(LOGITS, TARGETS, keep=False)
    assert total == pytest.approx(-(LOGS[0, 0] + LOGS[1, 2]), rel=1e-6)
    assert kept == {}
    assert output_tokens(LOGITS, TARGETS, keep=True)[0] == total


def test_a_small_vocabulary_is_kept_whole_the_likeliest_first():
    kept = output_tokens(LOGITS, TARGETS, keep=True)[1]
    assert kept["ids"][0].tolist() == [1, 0, 2, 3]
    assert kept["ids"][1, 0] == 2
    assert kept["values"] == pytest.approx(np.sort(LOGS)[:, ::-1], rel=1e-6)
    assert kept["target"] == pytest.approx([LOGS[0, 0], LOGS[1, 2]], rel=1e-6)
    assert kept["rest"].tolist() == [-np.inf, -np.inf]
    assert kept["vocabulary"].tolist() == [4, 4]


def test_of_a_large_vocabulary_the_probability_of_the_others_is_kept(monkeypatch):
    monkeypatch.setattr(outputs, "KEPT", 2)
    kept = output_tokens(LOGITS, TARGETS, keep=True)[1]
    assert kept["ids"].shape == (2, 2)
    assert np.exp(kept["rest"]) + np.exp(kept["values"]).sum(axis=1) == pytest.approx([1, 1], rel=1e-6)


def test_the_outputs_of_examples_are_joined_with_their_counts():
    one = output_tokens(LOGITS, TARGETS, keep=True)[1]
    other = output_tokens(LOGITS[:1], TARGETS[:1], keep=True)[1]
    joined = join_outputs([one, other])
    assert joined["counts"].tolist() == [2, 1]
    assert joined["targets"].tolist() == [0, 2, 0]
    assert join_outputs([{}, {}]) == {}


def test_the_digest_follows_from_names_shapes_types_and_values():
    values = np.arange(4.0)
    digests = {
        digest_of(found)
        for found in (
            {"a": values},
            {"b": values},
            {"a": values.reshape(2, 2)},
            {"a": values.astype("float32")},
            {"a": values + 1},
        )
    }
    assert len(digests) == 5
    assert digest_of({"a": values, "b": values}) == digest_of({"b": values.copy(), "a": values.copy()})

import re

import pytest
from scoring_models import settings_for

from cocktail_hub.errors import ScoringError


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("fill-mask", "Models for the task 'fill-mask' cannot be scored on examples"),
        ("text-genration", "Did you mean 'text-generation'?"),
    ],
)
def test_a_task_without_a_loss_is_refused(task, message):
    with pytest.raises(ScoringError, match=re.escape(message)):
        settings_for(task)


def test_the_losses_of_lm_cocktail_need_a_batch_size():
    with pytest.raises(ScoringError, match="need a `batch_size`"):
        settings_for("text-generation", lm_cocktail=True)


@pytest.mark.parametrize(
    "change", [{"device": "cpu"}, {"batch_size": 4}, {"trust_remote_code": True}, {"temperature": 1.0}]
)
def test_what_does_not_change_a_loss_does_not_change_the_identity(change):
    assert settings_for("feature-extraction", **change).identity() == settings_for("sentence-similarity").identity()


@pytest.mark.parametrize(
    "change",
    [
        {"max_length": 9},
        {"negatives": 2},
        {"seed": 1},
        {"chat_template": True},
        {"pooling": "mean"},
        {"normalize": False},
        {"dtype": "bfloat16"},
        {"lm_cocktail": True, "batch_size": 2},
    ],
)
def test_what_changes_a_loss_changes_the_identity(change):
    assert settings_for("text-generation", **change).identity() != settings_for("text-generation").identity()


def test_the_batch_size_decides_the_losses_of_lm_cocktail():
    two, three = (settings_for("text-generation", lm_cocktail=True, batch_size=size) for size in (2, 3))
    assert two.identity() != three.identity()

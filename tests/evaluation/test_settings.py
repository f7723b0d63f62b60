import re

import pytest

from cocktail_hub.errors import ScoringError
from cocktail_hub.evaluation.settings import ScoringSettings


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"task": "fill-mask"}, "'fill-mask' cannot be scored on examples"),
        ({"max_length": 0}, "`max_length` must be a whole number >= 1, got 0"),
        ({"batch_size": True}, "`batch_size` must be a whole number >= 1, got True"),
        ({"neg_number": 1.5}, "`neg_number` must be a whole number >= 1, got 1.5"),
        ({"seed": -1}, "`seed` must be a whole number >= 0, got -1"),
        ({"temperature_infonce": 0.0}, "`temperature_infonce` must be > 0"),
        ({"temperature_infonce": float("nan")}, "`temperature_infonce` must be > 0"),
        ({"pooling": "clss"}, "Did you mean 'cls'?"),
        ({"dtype": "float64"}, "Did you mean 'float16'?"),
        ({"compat": True}, "`compat` needs a `batch_size`"),
    ],
)
def test_bad_settings_say_what_to_fix(kwargs, message):
    with pytest.raises(ScoringError, match=re.escape(message)):
        ScoringSettings(**({"task": "decoder"} | kwargs))


@pytest.mark.parametrize("change", [{"device": "cpu"}, {"batch_size": 4}, {"trust_remote_code": True}])
def test_what_does_not_change_the_loss_does_not_change_the_digest(change):
    assert ScoringSettings(task="decoder", **change).digest == ScoringSettings(task="text-generation").digest


@pytest.mark.parametrize(
    "change",
    [
        {"task": "encoder"},
        {"max_length": 9},
        {"neg_number": 2},
        {"seed": 1},
        {"chat_template": True},
        {"temperature_infonce": 0.1},
        {"pooling": "mean"},
        {"normalize": False},
        {"dtype": "bfloat16"},
        {"compat": True, "batch_size": 2},
    ],
)
def test_what_changes_the_loss_changes_the_digest(change):
    assert ScoringSettings(**({"task": "decoder"} | change)).digest != ScoringSettings(task="decoder").digest


def test_with_compat_the_batch_size_decides():
    two, three = (ScoringSettings(task="encoder", compat=True, batch_size=size) for size in (2, 3))
    assert two.digest != three.digest

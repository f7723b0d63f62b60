import os
import sys

import pytest

from cocktail_hub.evaluation.examples import load_examples
from cocktail_hub.evaluation.losses import Losses
from cocktail_hub.evaluation.losses_cache import LossesCache, losses_key
from cocktail_hub.evaluation.settings import ScoringSettings

LOSSES = Losses.of("a", [0.1, 1 / 3], truncated=1, texts=2, tokens=9, reading="plain text")
EXAMPLES = load_examples([{"input": "a", "output": "b"}], "decoder")
OTHER = load_examples([{"input": "a", "output": "c"}], "decoder")
SETTINGS = ScoringSettings(task="decoder")
KEY = losses_key("org/a@1", EXAMPLES, SETTINGS)


def test_losses_come_back_bit_for_bit_under_the_name_that_is_asked(tmp_path):
    cache = LossesCache(tmp_path / "new")
    assert cache.get(KEY, name="a") is None
    cache.put(KEY, LOSSES)
    assert cache.get(KEY, name="a") == LOSSES
    assert cache.get(KEY, name="b").name == "b"


def test_the_key_is_made_of_all_that_decides_the_losses():
    others = [
        losses_key("org/a@2", EXAMPLES, SETTINGS),
        losses_key("org/a@1", OTHER, SETTINGS),
        losses_key("org/a@1", EXAMPLES, ScoringSettings(task="decoder", max_length=8)),
        losses_key("org/a@1", EXAMPLES, SETTINGS, tokenizer="org/b@1"),
    ]
    assert len({KEY, *others}) == 5
    assert losses_key("org/a@1", EXAMPLES, SETTINGS, tokenizer="org/a@1") == KEY


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"key": "other"}', '{"losses": {}}', "\udc80"])
def test_a_damaged_file_counts_as_none_and_is_written_anew(tmp_path, text):
    cache = LossesCache(tmp_path)
    cache.put(KEY, LOSSES).write_bytes(text.encode(errors="surrogateescape"))
    assert cache.get(KEY, name="a") is None
    cache.put(KEY, LOSSES)
    assert cache.get(KEY, name="a") == LOSSES


def test_a_file_with_a_loss_that_is_no_number_counts_as_none(tmp_path):
    cache = LossesCache(tmp_path)
    path = cache.put(KEY, LOSSES)
    path.write_text(path.read_text().replace("0.1", "NaN"))
    assert cache.get(KEY, name="a") is None


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such permission")
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_to_leaves_nothing(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError):
        LossesCache(tmp_path).put(KEY, LOSSES)


def test_writing_leaves_no_other_file(tmp_path):
    cache = LossesCache(tmp_path)
    for _ in range(2):
        cache.put(KEY, LOSSES)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [f"{KEY}.json"]

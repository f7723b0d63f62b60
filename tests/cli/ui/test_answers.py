from __future__ import annotations

import models
import pytest
from embedders import pair

from cocktail_hub.cli.ui.answers import answers, writes
from cocktail_hub.errors import ScoringError
from cocktail_hub.merge.options import MixOptions

TEXTS = ["the cat sat on the mat", "a dog ran in the park"]


def ask(folders: object, question: str = "the cat", texts: list[str] = TEXTS) -> list:
    first, second = map(str, folders)
    recipe = [{"model": first, "weight": 0.75}, {"model": second, "weight": 0.25}]
    return list(answers(recipe, question, texts, MixOptions()))


def test_language_models_write_and_others_rank() -> None:
    assert writes("text-generation")
    assert writes("text2text-generation")
    assert not writes("text-ranking")
    assert not writes("image-classification")


@pytest.mark.whole
@pytest.mark.parametrize("kind", ["mean", "cross"])
def test_embedders_and_rerankers_rank_the_texts(kind: str) -> None:
    found = ask(pair(kind))
    assert found[0].model == "The mix"
    assert len(found) == 4
    for answer in found:
        assert sorted(text for text, _ in answer.ranked) == sorted(TEXTS)
        assert answer.ranked[0][1] >= answer.ranked[1][1]


@pytest.mark.whole
@pytest.mark.parametrize("family", ["llama", "t5"])
def test_language_models_answer_a_prompt(family: str) -> None:
    found = ask(models.pair(family).folders, "the cat sat", [])
    assert len(found) == 4
    assert all(set(answer.text.split()) <= set(models.WORDS) for answer in found)


@pytest.mark.whole
def test_what_is_missing_is_said_before_a_model_is_loaded() -> None:
    with pytest.raises(ScoringError, match="There is no question"):
        ask(pair("mean"), " ")
    with pytest.raises(ScoringError, match="There is no text to rank"):
        ask(pair("mean"), texts=[])
    with pytest.raises(ScoringError, match="Models for the task 'fill-mask' cannot be asked here"):
        ask(models.pair("masked").folders)

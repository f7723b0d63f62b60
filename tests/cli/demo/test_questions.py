"""The questions of the demo, and how an embedder is scored on them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from cocktail_hub.cli.demo import questions
from cocktail_hub.cli.demo.questions import Question, Score

pytestmark = pytest.mark.whole


class Table:
    """An embedder that looks every text up."""

    def __init__(self, **vectors: Sequence[float]) -> None:
        self._vectors = vectors

    def encode(self, texts: list[str], *, show_progress_bar: bool) -> np.ndarray:
        assert not show_progress_bar
        return np.array([self._vectors[text] for text in texts], dtype=np.float32)


def test_scores_count_ranks_among_the_answers_of_all_sets() -> None:
    model = Table(q1=(1, 0), q2=(0, 1), q3=(3, 4), a1=(2, 0), a2=(1, 1), a3=(0, 5))
    one = [Question(question="q1", answer="a1"), Question(question="q2", answer="a2")]
    other = [Question(question="q3", answer="a1")]
    found = questions.score(model, {"one": one, "other": other})
    assert found == {"one": Score(top1=1.0, mrr=1.0), "other": Score(top1=0.0, mrr=0.5)}
    third = [*other, Question(question="q3", answer="a3")]  # a2 is nearest to q3, then a3, then a1
    assert questions.score(model, {"one": one, "other": third})["other"] == Score(top1=0.0, mrr=(1 / 3 + 1 / 2) / 2)


def test_both_sets_hold_forty_questions_with_an_answer_of_their_own() -> None:
    sets = questions.read_questions()
    assert {name: len(items) for name, items in sets.items()} == {"general": 40, "sre": 40}
    items = [item for found in sets.values() for item in found]
    assert len({item.answer for item in items}) == len({item.question for item in items}) == 80
    assert not [item for item in items if item.answer.lower() in item.question.lower()]

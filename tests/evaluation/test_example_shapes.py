"""Examples in the shapes that people have."""

from __future__ import annotations

from typing import Any

import pytest

from cocktail_hub.errors import ScoringError
from cocktail_hub.evaluation.examples import check_examples


@pytest.mark.parametrize(
    ("row", "expected", "shape"),
    [
        (
            {"anchor": "q", "positive": "p", "negative": "n"},
            ("q", ("p",), ("n",)),
            "query from `anchor`, pos from `positive`, neg from `negative`",
        ),
        (
            {"query": "q", "positive": "p", "negatives": ["n", "m"]},
            ("q", ("p",), ("n", "m")),
            "pos from `positive`, neg from `negatives`",
        ),
        (
            {"anchor": "q", "positive": "p", "negative_10": "m", "negative_2": "n"},
            ("q", ("p",), ("n", "m")),
            "query from `anchor`, pos from `positive`, neg from `negative_2`, `negative_10`",
        ),
        (
            {"sentence1": "q", "sentence2": "p"},
            ("q", ("p",), ()),
            "query from `sentence1`, pos from `sentence2`, neg from the other examples",
        ),
        (
            {"question": "q", "answer": "p"},
            ("q", ("p",), ()),
            "query from `question`, pos from `answer`, neg from the other examples",
        ),
        ({"query": "q", "pos": ["p"]}, ("q", ("p",), ()), "neg from the other examples"),
        ({"query": "q", "pos": ["p"], "neg": ["n"]}, ("q", ("p",), ("n",)), ""),
    ],
)
def test_pairs_and_triplets_are_recognised(row: dict[str, Any], expected: tuple[Any, ...], shape: str) -> None:
    found = check_examples(
        [row, {key: ["other"] if isinstance(value, list) else "other" for key, value in row.items()}], "encoder"
    )
    assert found.rows[0] == dict(zip(("query", "pos", "neg"), expected, strict=True))
    assert found.shape == shape


USER, SYSTEM, ASSISTANT = ({"role": role, "content": role[0]} for role in ("user", "system", "assistant"))


@pytest.mark.parametrize(
    ("row", "expected", "shape"),
    [
        ({"prompt": "a", "completion": "b"}, ("a", "b"), "input from `prompt`, output from `completion`"),
        ({"question": "a", "answer": "b"}, ("a", "b"), "input from `question`, output from `answer`"),
        ({"instruction": "a", "output": "b"}, ("a", "b"), "input from `instruction`"),
        ({"instruction": "a", "input": "c", "output": "b"}, ("a\n\nc", "b"), "input from `instruction`"),
        ({"instruction": "a", "input": "", "output": "b"}, ("a", "b"), "input from `instruction`"),
        ({"messages": [SYSTEM, USER, ASSISTANT]}, ("s\n\nu", "a"), "input from `messages`, output from `messages`"),
        ({"prompt": [USER], "completion": [ASSISTANT]}, ("u", "a"), "input from `prompt`, output from `completion`"),
    ],
)
def test_questions_instructions_and_conversations_are_recognised(
    row: dict[str, Any], expected: tuple[str, str], shape: str
) -> None:
    found = check_examples([row], "decoder")
    assert (found.rows[0]["input"], found.rows[0]["output"]) == expected
    assert found.shape == shape


def test_a_reranker_takes_the_answers_of_others_as_wrong_ones() -> None:
    rows = [{"question": f"q{i}", "answer": f"a{i % 9}"} for i in range(10)]
    found = check_examples(rows, "reranker").rows
    assert found[0]["neg"] == tuple(f"a{i}" for i in range(1, 8))
    assert found[8]["neg"] == tuple(f"a{i}" for i in (0, 1, 2, 3, 4, 5, 6))
    assert "a0" not in found[9]["neg"]
    with pytest.raises(ScoringError, match="Example 0 has no negatives"):
        check_examples(rows[:1], "reranker")


@pytest.mark.parametrize("graded", ["score", "label"])
def test_graded_pairs_are_no_right_answers(graded: str) -> None:
    with pytest.raises(ScoringError, match="Example 0 has no key 'query'"):
        check_examples([{"sentence1": "a", "sentence2": "b", graded: 0.2}], "encoder")


def test_an_example_of_another_shape_is_named() -> None:
    rows = [{"anchor": "q", "positive": "p"}, {"anchor": "q"}]
    with pytest.raises(ScoringError, match="Example 1 has no key 'pos'"):
        check_examples(rows, "encoder")
    with pytest.raises(ScoringError, match="Example 1 is of type str"):
        check_examples([rows[0], "text"], "encoder")
    with pytest.raises(ScoringError, match="'output' of example 1 is of type dict"):
        check_examples([{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": {"c": 1}}], "decoder")


def test_columns_that_are_given_are_the_only_ones() -> None:
    with pytest.raises(ScoringError, match="Example 0 has no key 'output'"):
        check_examples([{"prompt": "a", "completion": "b"}], "decoder", columns={"input": "prompt"})

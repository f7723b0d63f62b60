from __future__ import annotations

import math

import numpy as np
import pytest

from cocktail_hub.evaluation.metrics import (
    CLASSES,
    SUITE_METRICS,
    exact_match,
    metrics_of,
    normalized,
    ranking,
    rouge_l,
    rouge_l_of_words,
)


def shown(columns) -> dict[str, float]:
    return {metric.name: float(metric.figure(metric.rows(columns).mean(axis=0))) for metric in metrics_of(columns)}


def test_ranks_of_one_right_answer():
    assert ranking(np.array([0.9, 0.5, 0.7]), [0]) == {"first": 1.0, "mrr": 1.0, "ndcg": 1.0}
    assert ranking(np.array([0.9, 0.5, 0.7]), [1]) == {"first": 0.0, "mrr": 1 / 3, "ndcg": 0.5}


def test_several_right_answers_gain_together():
    """Ranks 1 and 3 of two right ones: (1 + 1/2) / (1 + 1/log2(3))."""
    found = ranking(np.array([3.0, 2.0, 1.0]), [0, 2])
    assert found["ndcg"] == pytest.approx(1.5 / (1 + 1 / math.log2(3)), rel=1e-12)
    assert (found["first"], found["mrr"]) == (1.0, 1.0)


def test_beyond_rank_ten_nothing_is_gained_but_the_reciprocal_rank():
    scores = np.arange(20.0)[::-1]
    assert ranking(scores, [10]) == {"first": 0.0, "mrr": 1 / 11, "ndcg": 0.0}
    assert ranking(scores, list(range(12)))["ndcg"] == 1.0  # ten places cannot hold more


def test_a_model_that_cannot_tell_passages_apart_gets_nothing_for_it():
    assert ranking(np.zeros(4), [0]) == {"first": 0.0, "mrr": 0.25, "ndcg": 1 / math.log2(5)}
    assert ranking(np.zeros(4), [0, 1])["mrr"] == 1 / 3


@pytest.mark.parametrize(
    ("text", "plain"),
    [("The  Eiffel Tower.", "eiffel tower"), ("an answer", "answer"), ("Another", "another"), ("Ärger, a!", "ärger")],
)
def test_answers_are_compared_without_case_punctuation_and_articles(text, plain):
    assert normalized(text) == plain


def test_any_reference_counts_for_an_exact_match():
    assert exact_match("the Seine", ["Rhone", "seine."]) == 1.0
    assert exact_match("the Seine river", ["Seine"]) == 0.0


@pytest.mark.parametrize(
    ("found", "reference", "score"),
    [
        ("the cat sat", "the cat sat", 1.0),
        ("The CAT; sat!", "the cat sat", 1.0),
        ("a b c d", "a x c y", 0.5),
        ("a b c d", "d c b a", 0.25),
        ("police killed the gunman", "police kill the gunman", 0.75),  # Lin (2004), section 3.1
        ("the gunman kill police", "police kill the gunman", 0.5),
        ("", "a", 0.0),
        ("!", "?", 0.0),
    ],
)
def test_rouge_l_is_the_longest_common_subsequence_of_words(found, reference, score):
    assert rouge_l(found, reference) == score


def test_the_columns_say_which_metrics_there_are():
    rank = {"loss": [1.0, 3.0], "first": [1.0, 0.0], "mrr": [1.0, 0.5], "ndcg": [1.0, 0.25]}
    assert shown(rank) == {"nDCG@10": 62.5, "MRR": 75.0, "accuracy@1": 50.0, "loss": 2.0}
    assert shown({"loss": [0.0, 2.0]}) == {"loss": 1.0, "perplexity": math.e}
    assert shown({"loss": [0.0, 2.0], "right": [1.0, 1.0]}) == {"accuracy": 100.0, "loss": 1.0, "perplexity": math.e}
    written = {"loss": [0.0, 2.0], "exact": [1.0, 0.0], "rouge": [1.0, 0.5]}
    assert shown(written) == {"ROUGE-L": 75.0, "exact match": 50.0, "loss": 1.0, "perplexity": math.e}
    assert next(iter(shown(written))) == "ROUGE-L"


def test_macro_f1_is_the_mean_over_the_classes_that_occur():
    """a: 2*1/(1+2), b: 2*1/(2+1), c: 0/(1+0), d: 0/(0+1)."""
    columns = {"label": ["a", "b", "b", "c"], "predicted": ["a", "b", "d", "a"], "right": [1.0, 1.0, 0.0, 0.0]}
    found = shown(columns)
    assert found["accuracy"] == 50.0
    assert found["macro F1"] == pytest.approx(100 * (2 / 3 + 2 / 3 + 0 + 0) / 4, rel=1e-12)


def test_classes_that_a_resample_lacks_do_not_count():
    columns = {"label": ["a", "b"], "predicted": ["a", "b"], "right": [1.0, 1.0]}
    rows = CLASSES[1].rows(columns)
    assert CLASSES[1].figure(rows[:1].mean(axis=0)) == 100.0


def test_a_huge_loss_has_a_perplexity_all_the_same():
    assert math.isfinite(shown({"loss": [5000.0, 1.0]})["perplexity"])


def test_f1_is_that_of_the_class_1():
    columns = {"label": ["1", "1", "0", "0", "1"], "predicted": ["1", "0", "1", "0", "1"]}
    metric = SUITE_METRICS["F1"]
    assert metric.figure(metric.rows(columns).mean(axis=0)) == pytest.approx(100 * 2 * 2 / (3 + 3))
    never = {"label": ["0", "0"], "predicted": ["0", "0"]}
    assert metric.figure(metric.rows(never).mean(axis=0)) == 0.0


@pytest.mark.parametrize(
    ("found", "reference", "expected"),
    [
        ("the cat", "the cat", 1.0),
        ("The cat", "the cat", 0.5),  # case counts
        ("the the cat", "the cat", 1.0),  # each word once
        ("cat the", "the cat", 0.5),  # order counts
        ("one two. three four", "three four. one two", 1.0),  # but not that of sentences
        ("a b.", "c d.", 2 / 6),  # the empty word after both full stops
        ("", "a", 0.0),
        ("", "a.", 2 / 3),
        ("a", "b", 0.0),
    ],
)
def test_rouge_l_of_the_paper_counts_different_words_over_pairs_of_sentences(found, reference, expected):
    assert rouge_l_of_words(found, reference) == pytest.approx(expected, abs=1e-7)

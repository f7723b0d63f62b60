from __future__ import annotations

import numpy as np
import pytest

from cocktail_hub.search.ensemble import (
    NEVER,
    MixedLogits,
    MixedVectors,
    best_weights,
    cross_validated_gain,
    divergence,
    softmax,
    without_crumbs,
)

RNG = np.random.default_rng(7)
COUNT, EXAMPLES = 4, 12


def logits() -> MixedLogits:
    values = RNG.normal(size=(COUNT, 2 * EXAMPLES, 5))
    values[:, ::3, 4] = NEVER
    return MixedLogits(logits=values, owners=np.repeat(np.arange(EXAMPLES), 2))


def vectors(*, cosine: bool) -> MixedVectors:
    """Example i has the passages i and i + 1 as positives."""
    right = np.zeros((EXAMPLES, EXAMPLES + 3))
    for example in range(EXAMPLES):
        right[example, [example, example + 1]] = 0.5
    return MixedVectors(
        queries=RNG.normal(size=(COUNT, EXAMPLES, 6)),
        passages=RNG.normal(size=(COUNT, EXAMPLES + 3, 6)),
        right=right,
        wrong=right == 0,
        cosine=cosine,
        temperature=0.5,
    )


ALL = [logits(), vectors(cosine=True), vectors(cosine=False), vectors(cosine=True).searched]
NAMES = ["logits", "cosine", "dot", "searched"]


def test_the_loss_of_mean_logits_is_the_cross_entropy_of_the_first_candidate():
    outputs = MixedLogits(
        logits=np.log([[[0.5, 0.5], [0.2, 0.8]], [[0.125, 0.875], [0.2, 0.8]]]), owners=np.array([0, 0])
    )
    assert outputs.losses(np.array([1.0, 0.0])) == pytest.approx([-(np.log(0.5) + np.log(0.2)) / 2], rel=1e-15)
    assert outputs.losses(np.array([0.0, 1.0])) == pytest.approx([-(np.log(0.125) + np.log(0.2)) / 2], rel=1e-15)
    odds = 7**0.5  # the geometric mean of 1 and 7
    assert outputs.losses(np.array([0.5, 0.5])) == pytest.approx([(np.log(1 + odds) - np.log(0.2)) / 2], rel=1e-15)


def test_the_loss_of_mean_vectors_is_info_nce_of_their_cosines():
    outputs = vectors(cosine=True)
    weights = np.array([0.1, 0.2, 0.3, 0.4])
    queries, passages = (np.tensordot(weights, part, 1) for part in (outputs.queries, outputs.passages))
    for example, loss in enumerate(outputs.losses(weights)):
        query = queries[example] / np.linalg.norm(queries[example])
        parts = np.exp([query @ one / np.linalg.norm(one) / 0.5 for one in passages])
        others = sum(parts) - parts[example] - parts[example + 1]
        own = [-np.log(part / (part + others)) for part in parts[[example, example + 1]]]
        assert loss == pytest.approx(sum(own) / 2, rel=1e-12)


def test_weights_of_embedders_are_searched_by_the_loss_among_many_passages_and_by_the_losses_alone():
    outputs, weights = vectors(cosine=True), np.array([0.1, 0.2, 0.3, 0.4])
    scores = outputs.scores(weights) / 0.5
    others = np.log(np.exp(np.where(outputs.wrong, scores, -np.inf)).sum(axis=1, keepdims=True))
    many = (outputs.right * (others - scores)).sum(axis=1)
    alone = sum(weight * outputs.losses(one) for weight, one in zip(weights, np.eye(COUNT), strict=True))
    assert outputs.searched.losses(weights) == pytest.approx((many + 3 * alone) / 16, rel=1e-12)


def test_an_example_without_wrong_passages_pulls_no_weight():
    outputs = vectors(cosine=True)
    outputs.wrong[0] = False
    first = (np.arange(EXAMPLES) == 0).astype(float)
    assert outputs.searched.losses(np.full(COUNT, 0.25))[0] == pytest.approx(0, abs=1e-12)
    assert outputs.searched.gradient(np.full(COUNT, 0.25), first) == pytest.approx(np.zeros(COUNT), abs=1e-12)


@pytest.mark.parametrize("outputs", ALL, ids=NAMES)
def test_gradients_are_those_of_finite_differences(outputs):
    weights, chosen = RNG.dirichlet(np.ones(COUNT)), (np.arange(EXAMPLES) % 3 > 0).astype(float)
    for place, slope in enumerate(outputs.gradient(weights, chosen)):
        step = np.eye(COUNT)[place] * 1e-6
        sides = [chosen @ outputs.losses(weights + sign * step) for sign in (1, -1)]
        assert slope == pytest.approx((sides[0] - sides[1]) / 2e-6, abs=1e-7)


@pytest.mark.parametrize("outputs", ALL, ids=NAMES)
@pytest.mark.parametrize("prior", [None, np.array([0.4, 0.3, 0.2, 0.1])])
def test_at_the_best_weights_no_direction_goes_down(outputs, prior):
    weights = best_weights(outputs, 0.1, prior)
    assert weights.sum() == pytest.approx(1)
    slope = outputs.gradient(weights, np.full(EXAMPLES, 1 / EXAMPLES))
    slope = slope + 0.1 * np.log(weights / (0.25 if prior is None else prior))
    assert slope == pytest.approx(np.full(COUNT, slope.mean()), abs=1e-3)


def test_the_best_weights_of_logits_are_the_best_of_all():
    outputs, equal = logits(), np.full(COUNT, 1 / COUNT)

    def objective(weights: np.ndarray) -> float:
        return float(outputs.losses(weights).mean() + 0.1 * divergence(weights, equal))

    least = objective(best_weights(outputs, 0.1))
    assert all(least <= objective(weights) for weights in RNG.dirichlet(np.ones(COUNT), 500))


def test_the_same_outputs_give_the_same_weights_to_the_last_bit():
    for outputs in ALL:
        assert best_weights(outputs, 0.1).tobytes() == best_weights(outputs, 0.1).tobytes()


def test_a_strong_prior_wins_and_ingredients_that_are_alike_stay_equal():
    prior = np.array([0.4, 0.3, 0.2, 0.1])
    assert best_weights(ALL[0], 1e9, prior) == pytest.approx(prior, rel=1e-8)
    alike = MixedLogits(logits=np.repeat(ALL[0].logits[:1], 3, axis=0), owners=ALL[0].owners)
    assert best_weights(alike, 0.1) == pytest.approx([1 / 3] * 3, rel=1e-9)


def test_with_one_candidate_the_weights_are_the_prior():
    outputs = MixedLogits(logits=np.zeros((3, 2, 1)), owners=np.array([0, 1]))
    assert best_weights(outputs, 0.1).tolist() == [1 / 3] * 3


def test_weights_far_from_the_prior_are_found():
    """One ingredient knows the answers, the other is sure of wrong ones."""
    wrong_and_right = np.array([[[-50.0, 50.0]] * 5, [[5.0, -5.0]] * 5])
    weights = best_weights(MixedLogits(logits=wrong_and_right, owners=np.arange(5)), 0.01)
    assert weights[1] > 0.95


def test_the_gain_is_measured_on_examples_that_the_weights_have_not_seen():
    good, noise = np.zeros((1, 40, 3)), RNG.normal(size=(3, 40, 3))
    good[:, :, 0] = 1.0
    outputs = MixedLogits(logits=np.concatenate([good, noise]), owners=np.arange(40))
    gain = cross_validated_gain(outputs, [str(example) for example in range(40)], 2.0)
    assert gain.low < gain.mean < gain.high
    assert gain.proven
    only_noise = MixedLogits(logits=noise, owners=np.arange(40))
    assert not cross_validated_gain(only_noise, [str(example) for example in range(40)], 2.0).proven


def test_examples_of_one_unit_are_never_on_both_sides():
    """Each example is there twice. Apart, the weights for one copy would follow from the other."""
    noise = RNG.normal(size=(30, 10, 2))
    outputs = MixedLogits(logits=np.repeat(noise, 2, axis=1), owners=np.arange(20))
    pairs = [str(example // 2) for example in range(20)]
    apart = [str(example) for example in range(20)]
    assert cross_validated_gain(outputs, pairs, 2.0).mean < cross_validated_gain(outputs, apart, 2.0).mean


def test_crumbs_are_dropped_but_never_all():
    assert without_crumbs(np.array([0.6, 0.395, 0.005]), 0.01) == pytest.approx([0.6 / 0.995, 0.395 / 0.995, 0])
    assert without_crumbs(np.array([0.5, 0.3, 0.2]), 0.9).tolist() == [1.0, 0.0, 0.0]
    assert without_crumbs(np.array([0.5, 0.5]), 0.0).tolist() == [0.5, 0.5]


def test_softmax_of_huge_values_is_finite_and_above_zero():
    assert softmax(np.array([0.0, 5000.0])).min() > 0
    assert softmax(np.array([1.0, 1.0])).tolist() == [0.5, 0.5]

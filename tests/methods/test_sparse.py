"""DARE, DELLA and breadcrumbs against their formulas in float64, and by hand."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from merge_helpers import merged, near

from cocktail_hub.merge.kernels.buffers import Buffers
from cocktail_hub.merge.kernels.torch_buffers import TorchBuffers
from cocktail_hub.methods.draws import Draws

if TYPE_CHECKING:
    from collections.abc import Sequence

SHAPE = (60, 401)
WEIGHTS = [0.51234567, 0.30771133, 0.72191517]
"""Of no simple ratio: no exact sum lies midway between two floats."""
LIBRARIES = pytest.mark.parametrize("library", [Buffers, TorchBuffers])


def given(shape: tuple[int, ...] = SHAPE) -> tuple[list[torch.Tensor], torch.Tensor]:
    """A base and three models, float32, and the task vectors in float64."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(shape, generator=generator)
    models = [base + torch.randn(shape, generator=generator) * 0.05 for _ in WEIGHTS]
    return [base, *models], torch.stack([model.double() - base.double() for model in models])


def drawn(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """The random numbers of the three models."""
    like, keys = np.zeros(shape), [f"{seed} {model} x" for model in (1, 2, 3)]
    draws = Draws(like, keys, [(0, like.size)], np, split=False)
    return torch.from_numpy(np.stack([draws.uniform(index) for index in range(3)]))


def added(base: torch.Tensor, vectors: torch.Tensor, lam: float = 1.0) -> torch.Tensor:
    weights = torch.tensor(WEIGHTS, dtype=torch.float64).reshape(3, *[1] * base.dim())
    return base.double() + lam * (weights * vectors).sum(dim=0)


def agreed(
    base: torch.Tensor, vectors: torch.Tensor, lam: float = 1.0, *, elect: str = "unweighted", merge: str = "mean"
) -> torch.Tensor:
    weights = torch.tensor(WEIGHTS, dtype=torch.float64).reshape(3, *[1] * base.dim())
    votes = vectors * weights if elect == "weighted" else vectors
    agree = (vectors.sign() == votes.sum(dim=0).sign()) & (vectors != 0)
    total = (vectors * weights * agree).sum(dim=0)
    return base.double() + lam * (total / (weights * agree).sum(dim=0).clamp(min=1e-12) if merge == "mean" else total)


@LIBRARIES
@pytest.mark.parametrize("density", [0.1, 0.5])
def test_dare_linear_is_its_formula(library: type[Buffers], density: float) -> None:
    models, deltas = given()
    kept = torch.where(drawn(SHAPE) < density, deltas / density, 0.0)
    got = merged(models, WEIGHTS, "dare_linear", density=density, lam=0.7, library=library)
    assert near(got, added(models[0], kept, 0.7))


@LIBRARIES
@pytest.mark.parametrize("elect", ["weighted", "unweighted"])
@pytest.mark.parametrize("merge", ["mean", "sum"])
def test_dare_ties_is_its_formula_by_every_convention(library: type[Buffers], elect: str, merge: str) -> None:
    models, deltas = given()
    kept = torch.where(drawn(SHAPE) < 0.5, deltas / 0.5, 0.0)
    got = merged(models, WEIGHTS, "dare_ties", density=0.5, library=library, elect=elect, merge=merge)
    assert near(got, agreed(models[0], kept, elect=elect, merge=merge))


def test_each_model_may_have_a_density_of_its_own() -> None:
    models, deltas = given()
    kept = [torch.where(u < p, v / p, 0.0) for u, v, p in zip(drawn(SHAPE), deltas, (0.1, 0.5, 1.0), strict=True)]
    own = [{}, {"density": 0.5}, {"density": 1.0}]
    assert near(merged(models, WEIGHTS, "dare_linear", own=own), added(models[0], torch.stack(kept)))


@pytest.mark.parametrize("method", ["dare_linear", "della_linear"])
def test_what_is_kept_is_rescaled_as_asked(method: str) -> None:
    models, deltas = given()
    raw = merged(models[:2], [1.0], method, density=0.3, rescale="none").double() - models[0].double()
    kept = raw.abs() > 1e-9
    assert torch.allclose(raw[kept], deltas[0][kept], atol=1e-6)
    scaled = merged(models[:2], [1.0], method, density=0.3, rescale="l1").double() - models[0].double()
    assert scaled.abs().sum().item() == pytest.approx(deltas[0].abs().sum().item(), rel=1e-4)
    factor = deltas[0].abs().sum() / deltas[0][kept].abs().sum()
    assert torch.allclose(scaled[kept], deltas[0][kept] * factor, atol=1e-6)


def chances(deltas: torch.Tensor, density: float, epsilon: float) -> torch.Tensor:
    ranks = deltas.abs().argsort(dim=-1, stable=True).argsort(dim=-1).double()
    return density - epsilon + 2 * epsilon * ranks / (deltas.shape[-1] - 1)


@LIBRARIES
@pytest.mark.parametrize("shape", [SHAPE, (9001,)])
def test_della_is_its_formula(library: type[Buffers], shape: tuple[int, ...]) -> None:
    models, deltas = given(shape)
    chance = chances(deltas, 0.6, 0.2)
    kept = torch.where(drawn(shape) < chance, deltas / chance, 0.0)
    options: dict[str, Any] = {"density": 0.6, "epsilon": 0.2, "library": library, "arena": 60_000}
    assert near(merged(models, WEIGHTS, "della_linear", **options), added(models[0], kept))
    assert near(merged(models, WEIGHTS, "della", **options), agreed(models[0], kept))


def test_della_keeps_large_elements_more_often_and_the_density_overall() -> None:
    models, deltas = given((400, 501))
    changed = merged(models[:2], [1.0], "della", density=0.5, epsilon=0.4, rescale="none") != models[0]
    large = deltas[0].abs() > deltas[0].abs().median(dim=1, keepdim=True).values
    assert changed.double().mean().item() == pytest.approx(0.5, abs=0.005)
    assert changed[large].double().mean().item() == pytest.approx(0.7, abs=0.005)


def test_chances_below_zero_drop_and_above_one_keep() -> None:
    models, _ = given()
    found = merged(models[:2], [1.0], "della", density=0.1, epsilon=1.0)
    assert found.isfinite().all()
    assert 0.2 < (found != models[0]).double().mean().item() < 0.3  # of chances -0.9 to 1.1: from the upper half


def test_densities_are_kept_and_masks_are_independent() -> None:
    base, ones = torch.zeros(100_000), torch.ones(100_000)
    first, second = (
        merged([base, *pair], [1.0, 1.0], "dare_linear", density=0.3, rescale="none")
        for pair in ((ones, base), (base, ones))
    )
    sigma = math.sqrt(0.3 * 0.7 / 100_000)
    for found, share in ((first, 0.3), (second, 0.3), (first * second, 0.09)):
        assert abs(found.mean().item() - share) < 4 * sigma


@LIBRARIES
@pytest.mark.parametrize(("density", "gamma"), [(0.3, 0.01), (0.9, 0.01), (0.9, 0.5), (1.0, 0.0), (0.5, 0.0)])
@pytest.mark.parametrize("arena", [1 << 24, 60_000])
def test_breadcrumbs_are_their_formula(library: type[Buffers], density: float, gamma: float, arena: int) -> None:
    models, deltas = given()
    count, numel = int(density * deltas[0].numel()), deltas[0].numel()
    top = min(int(gamma * numel), numel - count)
    kept = deltas.reshape(3, -1).clone()
    for vector in kept:
        order = vector.abs().argsort(descending=True)
        vector[order[:top]] = 0.0
        vector[order[top + count :]] = 0.0
    kept = kept.reshape(deltas.shape)
    options: dict[str, Any] = {"density": density, "gamma": gamma, "library": library, "arena": arena}
    assert near(merged(models, WEIGHTS, "breadcrumbs", **options), added(models[0], kept))
    assert near(merged(models, WEIGHTS, "breadcrumbs_ties", **options), agreed(models[0], kept))


def test_breadcrumbs_drop_no_small_tensor_and_no_outlier_where_the_fraction_is_less_than_one() -> None:
    base, tuned = torch.zeros(5), torch.tensor([1.0, -2.0, 3.0, -4.0, 5.0])
    assert merged([base, tuned], [1.0], "breadcrumbs").tolist() == [0.0, -2.0, 3.0, -4.0, 5.0]
    assert merged([base, tuned], [1.0], "breadcrumbs", gamma=0.2, density=0.4).tolist() == [0.0, 0.0, 3.0, -4.0, 0.0]


def by_hand(method: str, values: Sequence[Sequence[float]], **options: Any) -> list[float]:
    vectors = [torch.tensor(value) for value in values]
    found: list[float] = merged([torch.zeros(2), *vectors], [1.0, 3.0], method, **options).tolist()
    return found


def test_elections_and_sums_by_hand() -> None:
    values = [[3.0, 1.0], [-2.0, 2.0]]
    whole = {"density": 1.0}
    assert by_hand("ties", values, **whole) == [3.0, 1.75]
    assert by_hand("ties", values, **whole, elect="weighted") == [-2.0, 1.75]
    assert by_hand("ties", values, **whole, merge="sum") == [3.0, 7.0]
    assert by_hand("dare_ties", values, **whole, elect="weighted", merge="sum", lam=0.5) == [-3.0, 3.5]
    assert by_hand("breadcrumbs_ties", values, **whole, gamma=0.0, merge="sum") == [3.0, 7.0]


@pytest.mark.parametrize("method", ["ties", "dare_ties", "della"])
def test_a_single_vector_of_which_nothing_is_dropped_is_read_once(method: str) -> None:
    base, tuned = torch.ones(3), torch.tensor([2.0, 3.0, -4.0])
    assert torch.equal(merged([base, tuned], [0.25], method, density=1.0), tuned)
    assert merged([base, tuned], [0.25], method, density=1.0, merge="sum").tolist() == [1.25, 1.5, -0.25]

"""SCE against its formula in float64, and by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from merge_helpers import merged

from cocktail_hub.merge.kernels.buffers import Buffers
from cocktail_hub.merge.kernels.torch_buffers import TorchBuffers


def sce(tensors: list[torch.Tensor], weights: list[float], **options: Any) -> torch.Tensor:
    return merged(tensors, weights, "sce", **options)


def test_energies_weigh_what_agrees() -> None:
    base, a, b = torch.zeros(3), torch.tensor([2.0, 0.0, 1.0]), torch.tensor([1.0, 0.0, -3.0])
    # energies 5 and 10, so 1/3 and 2/3; the third element's sum is negative: a is erased there
    assert sce([base, a, b], [1.0, 1.0]).tolist() == pytest.approx([2 / 3 + 2 / 3, 0.0, -3.0])


def test_only_what_varies_most_is_selected() -> None:
    base, a, b = torch.zeros(4), torch.tensor([4.0, 1.0, 1.0, 1.0]), torch.tensor([0.0, 1.0, 1.0, 1.5])
    assert sce([base, a, b], [1.0, 1.0], select_topk=0.25).tolist() == [4.0, 0.0, 0.0, 0.0]


def test_weights_scale_the_energies() -> None:
    base, a, b = torch.zeros(1), torch.tensor([1.0]), torch.tensor([2.0])
    assert sce([base, a, b], [4.0, 1.0]).item() == pytest.approx((4 * 1 * 1 + 1 * 4 * 2) / (4 + 4))


def test_models_equal_to_the_base_give_the_base() -> None:
    base = torch.tensor([1.0, -0.0, 5.0])
    assert torch.equal(sce([base] * 3, [1.0, 1.0]).view(torch.int32), base.view(torch.int32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("library", [Buffers, TorchBuffers])
@pytest.mark.parametrize("arena", [1 << 24, 1 << 16])
def test_sce_is_its_formula_in_float64(dtype: torch.dtype, library: type[Buffers], arena: int) -> None:
    def random(seed: int, scale: float) -> torch.Tensor:
        return torch.randn(20_000, generator=torch.Generator().manual_seed(seed)).double() * scale

    base = random(0, 1.0).to(dtype)
    models = [(base.double() + random(seed, 0.05)).to(dtype) for seed in (1, 2, 3)]
    deltas = torch.stack([model.double() - base.double() for model in models])
    wide = deltas.float() if dtype == torch.bfloat16 else deltas  # the accumulator's dtype
    variance = wide.var(dim=0, unbiased=False)
    cut = variance.sort(descending=True).values[5999]
    sure = (variance == cut) | ((variance - cut).abs() > 1e-6 * cut)
    kept = torch.where(variance >= cut, deltas, 0.0)
    energy = (kept**2).sum(dim=1)
    agree = (kept.sign() == kept.sum(dim=0).sign()) & (kept != 0)
    weights = agree * (energy / energy.sum())[:, None]
    want = base.double() + (kept * weights).sum(dim=0) / weights.sum(dim=0).clamp(min=1e-12)
    got, nearest = sce([base, *models], [1 / 3] * 3, select_topk=0.3, library=library, arena=arena), want.to(dtype)
    step = torch.nextafter(nearest.abs(), torch.tensor(math.inf, dtype=dtype)) - nearest.abs()
    step = step.double() + (2.0**-22 * base.double().abs() if dtype == torch.bfloat16 else 0.0)  # where it cancels
    assert ((got.double() - nearest.double()).abs() <= step)[sure].all()
    assert (got != nearest)[sure].double().mean().item() <= (1e-3 if dtype == torch.bfloat16 else 1e-4)

"""Arcee fusion and nearswap against their formulas in float64, and by hand."""

from __future__ import annotations

import pytest
import torch
from merge_helpers import merged, near

from cocktail_hub.merge.kernels.buffers import Buffers
from cocktail_hub.merge.kernels.torch_buffers import TorchBuffers


def given(shape: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(shape, generator=generator)
    scales = torch.rand(shape[:1] + (1,) * (len(shape) - 1), generator=generator)
    return [base, base + torch.randn(shape, generator=generator) * 0.1 * scales]


@pytest.mark.parametrize("library", [Buffers, TorchBuffers])
@pytest.mark.parametrize("shape", [(60, 401), (9001,), (7, 1), (1, 2), (40, 3, 5, 5)])
@pytest.mark.parametrize("arena", [1 << 24, 60_000])
def test_arcee_fusion_is_its_formula(library: type[Buffers], shape: tuple[int, ...], arena: int) -> None:
    base, model = given(shape)
    wide = [tensor.double().reshape(shape[0] if len(shape) > 1 else 1, -1) for tensor in (base, model)]
    p, q = wide[1].softmax(dim=1) + 1e-8, wide[0].softmax(dim=1) + 1e-8
    importance = ((wide[1] - wide[0]).abs() * (p * (p / q).log()).sum(dim=1, keepdim=True)).flatten()
    ascending = importance.sort().values
    first, median, third = (ascending[int(share * (len(ascending) - 1))] for share in (0.25, 0.5, 0.75))
    chosen = (importance >= median + 1.5 * (third - first)).reshape(base.shape)
    got = merged([base, model], [1.0], "arcee_fusion", library=library, arena=arena)
    assert torch.equal(got, torch.where(chosen, model, base))
    if base.numel() > 1000:
        assert 0.01 < chosen.double().mean() < 0.4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_arcee_fusion_takes_the_model_or_the_base_bit_for_bit(dtype: torch.dtype) -> None:
    base, model = (tensor.to(dtype) for tensor in given((30, 77)))
    found = {
        library: merged([base, model], [1.0], "arcee_fusion", library=library, arena=arena)
        for library in (Buffers, TorchBuffers)
        for arena in (1 << 24, 20_000)
    }
    assert torch.equal(found[Buffers], found[TorchBuffers])
    assert ((found[Buffers] == base) | (found[Buffers] == model)).all()


@pytest.mark.parametrize("library", [Buffers, TorchBuffers])
@pytest.mark.parametrize("t", [0.0, 0.01, 0.1])
def test_nearswap_is_its_formula(library: type[Buffers], t: float) -> None:
    base, model = given((60, 401))
    share = (t / (model.double() - base.double()).abs()).nan_to_num(nan=1.0, posinf=1.0).clamp(max=1.0)
    want = share * model.double() + (1.0 - share) * base.double()
    assert near(merged([base, model], [1.0], "nearswap", t=t, library=library), want)


def test_nearswap_by_hand() -> None:
    base, model = torch.tensor([1.0, 1.0, 1.0, 1.0]), torch.tensor([1.25, 3.0, -3.0, 1.0])
    assert merged([base, model], [1.0], "nearswap", t=0.5).tolist() == [1.25, 1.5, 0.5, 1.0]

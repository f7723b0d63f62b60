"""Merge methods: pure functions from tensors to a tensor. No files, no configuration, no global state.

Each method is written twice. Under its own name it takes whole tensors and returns a new one: that is its definition.
The engine calls the same steps (`accumulate`, `TensorTies`, `round_once`, `canonicalize_nan`) on chunks, in buffers
that it reuses.

The numbers are the same on every processor: a product and a sum are two operations, since fusing them rounds once on
some processors and twice on others; the sum has the next wider type and is rounded once at the end; and NaN, whose bits
differ between processors and even between the body and the tail of a vector loop, is settled explicitly.
"""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cocktail_hub.methods.dtypes import accumulator_dtype, safetensors_dtype, torch_dtype
from cocktail_hub.methods.order_statistics import kept_count, kth_largest
from cocktail_hub.methods.rounding import round_once
from cocktail_hub.methods.spec import arithmetic_weights
from cocktail_hub.methods.ties import Ties

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

_BITS = {
    torch.float64: torch.int64,
    torch.float32: torch.int32,
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
}
_QUIET_NAN = {
    torch.float64: 0x7FF8000000000000,
    torch.float32: 0x7FC00000,
    torch.float16: 0x7E00,
    torch.bfloat16: 0x7FC0,
}


def linear(tensors: Sequence[Tensor], weights: Sequence[float], *, dtype: torch.dtype | None = None) -> Tensor:
    """Average tensors: `sum(w_i * t_i)`.

    Accumulated in recipe order in float32 for 16-bit tensors and in float64 for wider ones, rounded once.
    A tensor of weight 0 is left out: even `0 * t` would turn -0.0 into +0.0, and infinity into NaN.

    Args:
        tensors: n tensors of one shape `(*dims)`, floating dtype.
        weights: n dimensionless shares; summing to 1 is the recipe's job, not checked here.
        dtype: of the result; `None`: that of `tensors[0]`.

    Returns:
        Shape `(*dims)`. Where the sum is not a number, and all tensors of weight other than 0 have the same bits
        there, those bits; otherwise the NaN of that dtype with the sign and payload 0.

    Source:
        Model soups, arXiv:2203.05482; LM-Cocktail, arXiv:2311.13534.
    """
    first = tensors[0]
    out = torch.zeros(first.numel(), dtype=dtype or first.dtype, device=first.device)
    used = [(tensor.flatten(), weight) for tensor, weight in zip(tensors, weights, strict=True) if weight != 0.0]
    if not used or not out.numel():
        return out.view(first.shape)
    wide = wide_dtype([out.dtype, *(tensor.dtype for tensor, _ in used)])
    total = torch.empty_like(out, dtype=wide)
    accumulate(used, total, torch.empty_like(total))
    round_once(total, out)
    canonicalize_nan(total, out, lambda: [tensor for tensor, _ in used])
    return out.view(first.shape)


def task_arithmetic(
    tensors: Sequence[Tensor], weights: Sequence[float], *, lam: float = 1.0, dtype: torch.dtype | None = None
) -> Tensor:
    """Add up differences to a base: `base + lam * sum(w_i * (t_i - base))`.

    Computed as the weighted sum it is, `(1 - lam * sum(w)) * base + sum(lam * w_i * t_i)`: one rounding fewer per
    ingredient, and exactly `linear` when `lam * sum(w)` is 1.

    Args:
        tensors: the base, then n tensors, of one shape `(*dims)`.
        weights: n dimensionless factors. The paper has 1 for each; 1/n makes it the mean.
        lam: the paper's lambda, dimensionless.
        dtype: of the result; `None`: that of the first ingredient, `tensors[1]`.

    Source:
        Ilharco et al., arXiv:2212.04089.
    """
    return linear(tensors, arithmetic_weights(weights, lam), dtype=dtype or tensors[1].dtype)


def ties(
    tensors: Sequence[Tensor],
    weights: Sequence[float],
    *,
    density: float = 0.2,
    lam: float = 1.0,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Trim, elect signs, and average the differences to a base that agree.

    0. Differences are float32, taken in float64 where an input is float64.
    1. Trim: of each difference keep the elements whose magnitude is at least the k-th largest of the tensor,
       `k = max(1, floor(density * numel))`; elements equal to the k-th are all kept.
    2. Elect: the sign with the larger total of trimmed magnitudes, unweighted.
    3. Merge: the mean of those trimmed differences that have the elected sign, weighted by `weights`.
    4. `base + lam * mean`; where nothing was kept, or the differences cancel exactly, the base bit for bit.

    With equal weights this is the paper's formula, tensor by tensor. How implementations differ: the official code
    trims over the whole model at once and gives a sum of exactly 0 the majority's sign; PEFT and mergekit trim per
    tensor as here, but give it +1, and keep just k elements, whichever come first among equals. mergekit elects on
    weighted differences and divides by the weights of those that agree; PEFT divides by their number, so weights
    below 1 shrink the result.

    Args:
        tensors: the base, then n tensors, of one shape `(*dims)`.
        weights: n relative shares, each >= 0; one of 0 is left out of the election, too.
        density: share kept, in (0, 1]. The paper's default is 0.2.
        lam: the paper's lambda, dimensionless.
        dtype: of the result; `None`: that of the first ingredient, `tensors[1]`.

    Source:
        Yadav et al., arXiv:2306.01708.
    """
    base, *others = tensors
    used = [(tensor.flatten(), weight) for tensor, weight in zip(others, weights, strict=True) if weight != 0.0]
    flat, out = base.flatten(), torch.empty(base.numel(), dtype=dtype or others[0].dtype, device=base.device)
    if not used or not out.numel():
        round_once(flat, out)
        return out.view(base.shape)
    inputs = [flat, *(tensor for tensor, _ in used)]
    dtypes = [safetensors_dtype(tensor.dtype) for tensor in inputs]
    steps = TensorTies(dtypes, safetensors_dtype(out.dtype), even=len({weight for _, weight in used}) == 1)
    sizes = [(torch_dtype(dtype), times * out.numel()) for dtype, times in steps.buffers]
    steps.use([torch.empty(size, dtype=dtype, device=out.device) for dtype, size in sizes])
    steps.begin(flat)
    k = kept_count(out.numel(), density)
    for tensor, weight in used:
        cut = kth_largest(steps.magnitudes(tensor), k) if density < 1 else 0.0
        steps.add(tensor, weight, cut)
    total = steps.total(lam)
    round_once(total, out)
    canonicalize_nan(total, out, lambda: inputs)
    return out.view(base.shape)


METHODS: Mapping[str, Callable[..., Tensor]] = MappingProxyType(
    {"linear": linear, "task_arithmetic": task_arithmetic, "ties": ties}
)
"""Name in a recipe -> function; what each needs is in `METHOD_TABLE`, under the same names."""


def wide_dtype(dtypes: Iterable[torch.dtype]) -> torch.dtype:
    """Return the dtype to add up in (see `accumulator_dtype`); inputs and result are given."""
    return torch_dtype(accumulator_dtype(map(safetensors_dtype, dtypes)))


def accumulate(terms: Iterable[tuple[Tensor, float]], total: Tensor, scratch: Tensor) -> None:
    """Set `total` to the sum of `tensor * weight`, in order, each product and each sum rounded on its own.

    Args:
        terms: one or more. A tensor is not looked at after the next is taken, so one buffer may serve for all.
        total: of the accumulator's dtype; what it held is lost.
        scratch: like `total`; what it held is lost.
    """
    for index, (tensor, weight) in enumerate(terms):
        if index == 0:  # start from the first product, not from zeros: 0.0 + -0.0 is +0.0
            total.copy_(tensor).mul_(weight)
        else:
            total.add_(scratch.copy_(tensor).mul_(weight))


def canonicalize_nan(total: Tensor, out: Tensor, inputs: Callable[[], Iterable[Tensor]]) -> int | None:
    """Give each result that is not a number bits that do not depend on the processor.

    Where all inputs have the same bits they are kept: a model mixed with itself is itself even there. Where all are the
    same infinity it is kept. Elsewhere the result is the quiet NaN without sign and payload.

    Args:
        total: the sum before rounding, 1-D.
        out: the result, changed in place.
        inputs: yields the inputs, one or more, once more; called only if there is a NaN. One buffer may serve for all.

    Returns:
        Index of the first where the inputs do not agree; `None`: they do, so that the mix is no worse than they are.
    """
    if math.isfinite(total.sum().item()):  # quick: a sum over any NaN is NaN
        return None
    where = total.isnan().nonzero().flatten()
    if not len(where):
        return None
    bits = _BITS[out.dtype]
    tensors = (tensor[where] for tensor in inputs())
    first = next(tensors)
    agreed = torch.ones_like(first, dtype=torch.bool)
    same = torch.full_like(agreed, first.dtype == out.dtype)
    for tensor in tensors:
        agreed &= (tensor == first) | (tensor.isnan() & first.isnan())
        same &= tensor.view(bits) == first.view(bits) if tensor.dtype == first.dtype == out.dtype else False
    settled = first.to(out.dtype, copy=True).view(bits)  # infinity, if it is in all
    settled[~agreed | first.isnan()] = _QUIET_NAN[out.dtype]
    if same.any():
        settled = torch.where(same, first.view(bits), settled)
    out.view(bits)[where] = settled
    return None if agreed.all() else int(where[agreed.logical_not().nonzero()[0]])


def first_overflow(out: Tensor, inputs: Callable[[], Iterable[Tensor]]) -> int | None:
    """Return the index of the first result that is infinite where no input is; `None`: there is none.

    Args:
        out: the result, 1-D.
        inputs: yields the inputs, one or more, once more; called only if something is infinite.
    """
    infinite = out.isinf()
    if not infinite.any():
        return None
    where = infinite.nonzero().flatten()
    for tensor in inputs():
        where = where[tensor[where].isfinite()]
    return int(where[0]) if len(where) else None


def value(tensor: Tensor, index: int) -> float:
    """Return one number."""
    return float(tensor[index])


class TensorTies(Ties):
    """The same with torch: 1-D tensors of one device."""

    xp = torch

    def _dtype(self, name: str) -> torch.dtype:
        return torch_dtype(name)

    def _widen(self, tensor: Tensor, out: Tensor) -> None:
        out.copy_(tensor)

    def _at_home(self, array: Tensor) -> NDArray[np.float32]:
        found: NDArray[np.float32] = array.cpu().numpy()
        return found

    def _trim(self, delta: Tensor, cut: float) -> None:
        if cut > 0.0:  # hardshrink drops what is equal to its bound, too
            below = float(np.nextafter(np.float32(cut), np.float32(0)))
            torch.hardshrink(delta, below, out=delta)
        _compare(np.greater, torch.gt, delta, self._mask[0])
        _compare(np.less, torch.lt, delta, self._mask[1])

    def _keep(self, delta: Tensor, side: int, part: Tensor) -> None:
        if side == 0:
            torch.clamp(delta, min=0.0, out=part)
        else:
            torch.clamp(delta, max=0.0, out=part)

    def _above_zero(self, array: Tensor, flags: Tensor) -> None:
        _compare(np.greater, torch.gt, array, flags)

    def _sign(self, array: Tensor) -> None:
        """Put the sign of each number in its place: 1, 0, -1 or NaN, which torch gives the sign 0."""
        unsigned = array.isnan() if math.isnan(array.max()) else None
        array.sign_()
        if unsigned is not None:
            array[unsigned] = math.nan

    def _replace(self, array: Tensor, others: Tensor, where: Tensor) -> None:
        torch.where(where, others, array, out=array)


def _compare(on_arrays: np.ufunc, on_tensors: Callable[..., Tensor], tensor: Tensor, mask: Tensor) -> None:
    """Compare with 0, into `mask`. On a processor numpy does it five times as fast as torch."""
    if tensor.device.type == "cpu":
        on_arrays(tensor.numpy(), 0, out=mask.numpy())
    else:
        on_tensors(tensor, 0, out=mask)

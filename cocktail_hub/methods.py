"""Merge methods: pure functions from tensors to a tensor. No files, no configuration, no global state.

Each method is written twice. Under its own name it takes whole tensors and returns a new one: that is its definition.
The engine calls the same steps (`accumulate`, `Ties`, `round_once`, `settle_nan`) on chunks, in buffers that it reuses.

The numbers are the same on every processor: a product and a sum are two operations, since fusing them rounds once on
some processors and twice on others; the sum has the next wider type and is rounded once at the end; and NaN, whose bits
differ between processors and even between the body and the tail of a vector loop, is settled explicitly.
"""

from __future__ import annotations

import itertools
import math
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cocktail_hub.checkpoint.spec import accumulator_dtype, safetensors_dtype, torch_dtype
from cocktail_hub.method_table import arithmetic_weights
from cocktail_hub.order_statistic import kept_count, kth_largest
from cocktail_hub.rounding import round_once as round_once  # noqa: PLC0414 - one of the steps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

_BITS = {
    torch.float64: torch.int64,
    torch.float32: torch.int32,
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
}
_MOST_VOTES = 256
"""Inputs, the base among them, whose votes fit into a byte."""
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
    settle_nan(total, out, lambda: [tensor for tensor, _ in used])
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
        return out.copy_(flat).view(base.shape)
    inputs = [flat, *(tensor for tensor, _ in used)]
    steps = Ties([tensor.dtype for tensor in inputs], out.dtype, even=len({weight for _, weight in used}) == 1)
    steps.use([torch.empty(rows * out.numel(), dtype=kind, device=out.device) for kind, rows in steps.buffers])
    steps.begin(flat)
    k = kept_count(out.numel(), density)
    for tensor, weight in used:
        cut = kth_largest(steps.magnitudes(tensor).cpu().numpy(), k) if density < 1 else 0.0
        steps.add(tensor, weight, cut)
    total = steps.total(lam)
    round_once(total, out)
    settle_nan(total, out, lambda: inputs)
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


def settle_nan(total: Tensor, out: Tensor, inputs: Callable[[], Iterable[Tensor]]) -> None:
    """Give each result that is not a number bits that do not depend on the processor.

    Where all inputs have the same bits they are kept: a model mixed with itself is itself even there. Elsewhere
    the result is the quiet NaN without sign and payload.

    Args:
        total: the sum before rounding, 1-D.
        out: the result, changed in place.
        inputs: yields the inputs once more; called only if there is a NaN. One buffer may serve for all.
    """
    if math.isfinite(total.sum().item()):  # quick: a sum over any NaN is NaN
        return
    where = total.isnan().nonzero().flatten()
    if not len(where):
        return
    bits = _BITS[out.dtype]
    settled = torch.full((len(where),), _QUIET_NAN[out.dtype], dtype=bits, device=out.device)
    first: Tensor | None = None
    same = torch.ones_like(settled, dtype=torch.bool)
    for tensor in inputs():
        if tensor.dtype != out.dtype:
            break
        found = tensor.view(bits)[where]
        first = found if first is None else first
        same &= found == first
    else:
        settled = settled if first is None else torch.where(same, first, settled)
    out.view(bits)[where] = settled


class Ties:
    """The steps of `ties` on one chunk, in buffers of the caller: `begin` with the base, `add` each, `total`.

    Positive and negative differences are added up apart, so one pass over the ingredients is enough: whichever side
    wins, the mean of those that agree is known.
    """

    def __init__(self, inputs: Sequence[torch.dtype], output: torch.dtype, *, even: bool) -> None:
        """Choose the dtypes.

        Args:
            inputs: dtypes of the base and of the ingredients.
            output: dtype of the result.
            even: whether all weights are equal, so that agreeing differences need only be counted.
        """
        wide = wide_dtype([*inputs, output])
        exact = torch.float64 if torch.float64 in inputs else torch.float32
        votes = wide if not even else torch.uint8 if len(inputs) <= _MOST_VOTES else torch.int32
        self._even = even
        self._zero = torch.zeros((), dtype=wide)
        self._numel = 0
        self.buffers: tuple[tuple[torch.dtype, int], ...] = (
            (exact, 1),
            (torch.float32, 2),
            (torch.bool, 2),
            (votes, 2),
            (wide, 2),
            *(() if even else ((wide, 2), (wide, 2))),
            *(((wide, 1),) if even and wide != torch.float32 else ()),
            *(((exact, 1),) if exact != torch.float32 else ()),
        )
        """Dtype of each buffer that `use` needs, and how many times the elements of a chunk it holds."""

    def use(self, buffers: Sequence[Tensor]) -> None:
        """Work in these 1-D buffers; what they held is lost."""
        self._buffers = buffers
        self._numel = 0

    def begin(self, base: Tensor) -> None:
        """Start a chunk with the base's elements, at most as many as the buffers have room for."""
        if base.numel() != self._numel:
            self._cut(base.numel())
        self._base.copy_(base)
        self._fresh = True

    def _cut(self, numel: int) -> None:
        """Name the parts of the buffers that a chunk uses. In pairs, what is above 0 comes first."""
        self._numel = numel
        rows = [count for _, count in self.buffers]
        cut = (buffer[: count * numel].view(count, numel) for buffer, count in zip(self._buffers, rows, strict=True))
        (self._base,), self._parts, self._mask, self._votes, self._sums = itertools.islice(cut, 5)
        self._weighted, self._spare = (self._sums, self._parts) if self._even else itertools.islice(cut, 2)
        if self._even and self._sums.dtype != torch.float32:
            self._spare = next(cut)
        self._delta = self._parts[1]
        self._raw = self._delta if self._base.dtype == torch.float32 else next(cut)[0]

    def magnitudes(self, tensor: Tensor) -> Tensor:
        """Return the magnitudes of an ingredient's differences, float32, in a buffer that is used again."""
        return self._difference(tensor).abs_()

    def _difference(self, tensor: Tensor) -> Tensor:
        raw = self._raw.copy_(tensor).sub_(self._base)
        return raw if raw is self._delta else self._delta.copy_(raw)

    def add(self, tensor: Tensor, weight: float, cut: float) -> None:
        """Take in an ingredient's chunk: its differences of magnitude `cut` or more, times `weight`."""
        delta = self._difference(tensor)
        if cut > 0.0:  # hardshrink drops what is equal to its bound, too
            below = float(np.nextafter(np.float32(cut), np.float32(0)))
            torch.hardshrink(delta, below, out=delta)
        put = Tensor.copy_ if self._fresh else Tensor.add_
        parts = self._sums if self._fresh and self._sums.dtype == delta.dtype else self._parts
        self._fresh = False
        torch.clamp(delta, min=0.0, out=parts[0])
        torch.clamp(delta, max=0.0, out=parts[1])
        if parts is not self._sums:
            put(self._sums, parts)
        if self._even:
            _compare(np.not_equal, torch.ne, parts, self._mask)
            put(self._votes, self._mask.view(torch.uint8))
        else:
            put(self._weighted, self._spare.copy_(parts).mul_(weight))
            put(self._votes, self._spare.copy_(parts).sign_().mul_(weight))

    def total(self, lam: float) -> Tensor:
        """Return `base + lam * mean` before rounding, in a buffer; where the mean is 0, the base, -0.0 included."""
        lead, mask = self._spare[0], self._mask[0]
        torch.add(self._sums[0], self._sums[1], out=lead)
        _compare(np.greater, torch.gt, lead, mask)
        size, votes = self._elected(mask)
        mean = size.div_(votes).mul_(lead.sign_())
        if lam != 1.0:
            mean.mul_(lam)
        against = torch.sub(self._zero, mean, out=mean)  # 0.0 - 0.0 and 0.0 - -0.0 are 0.0; x - 0.0 is x for every x
        base = self._base if self._base.dtype == against.dtype else lead.copy_(self._base)
        return torch.sub(base, against, out=against)

    def _elected(self, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The magnitude of the winning side's (weighted) sum, and its votes, never 0; `mask` tells who wins."""
        (up, down), (votes, votes_down) = self._weighted, self._votes
        if not self._even:
            torch.where(mask, votes, votes_down.neg_(), out=votes)
            return torch.where(mask, up, down.neg_(), out=up), votes.clamp_(min=torch.finfo(torch.float32).tiny)
        votes.sub_(votes_down).mul_(mask.view(torch.uint8)).add_(votes_down)
        torch.maximum(up, down.neg_(), out=up)  # selecting by a mask would take as long as all the rest
        return up, down.copy_(votes.clamp_(min=1))


def _compare(on_arrays: np.ufunc, on_tensors: Callable[..., Tensor], tensor: Tensor, mask: Tensor) -> None:
    """Compare with 0, into `mask`. On a processor numpy does it five times as fast as torch."""
    if tensor.device.type == "cpu":
        on_arrays(tensor.numpy(), 0, out=mask.numpy())
    else:
        on_tensors(tensor, 0, out=mask)

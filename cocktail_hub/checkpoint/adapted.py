"""Read a base with a LoRA or DoRA adapter a few rows at a time, never a whole merged tensor.

The product of the factors is added up one rank at a time with separate multiplications and additions: a matrix product
may round differently on every processor, and the same recipe must give the same bytes everywhere.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

import torch

from cocktail_hub.checkpoint.spec import torch_dtype

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from cocktail_hub.checkpoint.adapter import AdaptedLayout, Change
    from cocktail_hub.checkpoint.source import TensorSource

ELEMENTS_AT_ONCE = 1 << 18
"""Elements that are worked on at a time: small enough for a processor's cache."""
KEPT_FACTORS = 8
"""Factors kept in memory for the rows that are read next."""


class AdaptedSource:
    """A base and an adapter as one `TensorSource`. Neither is changed, so many may share one base."""

    def __init__(self, layout: AdaptedLayout, base: TensorSource, adapter: TensorSource) -> None:
        self.name = layout.name
        """The ingredient, for messages."""
        self.specs = layout.specs
        """Tensor -> shape and dtype, under the base's names."""
        self._changes, self._base, self._adapter = layout.changes, base, adapter
        self._lock = threading.Lock()
        self._factors: OrderedDict[tuple[str, torch.dtype], torch.Tensor] = OrderedDict()
        self._norms: dict[str, torch.Tensor] = {}

    def read(self, tensor: str, start: int, stop: int, out: torch.Tensor) -> None:
        """Copy elements `start:stop` of the flattened tensor into `out` (see `TensorSource.read`)."""
        change = self._changes.get(tensor)
        if change is None:
            self._base.read(tensor, start, stop, out)
        elif not change.left:
            wide = self._original(tensor, start, stop)
            if change.bias:
                bias = self._factor(change.bias, wide.dtype).reshape(-1)[start:stop]
                wide = wide + bias * change.scale
            out.copy_(wide)
        else:
            self._read_product(tensor, change, start, stop, out)

    def check_unchanged(self) -> None:
        """Raise CheckpointError if a file behind this source has changed since it was opened."""
        for source in (self._base, self._adapter):
            check = getattr(source, "check_unchanged", None)
            if check is not None:
                check()

    def close(self) -> None:
        """Close the files of both."""
        for source in (self._base, self._adapter):
            close = getattr(source, "close", None)
            if close is not None:
                close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read_product(self, tensor: str, change: Change, start: int, stop: int, out: torch.Tensor) -> None:
        """Whole rows at a time, so that a piece holds the same numbers however it is cut."""
        width = _width(self.specs[tensor].shape)
        step = max(1, ELEMENTS_AT_ONCE // width)
        for first in range(start // width, -(-stop // width), step):
            last = min(first + step, -(-stop // width))
            rows = self._rows(tensor, change, first, last)
            if change.magnitude:
                rows = rows * self._magnitudes(tensor, change, first, last)
            begin, end = max(start, first * width), min(stop, last * width)
            out[begin - start : end - start].copy_(rows.reshape(-1)[begin - first * width : end - first * width])

    def _rows(self, tensor: str, change: Change, first: int, last: int) -> torch.Tensor:
        """Rows `first:last` of W + scale * B @ A, as a matrix in the wider dtype."""
        width = _width(self.specs[tensor].shape)
        base = self._original(tensor, first * width, last * width).reshape(last - first, width)
        a, b = self._factor(change.right, base.dtype), self._factor(change.left, base.dtype)
        left, right = (a.T[first:last], b.T) if change.transposed else (b[first:last], a)
        total = left[:, :1] * right[:1]
        product = torch.empty_like(total)
        for rank in range(1, left.shape[1]):
            torch.mul(left[:, rank : rank + 1], right[rank : rank + 1], out=product)
            total.add_(product)
        return total.mul_(change.scale).add_(base)

    def _original(self, tensor: str, start: int, stop: int) -> torch.Tensor:
        """Elements of the base, or of what the adapter puts in its place, in the dtype that sums are taken in."""
        change = self._changes[tensor]
        source, name = (self._adapter, change.replaced_by) if change.replaced_by else (self._base, tensor)
        raw = torch.empty(stop - start, dtype=torch_dtype(source.specs[name].dtype))
        source.read(name, start, stop, raw)
        return raw.to(_wider(torch_dtype(self.specs[tensor].dtype)))

    def _factor(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """A factor as a matrix in the dtype that sums are taken in; convolutions are flattened."""
        key = (name, dtype)
        with self._lock:
            if key not in self._factors:
                spec = self._adapter.specs[name]
                raw = torch.empty(spec.numel, dtype=torch_dtype(spec.dtype))
                self._adapter.read(name, 0, spec.numel, raw)
                self._factors[key] = raw.to(dtype).reshape(spec.shape[0], -1)
            self._factors.move_to_end(key)
            while len(self._factors) > KEPT_FACTORS:
                self._factors.popitem(last=False)
            return self._factors[key]

    def _magnitudes(self, tensor: str, change: Change, first: int, last: int) -> torch.Tensor:
        """DoRA's factor for rows `first:last`: magnitude over norm of each output, a column or, transposed, a row."""
        norms = self._norm(tensor, change)
        factor = self._factor(change.magnitude, norms.dtype).reshape(-1) / norms
        return factor[None, :] if change.transposed else factor[first:last, None]

    def _norm(self, tensor: str, change: Change) -> torch.Tensor:
        """Norm of W + scale * B @ A per output, in the dtype of the sums; read once through the tensor."""
        with self._lock:
            known = self._norms.get(tensor)
        if known is not None:
            return known
        shape = self.specs[tensor].shape
        width = _width(shape)
        step = max(1, ELEMENTS_AT_ONCE // width)
        squares: list[torch.Tensor] = []
        for first in range(0, shape[0], step):
            rows = self._rows(tensor, change, first, min(first + step, shape[0]))
            dtype = rows.dtype
            wide = rows.double()
            squares.append(_sum(wide * wide, dim=0 if change.transposed else 1))
        total = _sum(torch.stack(squares), dim=0) if change.transposed else torch.cat(squares)
        with self._lock:
            self._norms[tensor] = total.sqrt().to(dtype)
            return self._norms[tensor]


def _width(shape: tuple[int, ...]) -> int:
    return math.prod(shape[1:])


def _wider(dtype: torch.dtype) -> torch.dtype:
    """The dtype that sums are taken in: float32 for 16 bits, float64 for more."""
    return torch.float32 if dtype.itemsize == 2 else torch.float64  # noqa: PLR2004 - bytes


def _sum(values: torch.Tensor, *, dim: int) -> torch.Tensor:
    """Sum over one dimension by adding halves: the same order of additions on every processor."""
    while values.shape[dim] > 1:
        half, odd = divmod(values.shape[dim], 2)
        folded = values.narrow(dim, 0, half) + values.narrow(dim, half, half)
        values = torch.cat([folded, values.narrow(dim, 2 * half, 1)], dim) if odd else folded
    return values.squeeze(dim)

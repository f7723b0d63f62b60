"""Read a base with a LoRA or DoRA adapter a few rows at a time, never a whole merged tensor.

Sums are computed in float64 and returned in it: the mix rounds once. They are the same on every processor: see
`exact_matmul.py`.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

import torch

from cocktail_hub.checkpoint.adapters.exact_matmul import Factor, RunningSum, exact_product, fixed_sum, root
from cocktail_hub.checkpoint.reader import WatchedReader, open_weights
from cocktail_hub.errors import CheckpointError
from cocktail_hub.methods.dtypes import itemsize, torch_dtype

if TYPE_CHECKING:
    from pathlib import Path

    from cocktail_hub.checkpoint.adapters.lora import AdaptedWeights, Change
    from cocktail_hub.checkpoint.reader import TensorReader

ELEMENTS_AT_ONCE = 1 << 17
"""Elements computed at a time: small enough for a processor's cache."""
HALF_BYTES = 2
"""Size of float16 and bfloat16."""
KEPT_FACTORS = 4
"""Factors kept in memory for the rows that are read next."""
KEPT_NORMS = 64
"""Norms kept for other ranges of the same tensors: more than there are threads."""


class AdaptedReader:
    """A base and an adapter as one `TensorReader`. Neither is changed, so many adapters may share one base."""

    def __init__(self, weights: AdaptedWeights, base: TensorReader, adapter: TensorReader) -> None:
        self.name = weights.name
        """The ingredient, for messages."""
        self.specs = weights.specs
        """Tensor -> shape and dtype, under the base's names."""
        self._changes, self._base, self._adapter = weights.changes, base, adapter
        self._lock = threading.Lock()
        self._factors: OrderedDict[str, Factor] = OrderedDict()
        self._norms: dict[str, torch.Tensor] = {}
        self._norm_locks: dict[str, threading.Lock] = {}

    def read(self, tensor: str, start: int, stop: int, out: torch.Tensor) -> None:
        """Copy elements `start:stop` of the flattened tensor into `out` (see `TensorReader.read`)."""
        change = self._changes.get(tensor)
        if change is None:
            self._base.read(tensor, start, stop, out)
        elif not change.left:
            wide = self._original(tensor, start, stop)
            if change.bias:
                bias = self._matrix(change.bias).reshape(-1)[start:stop]
                wide = wide + bias * change.scale
            _hand_over(wide, out)
        else:
            self._read_product(tensor, change, start, stop, out)

    def check_unchanged(self) -> None:
        """Raise CheckpointError if a file has changed since it was opened."""
        for reader in (self._base, self._adapter):
            if isinstance(reader, WatchedReader):
                reader.check_unchanged()

    def close(self) -> None:
        """Close the files of both."""
        self._base.close()
        self._adapter.close()

    def _read_product(self, tensor: str, change: Change, start: int, stop: int, out: torch.Tensor) -> None:
        """Compute whole rows, so that the numbers do not depend on the range that is read."""
        width = _width(self.specs[tensor].shape)
        step = max(1, ELEMENTS_AT_ONCE // width)
        for first in range(start // width, -(-stop // width), step):
            last = min(first + step, -(-stop // width))
            rows = self._rows(tensor, change, first, last)
            if change.magnitude:
                factor = self._matrix(change.magnitude).reshape(-1) / self._norm(tensor, change)
                rows = rows * (factor[None, :] if change.transposed else factor[first:last, None])
            begin, end = max(start, first * width), min(stop, last * width)
            found = rows.reshape(-1)[begin - first * width : end - first * width]
            _hand_over(found, out[begin - start : end - start])

    def _rows(self, tensor: str, change: Change, first: int, last: int) -> torch.Tensor:
        """Rows `first:last` of W + scale * B @ A, as a float64 matrix."""
        spec = self.specs[tensor]
        width = _width(spec.shape)
        base = self._original(tensor, first * width, last * width).reshape(last - first, width)
        precise = itemsize(spec.stored) > HALF_BYTES
        a, b = self._factor(change.right, 0, precise=precise), self._factor(change.left, 1, precise=precise)
        left, right = (a.turned(), b.turned()) if change.transposed else (b, a)
        return exact_product(left.rows(first, last), right).mul_(change.scale).add_(base)

    def _original(self, tensor: str, start: int, stop: int) -> torch.Tensor:
        """Elements of the base, or of what the adapter replaces it with, in float64."""
        change = self._changes[tensor]
        source, name = (self._adapter, change.replaced_by) if change.replaced_by else (self._base, tensor)
        raw = torch.empty(stop - start, dtype=torch_dtype(source.specs[name].dtype))
        source.read(name, start, stop, raw)
        return raw.double()

    def _factor(self, name: str, dim: int, *, precise: bool) -> Factor:
        """A factor of a product, ready to be multiplied."""
        with self._lock:
            if name not in self._factors:
                self._factors[name] = Factor.of(self._matrix(name), dim, precise=precise)
            self._factors.move_to_end(name)
            while len(self._factors) > KEPT_FACTORS:
                self._factors.popitem(last=False)
            return self._factors[name]

    def _matrix(self, name: str) -> torch.Tensor:
        """A tensor of the adapter as a float64 matrix; convolutions are flattened."""
        spec = self._adapter.specs[name]
        raw = torch.empty(spec.numel, dtype=torch_dtype(spec.dtype))
        self._adapter.read(name, 0, spec.numel, raw)
        if not torch.isfinite(raw).all():
            raise CheckpointError(
                f"'{name}' of the adapter '{self.name}' holds infinity or NaN.\n"
                "Every weight that it changes would be lost.\nUse another checkpoint of it.",
                model=self.name,
            )
        return raw.double().reshape(spec.shape[0], -1)

    def _norm(self, tensor: str, change: Change) -> torch.Tensor:
        """Norm of W + scale * B @ A per output. The first thread reads the tensor once; others wait for it."""
        with self._lock:
            lock = self._norm_locks.setdefault(tensor, threading.Lock())
        with lock:
            with self._lock:
                found = self._norms.get(tensor)
            if found is None:
                found = root(self._squares(tensor, change))
                with self._lock:
                    self._norms[tensor] = found
                    while len(self._norms) > KEPT_NORMS:
                        del self._norms[next(iter(self._norms))]
            return found

    def _squares(self, tensor: str, change: Change) -> torch.Tensor:
        """Sum of squares per output: of a row, or, transposed, of a column."""
        shape = self.specs[tensor].shape
        step = max(1, ELEMENTS_AT_ONCE // _width(shape))
        rows_at_once = (
            self._rows(tensor, change, first, min(first + step, shape[0])) for first in range(0, shape[0], step)
        )
        if not change.transposed:
            return torch.cat([fixed_sum(rows * rows, dim=1) for rows in rows_at_once])
        total = RunningSum()
        for rows in rows_at_once:
            total.add(fixed_sum(rows * rows, dim=0))
        return total.total()


def open_adapted(weights: AdaptedWeights, base_root: Path | str, adapter_root: Path | str) -> AdaptedReader:
    """Open a base, whose files are under `base_root`, and an adapter, whose files are under `adapter_root`."""
    base = open_weights(weights.base, base_root)
    return AdaptedReader(weights, base, open_weights(weights.adapter.weights, adapter_root))


def _hand_over(found: torch.Tensor, out: torch.Tensor) -> None:
    """Copy float64 numbers. Every NaN becomes the same one: sign and payload differ between processors."""
    out.copy_(found)
    out.masked_fill_(found.isnan(), math.nan)


def _width(shape: tuple[int, ...]) -> int:
    return math.prod(shape[1:])

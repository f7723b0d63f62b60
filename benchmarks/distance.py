"""How far a mix is from the exact weighted sum."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Distance:
    """How far merged weights are from the exact sum."""

    count: int
    dtype: str
    most: float
    """Largest distance, in units in the last place of the largest term of the sum."""
    off: float
    """Part of the values for which there is a nearer number of their type; of a tie, both numbers are nearest."""
    worse: int = 0
    """How many values are further off than those of another result."""

    @classmethod
    def between(
        cls,
        merged: dict[str, Any],
        parts: Sequence[dict[str, Any]],
        weights: Sequence[float],
        other: dict[str, Any] | None = None,
    ) -> Distance:
        """Compare merged weights with the sum in float64 of what transformers loads from each folder."""
        most, off, worse, count, dtype = 0.0, 0, 0, 0, ""
        for name, tensor in merged.items():
            if not tensor.is_floating_point():
                continue
            terms = [weight * part[name].double() for weight, part in zip(weights, parts, strict=True)]
            exact = sum(terms)
            largest = functools.reduce(torch.maximum, [term.abs() for term in terms], exact.abs())
            away, best = (tensor.double() - exact).abs(), (exact.to(tensor.dtype).double() - exact).abs()
            slack = 1e-6 * _unit(exact, tensor.dtype)
            most = max(most, float((away / _unit(largest, tensor.dtype)).max()))
            off += int((away > best + slack).sum())
            if other is not None:
                worse += int((away > (other[name].double() - exact).abs() + slack).sum())
            count += tensor.numel()
            dtype = str(tensor.dtype).removeprefix("torch.")
        return cls(count, dtype, most, off / max(count, 1), worse)


def _unit(values: Any, dtype: Any) -> Any:
    """One unit in the last place of numbers of a type, as float64."""
    info = torch.finfo(dtype)
    _, exponent = torch.frexp(values.abs().clamp_min(info.tiny))
    return info.eps * torch.ldexp(torch.ones_like(values), exponent - 1)

"""How far mixes are from the exact weighted sum."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass
class Distance:
    """How far the values of one mix are from the exact sum."""

    count: int = 0
    dtype: str = ""
    most: float = 0.0
    """Largest distance, in units in the last place of the largest term of the sum."""
    off: int = 0
    """Values for which there is a nearer number of their type; of a tie, both numbers are nearest."""
    nearer: int = 0
    """Values that are nearer to the exact sum than ours."""

    @property
    def part_off(self) -> float:
        """Part of the values that are off."""
        return self.off / max(self.count, 1)


def distances(
    results: Mapping[str, Mapping[str, torch.Tensor]],
    parts: Sequence[Mapping[str, torch.Tensor]],
    weights: Sequence[float],
) -> dict[str, Distance]:
    """Compare mixes with the sum in float64 of what transformers loads from each folder.

    Args:
        results: the tensors of each mix; `ours` among them.
        parts: the tensors of the models that were mixed.
        weights: a weight per model.
    """
    found = {name: Distance() for name in results}
    for key, mine in results["ours"].items():
        if not mine.is_floating_point():
            continue
        terms = [weight * part[key].double() for weight, part in zip(weights, parts, strict=True)]
        exact: Any = sum(terms)
        best = (exact.to(mine.dtype).double() - exact).abs()
        unit = _unit(functools.reduce(torch.maximum, [term.abs() for term in terms], exact.abs()), mine.dtype)
        slack = 1e-6 * _unit(exact.abs(), mine.dtype)
        ours = (mine.double() - exact).abs()
        for name, state in results.items():
            away = ours if name == "ours" else (state[key].double() - exact).abs()
            one = found[name]
            one.count += mine.numel()
            one.dtype = str(state[key].dtype).removeprefix("torch.")
            one.most = max(one.most, float((away / unit).max()))
            one.off += int((away > best + slack).sum())
            one.nearer += int((away + slack < ours).sum())
    return found


def _unit(magnitudes: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """One unit in the last place of numbers of a type, as float64."""
    info = torch.finfo(dtype)
    _, exponent = torch.frexp(magnitudes.clamp_min(info.tiny))
    return info.eps * torch.ldexp(torch.ones_like(magnitudes), exponent - 1)

"""What the engine does with tensors of torch, on the processor or on another device; see `numpy_arrays`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

xp = torch
"""The library."""
_HALVES = frozenset({torch.float16, torch.bfloat16})
_BITS = {8: torch.int64, 4: torch.int32, 2: torch.int16}
_BLOCK = 1 << 14
"""Elements of temporaries that come from the heap: larger ones are mapped and cleared anew by the system each time."""


def widen(tensor: Tensor, out: Tensor) -> None:
    """Convert without loss."""
    out.copy_(tensor)


def round_once(total: Tensor, out: Tensor) -> None:
    """Round `total` into `out`, to the nearest, ties to even, in one step. Both are 1-D.

    torch turns float64 into a 16-bit float by way of float32, which rounds twice. Rounding to odd on the way, which
    keeps in the last bit whether anything was lost, makes the second rounding the only one (Boldo and Melquiond 2008).
    """
    if total.dtype != torch.float64 or out.dtype not in _HALVES:
        out.copy_(total)
        return
    for exact, rounded in zip(torch.split(total, _BLOCK), torch.split(out, _BLOCK), strict=True):
        near = exact.float()
        back = near.double()
        odd = near.view(torch.int32)
        odd -= (back.abs() > exact.abs()).int()  # the neighbour towards zero; of infinity, the largest finite number
        odd |= (back != exact).int()
        rounded.copy_(near)


def nan_positions(total: Tensor, _: Tensor) -> NDArray[np.intp] | None:
    """Return where a sum is NaN; `None`: nowhere."""
    if math.isfinite(total.sum().item()):  # quick: a sum over any NaN is NaN
        return None
    where = total.isnan().nonzero().flatten().cpu().numpy()
    return where if len(where) else None


def infinite_positions(out: Tensor) -> NDArray[np.intp] | None:
    """Return where a result is infinite; `None`: nowhere."""
    infinite = out.isinf()
    return infinite.nonzero().flatten().cpu().numpy() if infinite.any() else None


def take(tensor: Tensor, indices: NDArray[np.intp]) -> NDArray[Any]:
    """Return some elements, on this machine; bfloat16 as its bits."""
    found = tensor[torch.from_numpy(indices).to(tensor.device)].cpu()
    if found.dtype == torch.bfloat16:
        return found.view(torch.int16).numpy().view(np.uint16)
    numbers: NDArray[Any] = found.numpy()
    return numbers


def put(tensor: Tensor, indices: NDArray[np.intp], values: NDArray[Any]) -> None:
    """Replace some elements."""
    where = torch.from_numpy(indices).to(tensor.device)
    tensor.view(_BITS[tensor.itemsize])[where] = torch.from_numpy(values.view(f"i{values.itemsize}")).to(tensor.device)


def on_host(tensor: Tensor) -> NDArray[Any]:
    """Return the numbers on this machine."""
    numbers: NDArray[Any] = tensor.cpu().numpy()
    return numbers

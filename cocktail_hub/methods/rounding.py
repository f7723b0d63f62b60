"""Round sums to the dtype of a tensor: to the nearest, in one step, with the same bits on every processor."""

from __future__ import annotations

import torch
from torch import Tensor

HALVES = frozenset({torch.float16, torch.bfloat16})
_BLOCK = 1 << 14
"""Elements of temporaries that come from the heap: larger ones are mapped and cleared anew by the system each time."""


def round_once(total: Tensor, out: Tensor) -> None:
    """Round `total` into `out`, to the nearest, ties to even, in one step.

    torch turns float64 into a 16-bit float by way of float32, which rounds twice. Rounding to odd on the way, which
    keeps in the last bit whether anything was lost, makes the second rounding the only one (Boldo and Melquiond 2008).
    Both are 1-D.
    """
    if total.dtype != torch.float64 or out.dtype not in HALVES:
        out.copy_(total)
        return
    for exact, rounded in zip(torch.split(total, _BLOCK), torch.split(out, _BLOCK), strict=True):
        near = exact.float()
        back = near.double()
        odd = near.view(torch.int32)
        odd -= (back.abs() > exact.abs()).int()  # the neighbour towards zero; of infinity, the largest finite number
        odd |= (back != exact).int()
        rounded.copy_(near)


def round_settled(total: Tensor, out: Tensor) -> None:
    """Round `total` into `out`, and make what is not a number the quiet NaN without sign and payload. Both are 1-D.

    What a conversion does to NaN differs between processors, and between the body and the tail of a vector loop.
    """
    round_once(total, out)
    out.masked_fill_(total.isnan(), float("nan"))

"""Make one run of the output: copied, compared, added up, or by a method of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from cocktail_hub.checkpoint.source import byte_view
from cocktail_hub.checkpoint.spec import itemsize, torch_dtype
from cocktail_hub.errors import IncompatibleError
from cocktail_hub.merge.ordered import merge_ordered
from cocktail_hub.method_table import METHOD_TABLE
from cocktail_hub.methods import accumulate, accumulator_dtype, round_once, settle_nan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from cocktail_hub.checkpoint.source import Piece
    from cocktail_hub.merge.bench import Bench, Job
    from cocktail_hub.merge.plan import TensorPlan
    from cocktail_hub.merge.runs import Run


def merge_run(bench: Bench, job: Job, run: Run) -> None:
    """Make one run of the output.

    Raises:
        CheckpointError: a model cannot be read.
        IncompatibleError: integers or flags differ between models.
        OSError: the output cannot be written.
    """
    if run.like.rule == "same":
        _compare(bench, job, run)
    elif _is_copy(run.like):
        _copy(bench, job, run)
    elif _needs_order(job.method, run.like):
        merge_ordered(bench, job, run)
    else:
        _add_up(bench, job, run)


def run_capacity(bench: Bench, method: str, tensor: TensorPlan) -> int:
    """Return the most elements of a run of tensors like this one; 0: it takes one whole tensor of any size."""
    return 0 if _needs_order(method, tensor) else bench.fitting(_buffers(tensor))


def _needs_order(method: str, tensor: TensorPlan) -> bool:
    """Tell whether an order statistic is needed; a tensor of one model alone is just rounded."""
    return tensor.rule == "mix" and len(tensor.models) > 1 and METHOD_TABLE[method].kind == "order"


def _is_copy(tensor: TensorPlan) -> bool:
    """Tell whether the result is one model's tensor, bit for bit."""
    return tensor.rule == "mix" and tensor.weights == (1.0,) and tensor.dtypes == (tensor.dtype,)


def _buffers(tensor: TensorPlan) -> tuple[torch.dtype, ...]:
    """Return the dtypes of the buffers: input, output, and for a sum the total and its scratch."""
    out = torch_dtype(tensor.dtype)
    if tensor.rule == "same":
        return (out, out)
    if _is_copy(tensor):
        return (out,)
    inputs = [torch_dtype(dtype) for dtype in tensor.dtypes]
    wide = accumulator_dtype(inputs, out)
    return (torch_dtype(max(tensor.dtypes, key=itemsize)), out, wide, wide)


def _copy(bench: Bench, job: Job, run: Run) -> None:
    (place,) = bench.buffers(_buffers(run.like), run.numel)
    job.write(run.offset, byte_view(bench.read(job, run.like.models[0], run.pieces, place)))


def _compare(bench: Bench, job: Job, run: Run) -> None:
    here, there = bench.buffers(_buffers(run.like), run.numel)
    first, *others = run.like.models
    expected = bench.read(job, first, run.pieces, there)
    for model in others:
        found = bench.read(job, model, run.pieces, here)
        if not torch.equal(found, expected):
            raise _differs(_first_difference(found, expected, run.pieces), job.models[model], job.models[first])
    job.write(run.offset, byte_view(expected))


def _add_up(bench: Bench, job: Job, run: Run) -> None:
    tensor = run.like
    _, out, total, scratch = bench.buffers(_buffers(tensor), run.numel)
    inputs = bench.inputs(job, tensor, run.pieces, run.numel)
    accumulate(zip(inputs, tensor.weights, strict=True), total, scratch)
    round_once(total, out)
    settle_nan(total, out, lambda: bench.inputs(job, tensor, run.pieces, run.numel))
    bench.write(job, run.offset, out)


def _first_difference(found: Tensor, expected: Tensor, pieces: Sequence[Piece]) -> str:
    """Return the name of the first piece that differs."""
    index = int((found != expected).nonzero()[0])
    for name, start, stop in pieces:
        if index < stop - start:
            return name
        index -= stop - start
    raise IndexError(index)


def _differs(name: str, model: str, other: str) -> IncompatibleError:
    return IncompatibleError(
        f"Cannot mix '{model}': the integers of '{name}' differ from those of '{other}'.\n"
        "Such a tensor holds positions, counts or codes; neither an average nor one model's would fit the others.\n"
        f"Remove '{model}', or choose models fine-tuned from the same base.",
        model=model,
        tensor=name,
    )

"""Running a model over many texts in batches that fit the memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from cocktail_hub.errors import ScoringError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cocktail_hub.evaluation.losses import OnTexts

T = TypeVar("T")

TOKEN_BUDGET = {"cpu": 4096, "cuda": 32768}
"""Tokens per forward pass, padding counted, where no batch size is given."""
_OTHER_BUDGET = 8192
MAX_ROWS = 128
"""Texts per forward pass, at most, where no batch size is given."""
_ALLOCATION_FAILURES = ("out of memory", "can't allocate memory", "not enough memory")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One ingredient being scored."""

    name: str
    """The ingredient, for messages."""
    device: torch.device
    """Where the model computes; decides how many tokens a batch has."""
    batch_size: int | None = None
    """Texts per batch. `None`: as many as `TOKEN_BUDGET` allows."""
    on_texts: OnTexts | None = None
    """Called after every batch."""


def run_in_batches(
    costs: Sequence[int],
    forward: Callable[[Sequence[int]], Sequence[T]],
    *,
    run: Run,
    owners: Sequence[int] | None = None,
) -> list[T]:
    """Call `forward` on batches of indices, longest first, and put the results back in order.

    A batch that does not fit the memory is halved, and those after it are made no bigger.

    Args:
        costs: n sizes, in tokens; texts of like size share a batch, so that little padding is computed.
        forward: takes indices into `costs`, returns one result for each. Must not depend on what shares a batch.
        run: the ingredient, the device, the batch size and whom to tell.
        owners: for each text the example it belongs to. `None`: text i belongs to example i.

    Returns:
        n results, in the order of `costs`.

    Raises:
        ScoringError: a single text does not fit the memory.
    """
    order = sorted(range(len(costs)), key=lambda index: (-costs[index], index))
    results: dict[int, T] = {}
    rows, budget = run.batch_size or MAX_ROWS, None if run.batch_size else _budget(run.device)
    while len(results) < len(order):
        batch = _next_batch(order[len(results) :], costs, rows, budget)
        found = _attempt(forward, batch)
        if found is None:
            if len(batch) == 1:
                raise _too_big(run, batch[0] if owners is None else owners[batch[0]])
            rows = len(batch) // 2
            continue
        results.update(zip(batch, found, strict=True))
        if run.on_texts is not None:
            run.on_texts(len(results), len(order))
    return [results[index] for index in range(len(costs))]


def _budget(device: torch.device) -> int:
    return TOKEN_BUDGET.get(device.type, _OTHER_BUDGET)


def _next_batch(waiting: Sequence[int], costs: Sequence[int], rows: int, budget: int | None) -> Sequence[int]:
    """The first texts waiting, which come longest first: each is padded to the first."""
    if budget is not None:
        rows = min(rows, max(1, budget // max(costs[waiting[0]], 1)))
    return waiting[:rows]


def _attempt(forward: Callable[[Sequence[int]], Sequence[T]], batch: Sequence[int]) -> Sequence[T] | None:
    """The results of one batch, or `None` when it does not fit the memory."""
    try:
        return forward(batch)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    release_memory()  # after the except block: the error's traceback holds the tensors of the failed batch
    return None


def _too_big(run: Run, example: int) -> ScoringError:
    return ScoringError(
        f"A text of example {example} alone does not fit the memory of device '{run.device}' beside '{run.name}'.\n"
        "A batch cannot be smaller than one text.\n"
        "Lower `max_length`, set `dtype: bfloat16`, or use a device with more memory.",
        model=run.name,
        example=example,
    )


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error of torch says that memory ran out, on any device."""
    return isinstance(error, torch.OutOfMemoryError) or any(part in str(error) for part in _ALLOCATION_FAILURES)


def release_memory() -> None:
    """Give memory that torch keeps for later back to the GPU, so that the next model or batch can have it."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def pad_right(
    rows: Sequence[Mapping[str, Sequence[int]]], fill: Mapping[str, int], device: torch.device
) -> dict[str, torch.Tensor]:
    """Stack token lists of different lengths: int64 [rows, longest], filled on the right.

    Args:
        rows: the same keys in each, e.g. `input_ids`, `attention_mask`.
        fill: key -> the value behind the end; 0 for keys that are not in it.
        device: where the tensors go.
    """
    longest = max(len(next(iter(row.values()))) for row in rows)
    padded: dict[str, Any] = {}
    for key in rows[0]:
        value = fill.get(key, 0)
        padded[key] = torch.tensor([[*row[key], *([value] * (longest - len(row[key])))] for row in rows], device=device)
    return padded

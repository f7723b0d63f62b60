"""Run a model over many texts in batches that fit into memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import torch

from cocktail_hub.errors import ScoringError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cocktail_hub.evaluation.model import ScoringRun

T = TypeVar("T")

TOKEN_BUDGET = {"cpu": 1024, "cuda": 32768}
"""Tokens per forward pass, with padding, if no batch size is given. More do not fit into the caches of a CPU."""
_OTHER_BUDGET = 8192
MAX_ROWS = 128
"""Most texts per forward pass if no batch size is given."""
_ALLOCATION_FAILURES = ("out of memory", "can't allocate memory", "not enough memory")


def run_in_batches(
    costs: Sequence[int],
    forward: Callable[[Sequence[int]], Sequence[T]],
    run: ScoringRun,
    *,
    owners: Sequence[int] | None = None,
) -> list[T]:
    """Call `forward` on batches of indices, longest texts first, and return the results in order.

    A batch that does not fit into memory is halved, and later ones are no larger.

    Args:
        costs: n sizes in tokens; texts of similar size share a batch, which keeps padding small.
        forward: takes indices into `costs`, returns one result for each, independent of the rest of the batch.
        run: the model that is scored.
        owners: index of the example that each text belongs to; `None`: text i belongs to example i.

    Returns:
        n results, in the order of `costs`.

    Raises:
        ScoringError: a single text does not fit into memory.
    """
    order = sorted(range(len(costs)), key=lambda index: (-costs[index], index))
    results: dict[int, T] = {}
    batch_size = run.settings.weighting.batch_size
    budget = TOKEN_BUDGET.get(run.device.type, _OTHER_BUDGET)
    rows = batch_size or MAX_ROWS
    while waiting := order[len(results) :]:
        # Each text is padded to the first of its batch, the longest one.
        count = rows if batch_size else min(rows, max(1, budget // max(costs[waiting[0]], 1)))
        batch = waiting[:count]
        try:
            found = forward(batch)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            found = None
        if found is None and len(batch) > 1:
            release_memory()  # after the except block: the error's traceback keeps the failed batch's tensors alive
            rows = len(batch) // 2
            continue
        if found is None:
            example = batch[0] if owners is None else owners[batch[0]]
            raise ScoringError(
                f"A text of example {example} alone does not fit into the memory of device '{run.device}' beside "
                f"'{run.name}'.\nA batch cannot be smaller than one text.\n"
                "Lower `max_length`, set `dtype: bfloat16`, or use a device with more memory.",
                model=run.name,
                example=example,
            )
        results.update(zip(batch, found, strict=True))
        if run.on_texts is not None:
            run.on_texts(len(results), len(order))
    return [results[index] for index in range(len(costs))]


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error of torch says that memory ran out, on any device."""
    return isinstance(error, torch.OutOfMemoryError) or any(part in str(error) for part in _ALLOCATION_FAILURES)


def release_memory() -> None:
    """Return the GPU memory that torch caches, so that the next model or batch can have it."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def pad_right(
    rows: Sequence[Mapping[str, Sequence[int]]], fill: Mapping[str, int], device: torch.device
) -> dict[str, torch.Tensor]:
    """Stack token lists of different lengths: int64 [rows, longest], filled on the right.

    Args:
        rows: the same keys in each, e.g. `input_ids`, `attention_mask`.
        fill: key -> padding value; 0 for other keys.
        device: of the tensors.
    """
    longest = max(len(next(iter(row.values()))) for row in rows)
    return {
        key: torch.tensor(
            [[*row[key], *([fill.get(key, 0)] * (longest - len(row[key])))] for row in rows], device=device
        )
        for key in rows[0]
    }

"""Measure what a method must know of the whole model before the first of its tensors is made."""

from __future__ import annotations

import threading
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cocktail_hub.merge.engine.workers import WorkerPool, make_workers
from cocktail_hub.merge.kernels.buffers import Buffers, ShardJob
from cocktail_hub.merge.kernels.sweep import Sweep
from cocktail_hub.methods.dtypes import HALVES
from cocktail_hub.methods.order_statistics import KthLargest
from cocktail_hub.methods.registry import METHODS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from cocktail_hub.checkpoint.reader import TensorReader
    from cocktail_hub.merge.engine.workers import Worker
    from cocktail_hub.merge.plan import MergePlan, ShardPlan, TensorPlan
    from cocktail_hub.methods.contract import Round

    Opened = Callable[[ShardPlan], AbstractContextManager[Sequence[TensorReader]]]
    """Opens the models of a shard (see `execute.Inputs`)."""


def with_model_rounds(
    plan: MergePlan,
    opened: Opened,
    threads: int | None = None,
    max_memory: int | None = None,
    device: str = "cpu",
) -> MergePlan:
    """Return the plan whose tensors know what was measured over the model: two to four passes over all weights.

    Raises:
        CheckpointError: a model cannot be read.
    """
    for number, step in enumerate(METHODS[plan.method].measure):
        if wanted := ranks_in(plan, step):
            dtypes = {dtype for _, tensor in tensors_of(plan, step) for dtype in (*tensor.dtypes, tensor.dtype)}
            wide = np.float32 if HALVES.issuperset(dtypes) else np.float64
            searches = {model: KthLargest() for model, k in wanted.items() if k}
            for model, search in searches.items():
                search.begin(wanted[model], dtype=wide)
            with closing(WorkerPool(make_workers(plan, threads, max_memory, device))) as pool:
                while left := {model: search for model, search in searches.items() if search.value is None}:
                    feed_all(plan, opened, pool, step, left)
                    for search in left.values():
                        search.finish_pass()
            found = {model: searches[model].value if k else 0.0 for model, k in wanted.items()}
            plan = told(plan, step, number, found)
    return plan


def tensors_of(plan: MergePlan, step: Round) -> Iterator[tuple[int, TensorPlan]]:
    """Yield the tensors that a round is over, each with the index of its shard."""
    for index, shard in enumerate(plan.shards):
        for tensor in shard.tensors:
            if tensor.rule not in ("same", "sum") and step.over_model(tensor.parameters):
                yield index, tensor


def vectors_of(tensor: TensorPlan) -> tuple[int, ...]:
    """Return the models that the method gets vectors of, by their index."""
    return tensor.models[-len(tensor.weights) :]


def ranks_in(plan: MergePlan, step: Round) -> dict[int, int]:
    """Return the rank that is looked for among all elements of each model's task vector."""
    sizes: dict[int, int] = {}
    for _, tensor in tensors_of(plan, step):
        for model in vectors_of(tensor):
            sizes[model] = sizes.get(model, 0) + tensor.numel
    found: dict[int, int] = {}
    for _, tensor in tensors_of(plan, step):
        for place, model in enumerate(vectors_of(tensor)):
            if model not in found and step.rank is not None:
                ranks = step.rank(sizes[model], tensor.parameters)
                found[model] = ranks if isinstance(ranks, int) else ranks[place]
    return found


def feed_all(
    plan: MergePlan, opened: Opened, pool: WorkerPool, step: Round, searches: Mapping[int, KthLargest]
) -> None:
    """Feed each search the values of its model, tensor by tensor, several at a time."""
    wanted = list(tensors_of(plan, step))
    locks = {model: threading.Lock() for model in searches}
    for index in dict.fromkeys(index for index, _ in wanted):
        shard = plan.shards[index]
        with opened(shard) as readers:
            models = plan.components[shard.component].models
            job = ShardJob(method=plan.method, models=models, sources=readers, output=None)

            def feed(buffers: Worker, tensor: TensorPlan, job: ShardJob = job) -> None:
                assert isinstance(buffers, Buffers)  # noqa: S101 - none of these workers is a process
                sweep = Sweep(buffers, job, tensor, [(tensor.name, 0, tensor.numel)])
                for start, stop in sweep.chunks():
                    found = sweep.values(step, (), sweep.pieces(start, stop))
                    for model, values in zip(vectors_of(tensor), found, strict=True):
                        if model in searches:
                            with locks[model]:
                                searches[model].feed(values.astype(searches[model].dtype, copy=False))

            pool.run((tensor for of, tensor in wanted if of == index and tensor.numel), feed)


def told(plan: MergePlan, step: Round, number: int, found: dict[int, Any]) -> MergePlan:
    """Return the plan with what was found among the parameters of each tensor, under the number of the round."""
    needing = {(index, tensor.name) for index, tensor in tensors_of(plan, step)}

    def with_values(index: int, tensor: TensorPlan) -> TensorPlan:
        if (index, tensor.name) not in needing:
            return tensor
        values = tuple(found[model] for model in vectors_of(tensor))
        return replace(tensor, parameters={**tensor.parameters, f"round {number}": values})

    shards = [
        replace(shard, tensors=tuple(with_values(index, tensor) for tensor in shard.tensors))
        for index, shard in enumerate(plan.shards)
    ]
    return replace(plan, shards=tuple(shards))

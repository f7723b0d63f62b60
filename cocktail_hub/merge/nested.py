"""A mix that goes into another one: its tensors are made as they are read, and are nowhere on the disk."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cocktail_hub.checkpoint.reader import ElementRange, WatchedReader, byte_view
from cocktail_hub.merge.engine.execute import OpenModels
from cocktail_hub.merge.engine.over_model import with_model_rounds
from cocktail_hub.merge.engine.workers import make_workers
from cocktail_hub.merge.kernels.buffers import Buffers, ShardJob
from cocktail_hub.merge.kernels.dispatch import Known, make_range
from cocktail_hub.merge.run import opened_models
from cocktail_hub.methods.dtypes import itemsize
from cocktail_hub.methods.registry import METHODS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import torch

    from cocktail_hub.checkpoint.reader import TensorReader
    from cocktail_hub.compat import CompatibilityReport
    from cocktail_hub.merge.options import MixOptions
    from cocktail_hub.merge.plan import MergePlan


def can_stream(plan: MergePlan, options: MixOptions) -> bool:
    """Tell whether tensors can be made as they are read: not rows that some models lack, and not on little disk."""
    tensors = (tensor for shard in plan.shards for tensor in shard.tensors)
    return options.engine == "threads" and not options.low_disk and not any(tensor.apart for tensor in tensors)


@contextmanager
def opened_mix(
    name: str, plan: MergePlan, report: CompatibilityReport, options: MixOptions
) -> Iterator[Mapping[str, TensorReader]]:
    """Open the models of a mix; yields what makes its tensors, by the folder that they would be in."""
    with opened_models(plan, report, Path(), options) as inputs:
        assert isinstance(inputs, OpenModels)  # noqa: S101 - `can_stream` has seen to it
        if any(step.scope != "tensor" for step in METHODS[plan.method].measure):
            plan = with_model_rounds(plan, inputs.opened, options.memory_bytes, options.device)
        yield {
            component.folder: MixReader(name, plan, index, inputs.readers[index], options)
            for index, component in enumerate(plan.components)
        }


class MixReader:
    """A `TensorReader` and `ByteReader` of a component of a mix. Each thread that reads has buffers of its own."""

    def __init__(
        self, name: str, plan: MergePlan, component: int, sources: Sequence[TensorReader], options: MixOptions
    ) -> None:
        self.name = name
        """The recipe, for messages."""
        shards = (shard for shard in plan.shards if shard.component == component)
        self._tensors = {tensor.name: tensor for shard in shards for tensor in shard.tensors}
        self.specs = {name: tensor.spec for name, tensor in self._tensors.items()}
        """Tensor -> shape and dtype."""
        self._plan, self._options, self._sources = plan, options, sources
        self._models = plan.components[component].models
        self._thread = threading.local()
        self._known = {name: Known() for name in self._tensors}

    def read(self, tensor: str, start: int, stop: int, out: torch.Tensor) -> None:
        """Make elements `start:stop` of the flattened tensor (see `TensorReader.read`)."""
        self.read_bytes([(tensor, start, stop)], byte_view(out))

    def read_bytes(self, ranges: Sequence[ElementRange], out: memoryview) -> None:
        """Make the ranges, one after the other, in `out` (see `ByteReader.read_bytes`)."""
        if not hasattr(self._thread, "buffers"):
            (self._thread.buffers,) = make_workers(self._plan, 1, self._options.memory_bytes, self._options.device)
        buffers: Buffers = self._thread.buffers
        done = 0
        with buffers.at_work():
            for name, start, stop in ranges:
                tensor, width = self._tensors[name], itemsize(self.specs[name].dtype)
                nbytes = (stop - start) * width
                job = ShardJob(
                    method=self._plan.method,
                    models=self._models,
                    sources=self._sources,
                    output=_Window(start * width, out[done : done + nbytes]),
                )
                if start < stop:
                    make_range(buffers, job, tensor, (start, stop), self._known[name])
                done += nbytes

    def check_unchanged(self) -> None:
        """Raise CheckpointError if a file of a model has changed since it was opened."""
        for source in self._sources:
            if isinstance(source, WatchedReader):
                source.check_unchanged()

    def close(self) -> None:
        """Nothing is open here: the models are closed by who opened them."""


class _Window:
    """Memory as an `Output`: bytes of a tensor from `begin` on. What is written outside of it is dropped."""

    def __init__(self, begin: int, memory: memoryview) -> None:
        self._begin, self._memory = begin, memory

    def write(self, offset: int, data: memoryview) -> None:
        """Keep what is inside."""
        first = max(0, self._begin - offset)
        place = max(0, offset - self._begin)
        part = data[first : first + len(self._memory) - place]
        self._memory[place : place + len(part)] = part

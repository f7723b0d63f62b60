"""Methods that need an order statistic of a whole tensor: one pass over its chunks to find it, one to use it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cocktail_hub.merge.kernels.nonfinite import check_finite
from cocktail_hub.methods.dtypes import itemsize
from cocktail_hub.methods.order_statistics import kept_count, kth_largest, stretches_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from cocktail_hub.checkpoint.reader import ElementRange
    from cocktail_hub.merge.engine.chunks import Chunk
    from cocktail_hub.merge.kernels.buffers import Buffers
    from cocktail_hub.merge.kernels.job import ShardJob
    from cocktail_hub.merge.plan import TensorPlan


def merge_ordered(bench: Buffers, job: ShardJob, run: Chunk) -> None:
    """Make one tensor of the output with `ties`."""
    ((name, _, numel),) = run.pieces
    sweep = _Sweep(bench, job, run.like, name, numel)
    cuts = sweep.cuts(job.parameters["density"])
    for start, stop in sweep.chunks:
        sweep.write(start, stop, cuts, offset=run.offset)


class _Sweep:
    """Passes over the chunks of one tensor."""

    def __init__(self, bench: Buffers, job: ShardJob, tensor: TensorPlan, name: str, numel: int) -> None:
        self._bench, self._job, self._tensor, self._name, self._numel = bench, job, tensor, name, numel
        self._weights = tensor.weights[1:]
        self._steps = bench.ties(tensor.dtypes, tensor.dtype, even=len(set(self._weights)) == 1)
        buffers = [(max(tensor.dtypes, key=itemsize), 1), (tensor.dtype, 1), *self._steps.buffers]
        self._size = min(bench.fitting(buffers), numel)
        _, self._out, *places = bench.slots(buffers, self._size)
        self._steps.use([bench.array(place) for place in places])
        self.chunks = [(start, min(start + self._size, numel)) for start in range(0, numel, self._size)]
        """Elements `start:stop` that are in the buffers at once."""

    def write(self, start: int, stop: int, cuts: Sequence[float], *, offset: int) -> None:
        """Compute one chunk from the ingredients' cuts and write it; `offset` is where the tensor begins."""
        pieces, steps = [(self._name, start, stop)], self._steps
        width = itemsize(self._tensor.dtype)
        place = self._out._replace(nbytes=(stop - start) * width)
        inputs = self._bench.inputs(self._job, self._tensor, pieces, stop - start)
        steps.begin(next(inputs))
        for tensor, weight, cut in zip(inputs, self._weights, cuts, strict=True):
            steps.add(tensor, weight, cut)
        total, out = steps.total(self._job.parameters["lambda"]), self._bench.array(place)
        self._bench.steps.round_once(total, out)
        check_finite(self._bench, self._job, self._tensor, pieces, total=total, out=out, bounded=False)
        self._bench.write(self._job, offset + start * width, place)

    def cuts(self, density: float) -> list[float]:
        """Return for each ingredient the smallest magnitude that is kept."""
        if density == 1.0:
            return [0.0] * len(self._weights)
        k = kept_count(self._numel, density)
        if len(self.chunks) == 1:
            return [kth_largest(found, k) for found in self._magnitudes([(self._name, 0, self._numel)])]
        searches = self._bench.searches(len(self._weights))
        pieces = [(self._name, start, stop) for start, stop in stretches_of(self._numel, self._size)]
        for search, sample in zip(searches, self._magnitudes(pieces), strict=True):
            search.begin(k, sample, numel=self._numel, stretches=len(pieces))
        while any(search.value is None for search in searches):
            for start, stop in self.chunks:
                for search, found in zip(searches, self._magnitudes([(self._name, start, stop)]), strict=True):
                    if search.value is None:
                        search.feed(found)
            for search in searches:
                if search.value is None:
                    search.finish_pass()
        return [search.value for search in searches if search.value is not None]

    def _magnitudes(self, pieces: Sequence[ElementRange]) -> Iterator[NDArray[np.float32]]:
        """Yield the magnitudes of each ingredient's differences, each in the place of the one before."""
        count = sum(stop - start for _, start, stop in pieces)
        inputs = self._bench.inputs(self._job, self._tensor, pieces, count)
        self._steps.begin(next(inputs))
        for tensor in inputs:
            yield self._steps.magnitudes(tensor)

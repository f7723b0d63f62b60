"""Passes over one tensor in chunks: measure what the method must know of it, then make vectors for it."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cocktail_hub.errors import IncompatibleError
from cocktail_hub.merge.plan import vector_layout
from cocktail_hub.methods.dtypes import itemsize
from cocktail_hub.methods.fixed_sum import FixedSum, gram_matrix, products, subtree_sums
from cocktail_hub.methods.numpy_arrays import positions, widen_in_order
from cocktail_hub.methods.order_statistics import kth_largest, stretches_of
from cocktail_hub.methods.registry import METHODS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cocktail_hub.checkpoint.reader import ElementRange
    from cocktail_hub.merge.kernels.buffers import Buffers, ShardJob
    from cocktail_hub.merge.plan import TensorPlan
    from cocktail_hub.methods.contract import Measured, Round


class Cut(NamedTuple):
    """The smallest value that is kept: `value`, the k-th largest, and from the element `end` on the next one above."""

    value: float
    end: int
    above: float


class Sweep:
    """The elements of one tensor, or of several small ones, as vectors."""

    def __init__(self, buffers: Buffers, job: ShardJob, tensor: TensorPlan, pieces: Sequence[ElementRange]) -> None:
        self._buffers, self._job, self._tensor, self._pieces = buffers, job, tensor, pieces
        self._numel = sum(stop - start for _, start, stop in pieces)
        layout = vector_layout(tensor)
        self._size = min(buffers.fitting(layout), self._numel)
        self._method = METHODS[job.method]
        self._columns = self._numel // max(tensor.rows, 1) if self._method.rows else 0
        if self._columns:
            self._size = max(self._size // self._columns, 1) * self._columns
        is_split = buffers.steps.xp is np and tensor.dtypes[0] == "BF16"
        self.reordered = is_split and self._method.rows
        """Whether vectors are in the tensor's order, but what is rounded must have evens before odds."""
        self._is_split = is_split and not self._method.rows
        _, self.out, self._vectors, _ = buffers.slots(layout, self._size)
        self._based = tensor.rule == "task_vectors"
        self.base: Any = None
        """The base's elements of the chunk whose vectors were made last, in the accumulator's dtype."""
        self.odd: Any = None
        """Of a method on rows: where a vector was infinite or NaN. All are 0 there, so as not to spoil the row."""
        self.odd_sums: Any = None
        """The sums of the vectors there, which stand for the result."""

    def chunks(
        self, measured: Sequence[Measured] = (), span: tuple[int, int] | None = None
    ) -> Iterator[tuple[int, int]]:
        """Yield elements `start:stop`, of all or of a span, that are in the buffers at once and have the same cuts."""
        first, last = span or (0, self._numel)
        ends = {cut.end for found in measured for cut in found if isinstance(cut, Cut) and first < cut.end < last}
        bounds = sorted({*range(first, last, self._size), *ends, last})
        return itertools.pairwise(bounds)

    def pieces(self, start: int, stop: int) -> Sequence[ElementRange]:
        """Return where the elements `start:stop` are."""
        if (start, stop) == (0, self._numel):
            return self._pieces
        ((name, first, _),) = self._pieces
        return [(name, first + start, first + stop)]

    def vectors(self, pieces: Sequence[ElementRange]) -> list[Any]:
        """Read pieces of every model and return them, or their differences to the base, in the accumulator's dtype."""
        widen = widen_in_order if self.reordered else self._buffers.steps.widen
        xp, count = self._buffers.steps.xp, sum(stop - start for _, start, stop in pieces)
        slot, models = self._vectors, len(self._tensor.models)
        rows = self._buffers.array(slot._replace(nbytes=models * count * itemsize(slot.dtype))).reshape(models, count)
        vectors = []
        for row, array in zip(rows, self._buffers.inputs(self._job, self._tensor, pieces, count), strict=True):
            widen(array, row)
            vectors.append(row)
        if self._based:
            self.base, *vectors = vectors
            for vector in vectors:
                vector -= self.base  # noqa: PLW2901
        if not self._columns:
            return vectors
        self.odd = None
        if not all(xp.isfinite(vector).all() for vector in vectors):
            self.odd = xp.isnan(sum(vector - vector for vector in vectors))
            self.odd_sums = sum(vector[self.odd] for vector in vectors)
            for vector in vectors:
                vector[self.odd] = 0.0
        return [vector.reshape(-1, self._columns) for vector in vectors]

    def draws(self, vectors: Sequence[Any], pieces: Sequence[ElementRange]) -> dict[str, Any]:
        """Return the keyword that a method which draws at random gets with the vectors of some pieces."""
        if not self._method.random:
            return {}
        from cocktail_hub.methods.draws import Draws

        seed, models = self._tensor.parameters["seed"], self._tensor.models[-len(vectors) :]
        keys = [f"{seed} {model} {pieces[0][0]}" for model in models]
        stretches = [(start, stop) for _, start, stop in pieces]
        return {"draws": Draws(vectors[0], keys, stretches, self._buffers.steps.xp, split=self._is_split)}

    def measure(self) -> list[Measured]:
        """Run the method's rounds, one after the other."""
        found: list[Measured] = []
        for number, step in enumerate(self._method.measure):
            if not step.needed(self._tensor.parameters):
                found.append([])
            elif step.over_model(self._tensor.parameters):
                found.append(self._tensor.parameters[f"round {number}"])
            elif step.statistic == "rows":
                parts = [self.values(step, found, self.pieces(start, stop)) for start, stop in self.chunks()]
                found.append([np.concatenate(values) for values in zip(*parts, strict=True)])
            elif step.statistic == "kth_largest":
                found.append(self._cuts(step, found))
            elif step.statistic == "gram":
                found.append(gram_matrix(self.sums(step, found), len(self._tensor.models) - self._based))
            else:
                found.append(self.sums(step, found))
        return found

    def at(self, start: int, measured: Sequence[Measured], rows: tuple[int, int] = (0, 0)) -> list[Measured]:
        """Return what was measured, as it holds for a chunk that begins at an element, or for rows of that chunk."""

        def resolved(value: Any) -> Any:
            if isinstance(value, np.ndarray):
                before = start // self._columns
                return value[before + rows[0] : before + rows[1]]
            return (value.value if start < value.end else value.above) if isinstance(value, Cut) else value

        return [[resolved(value) for value in found] for found in measured]

    def sums(self, step: Round, measured: Sequence[Measured]) -> list[float]:
        """Add up values. Elements at which a vector is infinite or NaN do not count."""
        steps, total, known = self._buffers.steps, FixedSum(), self.at(0, measured)
        compute = step.values or (lambda xp, vectors, *_: products(xp, vectors))

        def summed(vectors: Sequence[Any], pieces: Sequence[ElementRange]) -> Any:
            found = compute(steps.xp, vectors, self._tensor.parameters, *known, **self.draws(vectors, pieces))
            sums = (subtree_sums(steps.xp, value.reshape(-1), split=self._is_split) for value in found)
            return np.stack([steps.on_host(value) for value in sums])

        for start, stop in self.chunks():
            pieces = self.pieces(start, stop)
            rows = summed(self.vectors(pieces), pieces)
            if not np.isfinite(rows).all():
                vectors = self.vectors(pieces)
                odd = steps.xp.isnan(sum(vector - vector for vector in vectors))
                for vector in vectors:
                    vector[odd] = 0.0
                rows = summed(vectors, pieces)
            total.add(rows)
        sums = total.total()
        if not all(map(math.isfinite, sums)):
            name = self._pieces[0][0]
            raise IncompatibleError(
                f"'{name}' cannot be mixed by '{self._job.method}': the squares of its elements exceed float64.\n"
                "Lengths of the models' tensors, and angles between them, would be infinite.\n"
                "Remove the model with such numbers, or use the method 'linear'.",
                tensor=name,
            )
        return sums

    def values(
        self, step: Round, measured: Sequence[Measured], pieces: Sequence[ElementRange]
    ) -> list[np.ndarray[Any, Any]]:
        """Return the values of a round for some pieces, on this machine."""
        steps, vectors = self._buffers.steps, self.vectors(pieces)
        known = self.at(pieces[0][1], measured, (0, len(vectors[0])))
        compute = step.values or (lambda _xp, vectors, *_: vectors)
        found = compute(steps.xp, vectors, self._tensor.parameters, *known, **self.draws(vectors, pieces))
        return [steps.on_host(value.reshape(-1)) for value in found]

    def _cuts(self, step: Round, measured: Sequence[Measured]) -> list[Cut]:
        """Find the k-th largest of each of the values."""
        chunks, parameters = list(self.chunks()), self._tensor.parameters
        ranks = step.rank(self._numel, parameters) if step.rank else 0
        if isinstance(ranks, int):
            ranks = [ranks] * len(self.values(step, measured, self.pieces(0, chunks[0][1])))
        ranks = [k if k <= self._numel else 0 for k in ranks]
        if not any(ranks):
            return [Cut(0.0, self._numel, 0.0)] * len(ranks)
        if len(chunks) == 1:
            found = self.values(step, measured, self._pieces)
            values = [kth_largest(value, k) if k else 0.0 for value, k in zip(found, ranks, strict=True)]
            dtype = found[0].dtype.type
        else:
            values, dtype = self._search(step, measured, ranks)
        exact = parameters.get(step.exact)
        ends = self._ends(step, measured, ranks, values) if exact else [self._numel] * len(values)
        above = [float(np.nextafter(dtype(value), dtype(math.inf))) for value in values]
        return [Cut(*cut) for cut in zip(values, ends, above, strict=True)]

    def _search(self, step: Round, measured: Sequence[Measured], ranks: Sequence[int]) -> tuple[list[float], Any]:
        """Find the k-th largest of a tensor of several chunks, in passes over them; also returns their dtype."""
        ((name, _, _),) = self._pieces
        stretches = [] if self._columns else stretches_of(self._numel, self._size)
        sample = [(name, start, stop) for start, stop in stretches if start < stop]
        sample = sample or [(name, 0, self._size)]  # of a tensor so small that no stretch has an element; or of rows
        samples = self.values(step, measured, sample)
        searches, dtype = self._buffers.searches(len(samples)), samples[0].dtype.type
        for search, some, k in zip(searches, samples, ranks, strict=True):
            search.begin(k, some, numel=self._numel, stretches=len(sample), dtype=dtype)
            if not k:
                search.value = 0.0
        while any(search.value is None for search in searches):
            for start, stop in self.chunks():
                found = self.values(step, measured, self.pieces(start, stop))
                for search, values in zip(searches, found, strict=True):
                    if search.value is None:
                        search.feed(values)
            for search in searches:
                if search.value is None:
                    search.finish_pass()
        return [search.value for search in searches if search.value is not None], dtype

    def _ends(
        self, step: Round, measured: Sequence[Measured], ranks: Sequence[int], cuts: Sequence[float]
    ) -> list[int]:
        """Find for each of the values where the last of the k largest is, of equal ones the first in the tensor."""
        wanted, ends = list(ranks), [self._numel] * len(cuts)
        equal: list[list[tuple[int, int, int]]] = [[] for _ in cuts]
        for start, stop in self.chunks():
            for i, found in enumerate(self.values(step, measured, self.pieces(start, stop))):
                wanted[i] -= int(np.count_nonzero(found > cuts[i]))
                equal[i].append((start, stop, int(np.count_nonzero(found == cuts[i]))))
        for i, counts in enumerate(equal):
            for start, stop, count in counts if ranks[i] else []:
                if wanted[i] <= count:
                    found = self.values(step, measured, self.pieces(start, stop))[i]
                    where = positions(np.flatnonzero(found == cuts[i]), stop - start, split=self._is_split)
                    ends[i] = start + int(where[wanted[i] - 1]) + 1
                    break
                wanted[i] -= count
        return ends

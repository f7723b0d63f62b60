"""Tensors that two checkpoints cut differently: which parts of one make up the tensors of the other.

A block is worked out on tensors without memory first, for shapes, and then on row numbers instead of weights: where
rows only move, the parts can be read straight from the file in runs, a piece at a time, and nothing is converted when
it is read. The few conversions that do more than move rows (a transposed matrix) are done on whole tensors.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from cocktail_hub.checkpoint.header import TensorSpec
from cocktail_hub.errors import IncompatibleError
from cocktail_hub.methods.dtypes import safetensors_dtype, torch_dtype

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cocktail_hub.checkpoint.conversion.model_names import CanonicalModel, Group

MAX_TRACED = 1 << 24
"""Rows, or elements, of a block that are numbered to see where they go: 128 MiB of int64."""
COLUMNS = 4
"""Elements that stand for a row while rows are numbered: enough to notice that they do not stay in order."""
MANY_RUNS = 4096
"""Runs per tensor that are always worth reading one by one."""
MIN_RUN = 1024
"""Elements per run, on average, that make more runs than that worth it."""


class Run(NamedTuple):
    """Neighbouring elements of one tensor in a file."""

    source: str
    """Tensor in the file."""
    start: int
    """First element of the flattened tensor."""
    length: int
    """Number of elements, > 0."""


Moved = tuple[int, int, int]
"""A run before its source has a name: index of the source, first element, number of elements."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Tensors of one checkpoint, and how they become tensors named and cut as in another."""

    joins: tuple[Group, ...] = ()
    """Groups in the file that are joined into tensors of the model first."""
    renamed: tuple[tuple[str, str], ...] = ()
    """Model name and file name of the tensors that are the model's as they are."""
    split: Group | None = None
    """Group of the other checkpoint that the model's tensors are then split into."""
    named: tuple[tuple[str, str], ...] = ()
    """Without `split`: model name and name in the other checkpoint."""

    @property
    def sources(self) -> tuple[str, ...]:
        """The tensors of the file, in a fixed order."""
        return (*(name for group in self.joins for name in group.files), *(name for _, name in self.renamed))

    @property
    def targets(self) -> tuple[str, ...]:
        """Their names in the other checkpoint."""
        return self.split.files if self.split else tuple(name for _, name in self.named)

    @property
    def form(self) -> tuple[Any, ...]:
        """What decides how elements move, whatever the tensors are called."""
        groups = (*self.joins, *((self.split,) if self.split else ()))
        cuts = tuple((group.converter, group.patterns, len(group.targets)) for group in groups)
        return cuts, len(self.renamed), len(self.named), self.split is None

    def convert(self, model: CanonicalModel, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Turn `sources` into `targets`.

        Raises:
            IncompatibleError: tensors of these shapes cannot be converted.
        """
        made = {name: tensors[source] for name, source in self.renamed}
        for group in self.joins:
            made |= model.join(group, tensors)
        if self.split:
            return model.split(self.split, made)
        return {name: made[inside] for inside, name in self.named if inside in made}


def converted_specs(block: Block, model: CanonicalModel, specs: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
    """Shapes and dtypes of a block's targets, without weights."""
    empty = {
        name: torch.empty(specs[name].shape, dtype=torch_dtype(specs[name].dtype), device="meta")
        for name in block.sources
    }
    made = block.convert(model, empty)
    return {name: TensorSpec(tuple(t.shape), safetensors_dtype(t.dtype)) for name, t in made.items()}


class Tracer:
    """Finds runs. Blocks that only differ in names, such as a model's layers, are traced once."""

    def __init__(self, model: CanonicalModel) -> None:
        self._model = model
        self._known: dict[Any, tuple[tuple[Moved, ...], ...] | None] = {}

    def trace(
        self, block: Block, specs: Mapping[str, TensorSpec], targets: Mapping[str, TensorSpec]
    ) -> dict[str, tuple[Run, ...]] | None:
        """Find the runs of the file that make up each target, or `None` where more than whole rows moves.

        Args:
            block: what is converted.
            specs: shapes and dtypes of the file's tensors.
            targets: those of the block's targets, from `converted_specs`.
        """
        sources = block.sources
        key = (block.form, tuple(specs[name] for name in sources), tuple(targets.values()))
        if key not in self._known:
            self._known[key] = _trace(block, self._model, specs, targets)
        known = self._known[key]
        if known is None:
            return None
        return {
            name: tuple(Run(sources[which], start, length) for which, start, length in runs)
            for name, runs in zip(targets, known, strict=True)
        }


def _trace(
    block: Block, model: CanonicalModel, specs: Mapping[str, TensorSpec], targets: Mapping[str, TensorSpec]
) -> tuple[tuple[Moved, ...], ...] | None:
    sources = [(name, specs[name]) for name in block.sources]
    widths = {spec.shape[-1:] for spec in (*(spec for _, spec in sources), *targets.values())}
    row = math.prod(widths.pop()) if len(widths) == 1 else 1
    columns = COLUMNS if row % COLUMNS == 0 else row
    rows = sum(spec.numel for _, spec in sources) // max(row, 1)
    if len({spec.dtype for _, spec in sources}) != 1 or row == 0 or rows * columns > MAX_TRACED:
        return None
    moved = _moved_rows(block, model, sources, Row(row, columns))
    if moved is None or any(tuple(moved[name].shape) != spec.shape[:-1] for name, spec in targets.items() if row > 1):
        return None
    starts = list(itertools.accumulate((spec.numel // row for _, spec in sources[:-1]), initial=0))
    found = tuple(_runs(moved[name], starts, row) for name in targets)
    sizes = [spec.numel for spec in targets.values()]
    worth = all(len(r) <= MANY_RUNS or size >= MIN_RUN * len(r) for r, size in zip(found, sizes, strict=True))
    return found if worth else None


class Row(NamedTuple):
    """The last dimension, which conversions mostly leave alone."""

    length: int
    """Its size in the real tensors."""
    columns: int
    """Its size while rows are numbered: a divisor of `length`."""


def _moved_rows(
    block: Block, model: CanonicalModel, sources: list[tuple[str, TensorSpec]], row: Row
) -> dict[str, torch.Tensor] | None:
    """Convert consecutive numbers instead of weights; say where rows went, `None` if they did not stay whole."""
    numbered: dict[str, torch.Tensor] = {}
    first = 0
    for name, spec in sources:
        count = spec.numel // row.length * row.columns
        shape = (*spec.shape[:-1], row.columns) if row.length > 1 else spec.shape
        numbered[name] = torch.arange(first, first + count).reshape(shape)
        first += count
    try:
        made = block.convert(model, numbered)
    except IncompatibleError:  # a conversion that needs the real last dimension
        return None
    if row.length == 1:
        return made
    heads = {name: tensor[..., :1] for name, tensor in made.items() if tensor.shape[-1:] == (row.columns,)}
    whole = all(torch.equal(made[name], head + torch.arange(row.columns)) for name, head in heads.items())
    if not whole or len(heads) != len(made) or any((head % row.columns).any() for head in heads.values()):
        return None
    return {name: head[..., 0] // row.columns for name, head in heads.items()}


def _runs(rows: torch.Tensor, starts: Sequence[int], row: int) -> tuple[Moved, ...]:
    """Cut a tensor of row numbers wherever the next row is not the next one of the same file tensor.

    Args:
        rows: where each row comes from, counted through all sources.
        starts: number of each source's first row.
        row: elements per row.
    """
    flat = rows.reshape(-1)
    breaks = (flat[1:] != flat[:-1] + 1).nonzero().reshape(-1) + 1
    runs: list[Moved] = []
    for begin, end in itertools.pairwise([0, *breaks.tolist(), len(flat)]):
        first = int(flat[begin])
        last = first + end - begin
        while first < last:
            which = bisect_right(starts, first) - 1
            stop = min(last, starts[which + 1] if which + 1 < len(starts) else last)
            runs.append((which, (first - starts[which]) * row, (stop - first) * row))
            first = stop
    return tuple(runs)

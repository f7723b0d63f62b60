"""Tensors that two checkpoints cut differently: which elements of one make up the tensors of the other.

A block is converted without memory first, for shapes, and then with row numbers instead of weights: where whole rows
move, the elements can be read straight from the file, range by range, and nothing is converted while reading. The few
conversions that do more than move rows (a transposed matrix) are applied to whole tensors.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from cocktail_hub.checkpoint.header import TensorSpec
from cocktail_hub.errors import IncompatibleError
from cocktail_hub.methods.dtypes import safetensors_dtype, torch_dtype

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cocktail_hub.checkpoint.conversion.model_names import CanonicalModel, Group
    from cocktail_hub.checkpoint.reader import ElementRange

MAX_TRACED = 1 << 24
"""Largest number of rows, or elements, of a block that is traced: 128 MiB of int64."""
COLUMNS = 4
"""Elements that represent a row while rows are traced: enough to detect that they do not stay in order."""
MANY_RANGES = 4096
"""Up to this number of ranges per tensor, reading range by range is always worth it."""
MIN_RANGE = 1024
"""With more ranges, they must have this many elements on average."""

SourceRange = tuple[int, int, int]
"""Elements `start:stop` of the block's source with this index."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Tensors of one checkpoint, and how they are converted to the names and shapes of another."""

    joins: tuple[Group, ...] = ()
    """Groups in the file that are first joined into tensors of the model."""
    renamed: tuple[tuple[str, str], ...] = ()
    """Model name and file name of the tensors that are only renamed."""
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
        """Key that is equal for blocks whose elements move in the same way, under any names."""
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
    """Finds element ranges. Blocks that only differ in names, such as a model's layers, are traced once."""

    def __init__(self, model: CanonicalModel) -> None:
        self._model = model
        self._known: dict[Any, tuple[tuple[SourceRange, ...], ...] | None] = {}

    def trace(
        self, block: Block, specs: Mapping[str, TensorSpec], targets: Mapping[str, TensorSpec]
    ) -> dict[str, tuple[ElementRange, ...]] | None:
        """Find the ranges of the file that make up each target; `None` if the block does more than move rows.

        Args:
            block: the conversion.
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
            name: tuple((sources[index], start, stop) for index, start, stop in ranges)
            for name, ranges in zip(targets, known, strict=True)
        }


def _trace(
    block: Block, model: CanonicalModel, specs: Mapping[str, TensorSpec], targets: Mapping[str, TensorSpec]
) -> tuple[tuple[SourceRange, ...], ...] | None:
    sources = [(name, specs[name]) for name in block.sources]
    widths = {spec.shape[-1:] for spec in (*(spec for _, spec in sources), *targets.values())}
    row = math.prod(widths.pop()) if len(widths) == 1 else 1
    columns = COLUMNS if row % COLUMNS == 0 else row
    rows = sum(spec.numel for _, spec in sources) // max(row, 1)
    if len({spec.dtype for _, spec in sources}) != 1 or row == 0 or rows * columns > MAX_TRACED:
        return None
    moved = _moved_rows(block, model, sources, row, columns)
    if moved is None or any(tuple(moved[name].shape) != spec.shape[:-1] for name, spec in targets.items() if row > 1):
        return None
    starts = list(itertools.accumulate((spec.numel // row for _, spec in sources[:-1]), initial=0))
    found = tuple(_ranges(moved[name], starts, row) for name in targets)
    sizes = [spec.numel for spec in targets.values()]
    worth = all(len(r) <= MANY_RANGES or size >= MIN_RANGE * len(r) for r, size in zip(found, sizes, strict=True))
    return found if worth else None


def _moved_rows(
    block: Block, model: CanonicalModel, sources: list[tuple[str, TensorSpec]], row: int, columns: int
) -> dict[str, torch.Tensor] | None:
    """Convert consecutive numbers instead of weights: the source row of each target row, `None` if rows are split.

    `row` is the size of the last dimension, which most conversions leave alone; `columns`, a divisor, replaces it here.
    """
    numbered: dict[str, torch.Tensor] = {}
    first = 0
    for name, spec in sources:
        count = spec.numel // row * columns
        shape = (*spec.shape[:-1], columns) if row > 1 else spec.shape
        numbered[name] = torch.arange(first, first + count).reshape(shape)
        first += count
    try:
        made = block.convert(model, numbered)
    except IncompatibleError:  # a conversion that needs the real last dimension
        return None
    if row == 1:
        return made
    heads = {name: tensor[..., :1] for name, tensor in made.items() if tensor.shape[-1:] == (columns,)}
    whole = all(torch.equal(made[name], head + torch.arange(columns)) for name, head in heads.items())
    if not whole or len(heads) != len(made) or any((head % columns).any() for head in heads.values()):
        return None
    return {name: head[..., 0] // columns for name, head in heads.items()}


def _ranges(rows: torch.Tensor, starts: Sequence[int], row: int) -> tuple[SourceRange, ...]:
    """Cut a tensor of row numbers, which count through all sources, where the next row is not the source's next one.

    `starts` are the numbers of the sources' first rows, `row` is the number of elements per row.
    """
    flat = rows.reshape(-1)
    breaks = (flat[1:] != flat[:-1] + 1).nonzero().reshape(-1) + 1
    ranges: list[SourceRange] = []
    for begin, end in itertools.pairwise([0, *breaks.tolist(), len(flat)]):
        first = int(flat[begin])
        last = first + end - begin
        while first < last:
            index = bisect_right(starts, first) - 1
            stop = min(last, starts[index + 1] if index + 1 < len(starts) else last)
            ranges.append((index, (first - starts[index]) * row, (stop - starts[index]) * row))
            first = stop
    return tuple(ranges)

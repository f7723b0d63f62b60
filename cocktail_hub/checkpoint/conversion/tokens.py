"""Where each model has the rows of the mix's vocabulary: gathered by token as they are read, never in a copy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cocktail_hub.checkpoint.header import TensorSpec
    from cocktail_hub.checkpoint.reader import ElementRange


class TokenRun(NamedTuple):
    """Rows that follow one another both in the mix and in a model."""

    row: int
    """The first one's row in the mix."""
    source: int
    """Its row in the model."""
    length: int
    """How many there are."""


@dataclass(frozen=True, slots=True)
class TokenRows:
    """Where one model has the rows of the mix."""

    size: int
    """Rows of the mix."""
    own: int
    """Rows of the model."""
    runs: tuple[TokenRun, ...]
    """In the order of the mix. The model lacks what lies between them."""

    @classmethod
    def of(cls, sources: Sequence[int | None], own: int) -> TokenRows:
        """Make it from the model's row for each row of the mix, `None` for one that it lacks."""
        runs: list[TokenRun] = []
        for row, source in enumerate(sources):
            if source is None:
                continue
            if runs and (last := runs[-1]).row + last.length == row and last.source + last.length == source:
                runs[-1] = last._replace(length=last.length + 1)
            else:
                runs.append(TokenRun(row, source, 1))
        return cls(len(sources), own, tuple(runs))

    @property
    def same(self) -> bool:
        """Whether the mix has the model's own rows."""
        return self.size == self.own and self.runs == ((0, 0, self.size),)

    def axis(self, shape: tuple[int, ...]) -> int | None:
        """Return which dimension has an element for each of the model's tokens; `None`: none has."""
        return 0 if shape[:1] == (self.own,) else 1 if shape == (1, self.own) else None

    def resized(self, spec: TensorSpec, axis: int) -> TensorSpec:
        """Return what a tensor of the model is with the rows of the mix."""
        return replace(spec, shape=(*spec.shape[:axis], self.size, *spec.shape[axis + 1 :]))

    def ranges(self, tensor: str, numel: int) -> tuple[ElementRange, ...]:
        """Return where the rows of the mix are in a tensor of so many elements; rows that it lacks are any others."""
        columns, found, done = numel // self.own, list[tuple[str, int, int]](), 0
        for row, source, length in (*self.runs, TokenRun(self.size, 0, 0)):
            while done < row:
                filling = min(row - done, self.own)
                found.append((tensor, 0, filling * columns))
                done += filling
            if length:
                found.append((tensor, source * columns, (source + length) * columns))
                done += length
        return tuple(found)


class RowStretch(NamedTuple):
    """Rows of the mix that not all models have."""

    start: int
    """The first."""
    stop: int
    """One past the last."""
    models: tuple[int, ...]
    """Indices of the models that have them."""


def stretches_apart(rows: Sequence[TokenRows]) -> tuple[RowStretch, ...]:
    """Return the rows of the mix that not all models have, in order."""
    changes: dict[int, dict[int, bool]] = {0: {}, rows[0].size: {}}  # row -> model -> whether it has what follows
    for model, each in enumerate(rows):
        for run in each.runs:
            changes.setdefault(run.row + run.length, {}).setdefault(model, False)
            changes.setdefault(run.row, {})[model] = True
    having: set[int] = set()
    found: list[RowStretch] = []
    for start, stop in pairwise(sorted(changes)):
        for model, has in changes[start].items():
            having.add(model) if has else having.discard(model)
        models = tuple(sorted(having))
        if len(models) == len(rows):
            continue
        if found and found[-1].stop == start and found[-1].models == models:
            found[-1] = found[-1]._replace(stop=stop)
        else:
            found.append(RowStretch(start, stop, models))
    return tuple(found)

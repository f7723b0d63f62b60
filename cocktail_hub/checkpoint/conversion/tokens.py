"""Where each model has the rows of the mix's vocabulary: gathered by token as they are read, never in a copy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
        begun = 0  # row at which the open run begins
        for row, source in enumerate(sources):
            following = sources[row + 1] if row + 1 < len(sources) else None
            if source is None:
                begun = row + 1
            elif following != source + 1:
                runs.append(TokenRun(begun, source - (row - begun), row - begun + 1))
                begun = row + 1
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

    def told(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return a config of the model as it is with the mix's tokens: their number, and ids of special ones.

        An id whose token the mix lacks becomes `None`, or is left out of a list.
        """

        def place(source: Any) -> Any:
            if not isinstance(source, int) or not 0 <= source < self.own:
                return source
            places = (run.row + source - run.source for run in self.runs if 0 <= source - run.source < run.length)
            return next(places, None)

        changed: dict[str, Any] = {}
        for key, value in config.items():
            if key == "text_config" and isinstance(value, dict):
                changed[key] = self.told(value)
            elif key == "vocab_size":
                changed[key] = self.size
            elif key.endswith("token_id") or key in ("suppress_tokens", "begin_suppress_tokens"):
                several = [place(source) for source in value] if isinstance(value, list) else None
                changed[key] = place(value) if several is None else [row for row in several if row is not None]
        return {**config, **changed}

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


ZERO = -1
"""Stands for a model whose rows are zeros."""


class RowStretch(NamedTuple):
    """Rows of the mix that the method does not make: not all models have them, or the recipe says whose they are."""

    start: int
    """The first."""
    stop: int
    """One past the last."""
    models: tuple[int, ...]
    """Indices of the models that have them; of one alone, if it gives the row whoever else has it."""
    source: int | None = None
    """Index of the model whose row stands for those that lack it; `ZERO`: zeros do."""


def stretches_apart(
    rows: Sequence[TokenRows], sources: Mapping[int, tuple[int, bool]] | None = None
) -> tuple[RowStretch, ...]:
    """Return the rows of the mix that the method does not make, in order.

    `sources`: row -> the model that gives it to those that lack it, and whether to the others, too.
    """
    given = sources or {}
    changes: dict[int, dict[int, bool]] = {0: {}, rows[0].size: {}}  # row -> model -> whether it has what follows
    for row in given:
        changes |= {row: {}, row + 1: {}}
    for model, each in enumerate(rows):
        for run in each.runs:
            changes.setdefault(run.row + run.length, {}).setdefault(model, False)
            changes.setdefault(run.row, {})[model] = True
    having: set[int] = set()
    found: list[RowStretch] = []
    for start, stop in pairwise(sorted(changes)):
        for model, has in changes[start].items():
            having.add(model) if has else having.discard(model)
        source, forced = given.get(start, (None, False))
        models = tuple(sorted(having if source is None or not forced else {source} - {ZERO}))
        if len(models) == len(rows):
            continue
        if source is not None:
            found.append(RowStretch(start, stop, models, source))
        elif found and found[-1].stop == start and found[-1][2:] == (models, None):
            found[-1] = found[-1]._replace(stop=stop)
        else:
            found.append(RowStretch(start, stop, models))
    return tuple(found)

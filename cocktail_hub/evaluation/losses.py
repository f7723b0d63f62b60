"""What scoring one ingredient gives: a loss per example, and how it was got."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from cocktail_hub.errors import ScoringError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """The losses of one ingredient on the examples, in nats. Valid by construction.

    Raises:
        ScoringError: a loss is NaN or infinite, or there are no examples.
    """

    name: str
    """The ingredient, as it is called in messages and reports."""
    per_example: tuple[float, ...]
    """n losses, n >= 1, in the order of the examples."""
    mean: float
    """The loss that shares are computed from: the mean over examples; with `compat`, the mean over batches."""
    truncated: int = 0
    """How many texts (pairs, for a reranker) were longer than the limit and were cut."""
    texts: int = 0
    """How many texts (pairs, for a reranker) went through the model."""
    tokens: int = 0
    """How many tokens went through the model, padding not counted."""
    reading: str = ""
    """How texts were put to the model and read from it, e.g. `chat template`; losses compare only where it is equal."""

    def __post_init__(self) -> None:
        if not self.per_example:
            raise ScoringError(f"'{self.name}' was scored on no examples at all.", model=self.name)
        for index, loss in enumerate(self.per_example):
            if not math.isfinite(loss):
                raise _not_finite(self.name, index, loss)

    @classmethod
    def of(cls, name: str, per_example: Sequence[float], *, mean: float | None = None, **details: Any) -> Losses:
        """Losses whose mean, where none is given, is the plain mean over examples."""
        losses = tuple(float(loss) for loss in per_example)
        if mean is None:
            mean = sum(losses) / max(len(losses), 1)
        return cls(name=name, per_example=losses, mean=mean, **details)

    @property
    def standard_error(self) -> float | None:
        """Standard error of the mean over examples, in nats. `None` for a single example, which has none."""
        return standard_error(self.per_example)

    def to_dict(self) -> dict[str, Any]:
        """Every field, ready for JSON."""
        return asdict(self) | {"per_example": list(self.per_example)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Losses:
        """The inverse of `to_dict`.

        Raises:
            TypeError: a field is missing or unknown.
        """
        return cls(**(dict(data) | {"per_example": tuple(data["per_example"])}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far scoring has come."""

    name: str
    """The ingredient that is being scored."""
    ingredient: int
    """Its index, from 0."""
    ingredients: int
    """How many there are."""
    done: int
    """Texts (pairs, for a reranker) of this ingredient that went through the model."""
    total: int
    """Texts of this ingredient in all; 0 while it is being loaded."""


OnProgress: TypeAlias = "Callable[[Progress], None]"
OnTexts: TypeAlias = "Callable[[int, int], None]"
"""Called after every batch with the texts done and the texts in all."""


def standard_error(values: Sequence[float]) -> float | None:
    """Sample standard deviation over the square root of n; `None` when n < 2."""
    n = len(values)
    if n < 2:  # noqa: PLR2004 - one value has no spread
        return None
    mean = math.fsum(values) / n
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)


def _not_finite(name: str, index: int, loss: float) -> ScoringError:
    return ScoringError(
        f"The loss of '{name}' on example {index} is {loss}.\n"
        "A share cannot be computed from it: softmax would make every share NaN.\n"
        "Score in float32 (`dtype`), check the weights of the model, or remove the example.",
        model=name,
        example=index,
    )

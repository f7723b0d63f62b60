"""The losses of one ingredient: one per example, their mean, and how they were computed."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from cocktail_hub.errors import ScoringError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cocktail_hub.evaluation.outputs import Outputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """The losses of one ingredient on the examples, in nats.

    Raises:
        ScoringError: a loss is NaN or infinite.
    """

    name: str
    """The ingredient, as messages and reports call it."""
    per_example: tuple[float, ...]
    """n losses, n >= 1, in the order of the examples."""
    mean: float
    """What weights are computed from: the mean over examples, or over batches for the losses of LM_Cocktail."""
    truncated: int = 0
    """Number of texts (pairs, for a reranker) that were longer than the limit and were cut."""
    texts: int = 0
    """Number of texts (pairs, for a reranker) that went through the model."""
    tokens: int = 0
    """Number of tokens that went through the model, without padding."""
    reading: str = ""
    """How texts were put to the model, e.g. `chat template`; only losses with the same reading can be compared."""
    outputs: Outputs = field(default_factory=dict, compare=False, repr=False)
    """What the losses were computed from, if the settings ask for it; else empty."""

    def __post_init__(self) -> None:
        for index, loss in enumerate(self.per_example):
            if not math.isfinite(loss):
                raise ScoringError(
                    f"The loss of '{self.name}' on example {index} is {loss}.\n"
                    "No weights can be computed from it: softmax would make all of them NaN.\n"
                    "Score in float32 (`dtype`), check the weights of the model, or remove the example.",
                    model=self.name,
                    example=index,
                )

    @classmethod
    def of(
        cls,
        name: str,
        sums: Sequence[float],
        counts: Sequence[int] | None = None,
        *,
        batch_size: int | None = None,
        **details: Any,
    ) -> Losses:
        """Losses from the sums over each example's terms.

        Args:
            name: of the ingredient.
            sums: n sums in nats.
            counts: n numbers of terms in each sum, such as tokens; `None`: 1 each.
            batch_size: take the mean over batches of so many examples, as LM_Cocktail does; `None`: over examples.
            **details: other fields.
        """
        counts = counts or [1] * len(sums)
        losses = tuple(total / count for total, count in zip(sums, counts, strict=True))
        mean = sum(losses) / len(losses) if batch_size is None else mean_of_batches(sums, counts, batch_size)
        return cls(name=name, per_example=losses, mean=mean, **details)

    @property
    def standard_error(self) -> float | None:
        """Standard error of the mean over examples, in nats; `None` for a single example."""
        return standard_error(self.per_example)

    def to_dict(self) -> dict[str, Any]:
        """Every field but the outputs, ready for JSON."""
        found = asdict(replace(self, outputs={})) | {"per_example": list(self.per_example)}
        del found["outputs"]
        return found

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Losses:
        """The inverse of `to_dict`.

        Raises:
            TypeError: a field is missing or unknown.
        """
        return cls(**(dict(data) | {"per_example": tuple(data["per_example"])}))


def standard_error(values: Sequence[float]) -> float | None:
    """Sample standard deviation over the square root of n; `None` if n < 2."""
    n = len(values)
    if n < 2:  # noqa: PLR2004 - one value has no spread
        return None
    mean = math.fsum(values) / n
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)


def mean_of_batches(sums: Sequence[float], counts: Sequence[int], batch_size: int) -> float:
    """The mean over batches of the mean over their terms, as in LM_Cocktail: a shorter last batch counts in full.

    Args:
        sums: n sums of losses, one per example.
        counts: n numbers of terms in each sum: tokens, or 1.
        batch_size: examples per batch, >= 1.

    Example:
        >>> mean_of_batches([1.0, 2.0, 6.0], [1, 1, 1], 2)
        3.75
    """
    means = [
        math.fsum(sums[start : start + batch_size]) / sum(counts[start : start + batch_size])
        for start in range(0, len(sums), batch_size)
    ]
    return math.fsum(means) / len(means)

"""The merge methods and what each one takes: names, ranges, defaults, sources. Data only; see `methods`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from cocktail_hub.errors import RecipeError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Kind = Literal["combination", "order"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterSpec:
    """One number that a method takes under `parameters`."""

    default: float
    """Used when the recipe does not give it."""
    low: float
    """Smallest value accepted."""
    high: float
    """Largest value accepted."""
    low_open: bool = False
    """Whether `low` itself is refused."""
    meaning: str
    """What it does, in a few words."""

    def check(self, value: object, name: str) -> None:
        """Raise RecipeError unless `value` is a number in range."""
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not number or not self.low <= value <= self.high or (self.low_open and value == self.low):  # type: ignore[operator]
            raise RecipeError(
                f"`parameters.{name}` must be a number {self.accepted}, got {value!r}.\nIt is {self.meaning}.\n"
                f"Leave it out for {self.default:g}."
            )

    @property
    def accepted(self) -> str:
        """The range in words."""
        if math.isinf(self.low) and math.isinf(self.high):
            return "(any finite one)"
        return f"{'above' if self.low_open else 'from'} {self.low:g} to {self.high:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodSpec:
    """What a method needs."""

    summary: str
    """One line: the formula."""
    kind: Kind
    """`combination`: each element is a weighted sum. `order`: needs an order statistic of whole tensors first."""
    needs_base: bool = False
    """Whether it works on differences to a base model."""
    convex: bool = False
    """Whether the weights must sum to 1."""
    negative: bool = True
    """Whether a weight may be below 0."""
    parameters: Mapping[str, ParameterSpec] = field(default_factory=lambda: MappingProxyType({}))
    """Name under `parameters` of a recipe -> what it takes."""
    source: str
    """The paper."""

    def check_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Raise RecipeError if a parameter is unknown or out of range."""
        for name, value in parameters.items():
            if name not in self.parameters:
                hint = did_you_mean(name, self.parameters) if self.parameters else "This method takes none."
                raise RecipeError(f"Unknown key '{name}' in `parameters`. {hint}")
            self.parameters[name].check(value, name)

    def with_defaults(self, parameters: Mapping[str, Any]) -> dict[str, float]:
        """Return every parameter of the method, checked, in the order of the table."""
        self.check_parameters(parameters)
        return {name: float(parameters.get(name, spec.default)) for name, spec in self.parameters.items()}


_LAMBDA = ParameterSpec(default=1.0, low=-math.inf, high=math.inf, meaning="the factor on the merged difference")
_DENSITY = ParameterSpec(
    default=0.2, low=0.0, high=1.0, low_open=True, meaning="the share of each difference that is kept, the largest"
)

METHOD_TABLE: Mapping[str, MethodSpec] = MappingProxyType(
    {
        "linear": MethodSpec(
            summary="sum of weight * model",
            kind="combination",
            convex=True,
            source="LM-Cocktail, arXiv:2311.13534; Model soups, arXiv:2203.05482",
        ),
        "task_arithmetic": MethodSpec(
            summary="base + lambda * sum of weight * (model - base)",
            kind="combination",
            needs_base=True,
            parameters=MappingProxyType({"lambda": _LAMBDA}),
            source="Editing models with task arithmetic, arXiv:2212.04089",
        ),
        "ties": MethodSpec(
            summary="base + lambda * mean of the trimmed differences that agree with the elected sign",
            kind="order",
            needs_base=True,
            negative=False,
            parameters=MappingProxyType({"density": _DENSITY, "lambda": _LAMBDA}),
            source="TIES-Merging, arXiv:2306.01708",
        ),
    }
)
"""Name in a recipe -> what the method needs. Add a method with a line here and a function in `methods`."""


def linear_weights(weights: Sequence[float]) -> tuple[float, ...]:
    """Make weights that sum to 1 up to a slip of the pen sum to 1 up to float64 rounding.

    `[0.3333, 0.3333, 0.3334]` is left alone; `[1/3, 1/3, 1/3]` as typed to six digits is divided by its sum, because
    a float32 model mixed with itself would otherwise not be itself.
    """
    total = math.fsum(weights)
    return tuple(weights) if total in (0.0, 1.0) else tuple(weight / total for weight in weights)


def arithmetic_weights(weights: Sequence[float], lam: float) -> tuple[float, ...]:
    """Return task arithmetic's coefficients as a weighted sum of models: base first, then the ingredients.

    `base + lam * sum(w_i * (x_i - base))` is `(1 - lam * sum(w_i)) * base + sum(lam * w_i * x_i)`.
    """
    scaled = [lam * weight for weight in weights]
    return (1.0 - math.fsum(scaled), *scaled)

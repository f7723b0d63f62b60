"""What a merge method is: parameters, what it measures of a tensor first, and a pure function that does the rest."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from cocktail_hub.errors import RecipeError, did_you_mean

COEFFICIENT_BITS = 40
"""Bits that are kept of measured coefficients: sines and roots differ between systems in the last of 53."""
Parameters = Mapping[str, Any]
"""Parameter -> a number, true or false, or a word; one for each vector where there is one per model."""
Measured = Sequence[Any]
"""What a round found: one float per value of the round, or the Gram matrix as rows of floats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A number, a word, or true or false, that a method takes under `parameters` of a recipe."""

    default: float | str
    """Used when the recipe does not give it. `True` or `False`: the parameter is a flag. Text: one of the `choices`."""
    choices: tuple[str, ...] = ()
    """The words that are accepted, for a parameter that is a word."""
    low: float = -math.inf
    """Smallest value accepted."""
    high: float = math.inf
    """Largest value accepted."""
    low_open: bool = False
    """Whether `low` itself is refused."""
    per_model: bool = False
    """Whether an ingredient may have its own. The method then gets a tuple, one for each of its vectors."""
    meaning: str
    """What it does, in a few words."""

    def check(self, value: object, name: str) -> None:
        """Raise RecipeError unless `value` is in range."""
        if self.choices:
            valid = value in self.choices
        elif isinstance(self.default, bool) or isinstance(value, bool):
            valid = isinstance(self.default, bool) and isinstance(value, bool)
        else:
            valid = isinstance(value, (int, float)) and math.isfinite(value) and self.low <= value <= self.high
            valid = valid and not (self.low_open and value == self.low)
        if not valid:
            raise RecipeError(
                f"`parameters.{name}` must be {self.accepted}, got {value!r}.\nIt is {self.meaning}.\n"
                f"Leave it out for the default, {self.shown_default}."
            )

    @property
    def accepted(self) -> str:
        """The range in words."""
        if self.choices:
            return " or ".join(self.choices)
        if isinstance(self.default, bool):
            return "true or false"
        if math.isinf(self.low) and math.isinf(self.high):
            return "a finite number"
        up_to = "up" if math.isinf(self.high) else f"to {self.high:g}"
        return f"a number {'above' if self.low_open else 'from'} {self.low:g} {up_to}"

    @property
    def shown_default(self) -> str:
        """The default as a recipe spells it."""
        return str(self.default).lower() if isinstance(self.default, (bool, str)) else f"{self.default:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One pass over a tensor that measures what a method must know before it computes.

    A round gets what the rounds before it found. `vectors` are 1-D arrays of the accumulator's dtype, one per
    ingredient: its elements, or its task vector's where there is a base.
    """

    statistic: Literal["gram", "sum", "kth_largest", "rows"]
    """`gram`: dot products of all pairs of vectors. `sum` of each of the values. `kth_largest` of each of the values,
    which must not be negative. `rows`: the values, of which each row has one; for a method on rows, which gets them for
    the rows of its vectors. Sums are float64, in an order that depends on nothing but the tensor's size."""
    values: Callable[..., Iterable[Any]] | None = None
    """`values(xp, vectors, parameters, *measured)`: arrays as long as a vector. It may overwrite `vectors`. Not for
    `gram`."""
    rank: Callable[[int, Parameters], int | Sequence[int]] | None = None
    """`rank(elements of the tensor, parameters)`: the k of `kth_largest`, 1 for the largest; or one for each value. Of
    0, and of more than there are, nothing is measured, and 0 is found."""
    scope: str = "tensor"
    """`tensor`; `model`: over all tensors that the method makes, for `kth_largest` of a value for each vector, with
    parameters that are the same for all tensors; or the parameter that says which."""
    needed: Callable[[Parameters], bool] = lambda _: True
    """Whether the parameters need what the round measures; where they do not, it finds an empty list."""
    exact: str = ""
    """The flag among the parameters that lets exactly k elements reach the k-th largest: of equal ones, the first in
    the tensor do, and for later ones the next number above is measured. For the last round only."""

    def over_model(self, parameters: Parameters) -> bool:
        """Tell whether it is over the whole model."""
        return bool(parameters.get(self.scope, self.scope) == "model")


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A merge method. It has `coefficients`, or `combine`, or both.

    Both are pure functions that take one weight per ingredient; those of weight 0 are left out. With a base they work
    on task vectors, and the base is added to what they give; where that is 0 the base is kept bit for bit.
    """

    summary: str
    """One line: the formula."""
    source: str
    """The paper."""
    coefficients: Callable[..., Sequence[float] | None] | None = None
    """`coefficients(weights, parameters, *measured)`: the factor of each vector in a weighted sum. Beside `combine`,
    called before anything is measured: `None` where no weighted sum gives the same."""
    combine: Callable[..., Any] | None = None
    """`combine(xp, vectors, weights, parameters, *measured)`: the merged vector, from some elements of a tensor at a
    time. `xp` is numpy or torch. It may overwrite `vectors`; each element may depend on the same element only."""
    rows: bool = False
    """Whether vectors come as whole rows, 2-D, to `combine` and to the values of rounds; an element may then depend on
    its row. A row is what belongs to one index of a tensor's first dimension; a tensor of one dimension is one row."""
    random: bool = False
    """Whether `combine` and the values of rounds also get `draws=`, whose `uniform(i)` gives random numbers in [0, 1)
    for the elements of the i-th vector (see `draws.Draws`)."""
    whole_models: bool = False
    """Whether vectors are the models where there is a base, too, which then comes first, without a weight."""
    measure: tuple[Round, ...] = ()
    """What must be known of a tensor first."""
    base: Literal["needed", "optional", "none"] = "none"
    """Whether there is a base that task vectors are taken from."""
    convex: bool = False
    """Whether the weights must sum to 1."""
    negative: bool = False
    """Whether a weight may be below 0."""
    fewest: int = 2
    """Fewest ingredients."""
    most: int | None = None
    """Most ingredients; `None`: any number."""
    parameters: Mapping[str, Parameter] = field(default_factory=lambda: MappingProxyType({}))
    """Name under `parameters` of a recipe -> what it takes."""

    @property
    def accepted_weights(self) -> str:
        """What the weights must be, in words."""
        return ("sum to 1" if self.convex else "any") + ("" if self.negative else ", 0 or more")

    @property
    def accepted_ingredients(self) -> str:
        """How many ingredients it takes, in words."""
        if self.most is None:
            return f"{self.fewest} or more"
        return f"{self.fewest}" if self.fewest == self.most else f"{self.fewest} to {self.most}"

    def searches(self, numel: int, parameters: Parameters, vectors: int) -> int:
        """Return how many order statistics are looked for at once in a tensor of so many elements and vectors."""
        ranked = [step for step in self.measure if step.statistic == "kth_largest" and not step.over_model(parameters)]
        steps = (step for step in ranked if step.needed(parameters))
        ranks = [step.rank(numel, parameters) if step.rank else 0 for step in steps]
        return max((vectors if isinstance(rank, int) else len(rank) for rank in ranks), default=0)

    def check_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Raise RecipeError if a parameter is unknown or out of range."""
        for name, value in parameters.items():
            if name not in self.parameters:
                hint = did_you_mean(name, self.parameters) if self.parameters else "This method takes none."
                raise RecipeError(f"Unknown key '{name}' in `parameters`. {hint}")
            self.parameters[name].check(value, name)

    def with_defaults(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return every parameter of the method, checked, in the order of the registry."""
        self.check_parameters(parameters)
        found = {name: parameters.get(name, spec.default) for name, spec in self.parameters.items()}
        return {name: value if isinstance(value, (bool, str)) else float(value) for name, value in found.items()}

    def used_weights(self, weights: Sequence[float], what: str, *, normalize: bool = False) -> tuple[float, ...]:
        """Return the weights that a mix is made with: divided by their sum where that should be 1, or is asked for.

        `what` is what to call them in a message, such as 'the weights'.

        Raises:
            RecipeError: a weight is not finite, or negative where that is refused; or their sum is not 1 where it must
                be, or 0 or less where they are to be divided by it.
        """
        for weight in weights:
            if not math.isfinite(weight) or (weight < 0.0 and not self.negative):
                kind = "finite" if self.negative else "finite and 0 or more"
                raise RecipeError(
                    f"{what[0].upper()}{what[1:]} must be {kind} for this method, got {weight!r}.\n"
                    "The result would not be what the method's authors describe.\n"
                    "Change that weight, or choose another method (`cocktail methods` lists what each accepts)."
                )
        total = math.fsum(weights)
        if normalize and total <= 0.0:
            raise RecipeError(
                f"{what[0].upper()}{what[1:]} sum to {total:.9g}, so `normalize: true` cannot divide by their sum.\n"
                "Dividing by a sum of 0 or less would lose or negate every weight.\n"
                "Raise the weights, or remove `normalize`."
            )
        if self.convex and not normalize and abs(total - 1.0) > WEIGHT_SUM_TOLERANCE:
            divided = f"Divide each by {total:.9g}" if total > 0 else "Raise them"
            raise RecipeError(
                f"{what[0].upper()}{what[1:]} sum to {total:.9g}, not to 1.\n"
                "A weighted average whose weights miss 1 scales the whole model, which breaks it.\n"
                f"{divided}, or add `normalize: true` to the recipe, which does that."
            )
        # without `normalize`, too: with 0.333333 three times, a float32 model mixed with itself would not be itself
        return normalized(weights) if self.convex or normalize else tuple(float(weight) for weight in weights)


WEIGHT_SUM_TOLERANCE = 1e-6 + 1e-12
"""How far weights that must sum to 1 may miss it: a hair above 1e-6, so that 0.333333 three times is accepted."""


def normalized(weights: Sequence[float]) -> tuple[float, ...]:
    """Divide weights by their sum, unless that is 0 or exactly 1: `[0.3333, 0.3333, 0.3334]` is left alone."""
    total = math.fsum(weights)
    return tuple(weights) if total in (0.0, 1.0) else tuple(weight / total for weight in weights)


def with_base(coefficients: Sequence[float]) -> tuple[float, ...]:
    """Turn coefficients of task vectors into those of the models, the base first.

    `base + sum(c_i * (x_i - base))` is `(1 - sum(c_i)) * base + sum(c_i * x_i)`: one rounding fewer per ingredient, and
    an ingredient of coefficient 1 beside others of 0 is kept bit for bit.
    """
    return (1.0 - math.fsum(coefficients), *coefficients)


def round_coefficients(coefficients: Sequence[float]) -> tuple[float, ...]:
    """Round to 40 bits, counted from the first of the largest one, so that every system gives the same."""
    exponent = math.frexp(max(map(abs, coefficients), default=0.0))[1] - COEFFICIENT_BITS
    return tuple(math.ldexp(round(math.ldexp(value, -exponent)), exponent) for value in coefficients)

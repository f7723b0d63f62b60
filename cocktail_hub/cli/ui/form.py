"""What is filled in on the page, and the recipe that it says."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cocktail_hub.errors import RecipeError
from cocktail_hub.methods.registry import METHODS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PARTS = 100
"""A weight is set in hundredths, so that weights sum to exactly 1."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """The choices of one user."""

    models: tuple[str, ...] = ()
    """Hub ids or folders."""
    parts: tuple[int, ...] = ()
    """Hundredths that each model gets, 100 together."""
    method: str = "linear"
    """A name of `METHODS`."""
    base: str = ""
    """Hub id or folder of the base, for methods that take one."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Those of the method that are not left at their defaults."""

    def with_models(self, models: Sequence[str]) -> Form:
        """The form with these models, of equal weight unless they are the same as before."""
        named = tuple(filter(None, (model.strip() for model in models)))
        if named == self.models:
            return self
        parts = tuple(PARTS * (i + 1) // len(named) - PARTS * i // len(named) for i in range(len(named)))
        return replace(self, models=named, parts=parts)

    def with_part(self, place: int, part: int) -> Form:
        """The form with another weight of one model; the others keep their proportions and share the rest."""
        others = [0 if i == place else old for i, old in enumerate(self.parts)]
        if not sum(others):
            others = [int(i != place) for i in range(len(others))]
        total, left = sum(others), PARTS - part if len(others) > 1 else 0
        ends = [left * sum(others[: i + 1]) // max(total, 1) for i in range(len(others))]
        parts = [end - start for start, end in zip([0, *ends], ends, strict=False)]
        parts[place] = PARTS - left
        return replace(self, parts=tuple(parts))

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe, as `mix` takes it."""
        method = METHODS[self.method]
        known = {name: value for name, value in self.parameters.items() if name in method.parameters}
        weighted = zip(self.models, self.parts, strict=True)
        return {
            "method": self.method,
            "ingredients": [{"model": model, "weight": part / PARTS} for model, part in weighted],
            **({"base": {"model": self.base}} if self.base and method.base != "none" else {}),
            **({"parameters": known} if known else {}),
        }

    def refuse_local(self) -> None:
        """Refuse models of the machine that serves the page, which strangers must not read.

        Raises:
            RecipeError: a model is not the id of a repo.
        """
        for model in (*self.models, *filter(None, [self.base])):
            if Path(model).exists() or model.count("/") > 1 or model.startswith((".", "/", "~")) or "\\" in model:
                raise RecipeError(
                    f"'{model}' is a path, and this page takes models from the Hub alone.\n"
                    "It runs on a machine that is not yours, and cannot see your files.\n"
                    "Push the model to the Hub, or run `cocktail ui` on your own machine."
                )

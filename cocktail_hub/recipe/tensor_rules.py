"""Other weights for some of the tensors."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from cocktail_hub.errors import RecipeError
from cocktail_hub.recipe.reference import LARGEST_WEIGHT
from cocktail_hub.recipe.validation import as_list, as_mapping, as_number, as_text, reject_unknown


@dataclass(frozen=True, kw_only=True)
class LayerRule:
    """Other weights for the tensors whose name matches. The first rule that matches wins.

    Raises:
        RecipeError: `match` is no regular expression, or a weight no finite number.
    """

    match: str
    """Regular expression over the whole tensor name, as in the first ingredient's files."""
    weights: tuple[float, ...]
    """A weight per ingredient, in recipe order."""

    def __post_init__(self) -> None:
        as_text(self.match, "layers.match")
        try:
            re.compile(self.match)
        except (re.error, OverflowError, RecursionError) as error:
            raise RecipeError(f"`layers.match` {self.match!r} is not a regular expression: {error}.") from error
        key = f"layers.weights of '{self.match}'"
        given = as_list(self.weights, key)
        numbers = tuple(as_number(w, key, low=-LARGEST_WEIGHT, high=LARGEST_WEIGHT) for w in given)
        object.__setattr__(self, "weights", numbers)

    def to_dict(self) -> dict[str, Any]:
        """Both keys, ready for JSON."""
        return {"match": self.match, "weights": list(self.weights)}

    @classmethod
    def from_value(cls, value: Any, key: str) -> LayerRule:
        """Read one entry of `layers`.

        Raises:
            RecipeError: a key is unknown or missing, or a value is of the wrong kind.
        """
        if isinstance(value, cls):
            return value
        data = as_mapping(value, key)
        reject_unknown(data, ("match", "weights"), f"`{key}`")
        missing = [name for name in ("match", "weights") if name not in data]
        if missing:
            raise RecipeError(f"`{key}` has no `{missing[0]}`. It needs `match` and `weights`.")
        return cls(match=data["match"], weights=data["weights"])

"""What a recipe says of tensors that not every ingredient has: its key `missing`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from cocktail_hub.errors import RecipeError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

FIRST: Final = "first"
"""A tensor that an ingredient lacks is taken from the first ingredient alone."""
DROP: Final = "drop"
"""A tensor that the first ingredient lacks is left out of the mix."""
CHOICES: Final = (FIRST, DROP)


class MissingPolicy:
    """The patterns of `missing`. The first that matches a name wins."""

    def __init__(self, missing: Mapping[str, str]) -> None:
        """Check and compile the patterns.

        Raises:
            RecipeError: a pattern is no regular expression, or its value is neither `first` nor `drop`.
        """
        self._rules: list[tuple[re.Pattern[str], str]] = []
        for pattern, choice in missing.items():
            if choice not in CHOICES:
                raise RecipeError(
                    f"`missing` of {pattern!r} cannot be {choice!r}. {did_you_mean(str(choice), CHOICES)}"
                )
            try:
                self._rules.append((re.compile(pattern), choice))
            except re.error as error:
                raise RecipeError(f"`missing` has {pattern!r}, which is not a regular expression: {error}.") from error

    def says(self, choice: str, *names: str) -> bool:
        """Whether the first pattern that matches one of a tensor's names has this choice."""
        for pattern, chosen in self._rules:
            if any(pattern.fullmatch(name) for name in names):
                return chosen == choice
        return False

    def refuse_idle(self, names: Iterable[str]) -> None:
        """Raise RecipeError if a pattern matches none of the ingredients' tensors: it is most likely misspelt."""
        names = list(names)
        for pattern, _ in self._rules:
            if not any(pattern.fullmatch(name) for name in names):
                raise RecipeError(
                    f"`missing` has {pattern.pattern!r}, but no ingredient has a tensor of such a name.\n"
                    "A pattern is a regular expression over the whole name, such as 'pooler\\..*'.\n"
                    "Correct or remove it."
                )

"""The recipe's key `missing`: what to do with tensors that some ingredients lack."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from cocktail_hub.errors import RecipeError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

FIRST: Final = "first"
"""A tensor that an ingredient lacks comes from the first ingredient alone."""
DROP: Final = "drop"
"""A tensor that the first ingredient lacks is left out of the mix."""
CHOICES: Final = (FIRST, DROP)


class MissingPolicy:
    """The patterns of `missing`. The first that matches a tensor's name applies."""

    def __init__(self, missing: Mapping[str, str]) -> None:
        """Compile the patterns.

        Raises:
            RecipeError: a pattern is not a regular expression, or its value is neither `first` nor `drop`.
        """
        self._rules: list[tuple[re.Pattern[str], str]] = []
        for pattern, choice in missing.items():
            if choice not in CHOICES:
                hint = did_you_mean(str(choice), CHOICES)
                raise RecipeError(f"`missing` of {pattern!r} cannot be {choice!r}. {hint}")
            try:
                self._rules.append((re.compile(pattern), choice))
            except re.error as error:
                raise RecipeError(f"`missing` has {pattern!r}, which is not a regular expression: {error}.") from error

    def says(self, choice: str, *names: str) -> bool:
        """Whether the first pattern that matches one of a tensor's names has this choice."""
        matches = (chosen for pattern, chosen in self._rules if any(map(pattern.fullmatch, names)))
        return next(matches, None) == choice

    def refuse_idle(self, names: Iterable[str]) -> None:
        """Raise RecipeError if a pattern matches no tensor of any ingredient: it is most likely misspelt."""
        names = list(names)
        for pattern, _ in self._rules:
            if not any(map(pattern.fullmatch, names)):
                raise RecipeError(
                    f"`missing` has {pattern.pattern!r}, but no ingredient has a tensor of such a name.\n"
                    "A pattern is a regular expression over the whole name, such as 'pooler\\..*'.\n"
                    "Correct or remove it."
                )

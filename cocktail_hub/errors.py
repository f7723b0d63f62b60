"""Everything cocktail_hub raises on purpose.

CocktailError
├── RecipeError (ValueError)         the recipe is wrong; nothing was downloaded
├── SourceError (OSError)            a model, repo or file cannot be found or read
├── IncompatibleError (ValueError)   the ingredients cannot be mixed; no weights were downloaded
├── CheckpointError (ValueError)     a weight file is damaged, or of a kind that cannot be mixed
├── ScoringError (ValueError)        the examples cannot rank the ingredients
├── MergeError (RuntimeError)        the merge could not be finished; finished shards are kept
│   └── DiskSpaceError               not enough room on the disk
├── CacheError (RuntimeError)        a cached mix cannot be used
├── PublishError (RuntimeError)      the Hub did not take the mix
└── MissingExtraError (ImportError)  an optional dependency is not installed

A message says what is wrong, why it matters and how to fix it, a line each.
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

from cocktail_hub.version import install_command

if TYPE_CHECKING:
    from collections.abc import Iterable


TOKEN = re.compile(r"(hf|api_org)_(?:[A-Za-z0-9]{30,}|(?:oauth|jwt)_[\w.-]{20,})")
"""An access token, wherever it begins: in an encoded address a letter may come before it."""
LOGIN = re.compile(r"(?<=://)[^/@\s]+@")
"""A name and a password in an address."""
UNPRINTABLE = {
    number: f"\\u{number:04x}"
    for first, last in (
        *((0, 8), (0xB, 0x1F), (0x7F, 0x9F), (0x61C, 0x61C), (0x200E, 0x200F), (0x2028, 0x202E)),
        *((0x2066, 0x2069), (0xD800, 0xDFFF)),
    )
    for number in range(first, last + 1)
}
"""Characters that move the cursor, colour a terminal, or change the order in which a line is read -> what is shown."""


def printable(text: str) -> str:
    """Return text of strangers as it may be shown: control characters written out, tokens and logins taken out."""
    return LOGIN.sub("", TOKEN.sub(r"\1_***", text)).translate(UNPRINTABLE)


class CocktailError(Exception):
    """Base class: `except CocktailError` catches every mistake that the caller can fix."""

    def __str__(self) -> str:
        return printable(super().__str__())


class RecipeError(CocktailError, ValueError):
    """The recipe is malformed. The message names the key and the accepted values."""

    problems: tuple[RecipeError, ...] = ()
    """Each of them, where there are several."""


class SourceError(CocktailError, OSError):
    """A model, repo, revision or file cannot be found or read."""


class IncompatibleError(CocktailError, ValueError):
    """Two ingredients disagree. `model` and `tensor` say where."""

    def __init__(self, message: str, *, model: str = "", tensor: str = "") -> None:
        super().__init__(message)
        self.model = model
        """Name of the ingredient that does not fit."""
        self.tensor = tensor
        """Name of the tensor that differs; empty when it is not about one tensor."""


class CheckpointError(CocktailError, ValueError):
    """A weight file is damaged, or of a kind that cannot be mixed. `model` says whose."""

    def __init__(self, message: str, *, model: str = "") -> None:
        super().__init__(message)
        self.model = model
        """Name of the ingredient the file belongs to."""


class ScoringError(CocktailError, ValueError):
    """The examples cannot rank the ingredients. `model` and `example` say where."""

    def __init__(self, message: str, *, model: str = "", example: int | None = None) -> None:
        super().__init__(message)
        self.model = model
        """Name of the ingredient that was being scored; empty when it is about the examples."""
        self.example = example
        """Index of the offending example, from 0; `None` when it is not about one example."""


class MergeError(CocktailError, RuntimeError):
    """The merge could not be finished. Shards that were finished are kept for the next try."""


class DiskSpaceError(MergeError):
    """There is not enough room on the disk for the mix."""


class CacheError(CocktailError, RuntimeError):
    """A cached mix cannot be used."""


class PublishError(CocktailError, RuntimeError):
    """The Hub did not take the mix; what was there before is unchanged."""


class MissingExtraError(CocktailError, ImportError):
    """An optional dependency is not installed. The message has the pip line."""

    @classmethod
    def of(cls, package: str, *, extra: str, purpose: str) -> MissingExtraError:
        """Say which package is missing, what it is for, and the command that installs it."""
        return cls(
            f"The package '{package}' is not installed.\n"
            f"It is needed to {purpose}.\n"
            f"Install it from a checkout of cocktail_hub with: {install_command(extra)}"
        )


_LISTED = 200
"""Words that a message lists, at most."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The one of `known` that `word` is most likely a slip of; `None` when nothing is near.

    Example:
        >>> nearest("temprature", ["temperature", "seed"])
        'temperature'
    """
    close = difflib.get_close_matches(word, list(known), n=1)
    return close[0] if close else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Suggest the nearest of `known`, or list them when none is near.

    Example:
        >>> did_you_mean("temprature", ["temperature", "seed"])
        "Did you mean 'temperature'?"
    """
    names = list(known)
    close = nearest(word, names)
    more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
    return f"Did you mean '{close}'?" if close else f"Accepted: {', '.join(names[:_LISTED])}{more}."

"""Check one value of a recipe. An error names the key, what is accepted, and what was given."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager, suppress
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any

from cocktail_hub.errors import RecipeError, nearest

LONGEST_SHOWN = 80
"""Characters of a wrong value that are shown in a message."""
MOST_LEVELS = 200
"""Of lists and mappings in each other. Recipes in recipes have half of it, and Python recurses five times as far."""
MOST_PROBLEMS = 10
"""Problems that are listed of one recipe."""
MOST_RULES = 1000
"""Entries of a list or mapping of rules. Each is compared with the name of every tensor."""
LARGEST_WHOLE = 2**63 - 1
"""Largest seed that PyTorch takes."""


@contextmanager
def collected(problems: list[RecipeError]) -> Iterator[None]:
    """Note what is wrong in the block, and go on."""
    try:
        yield
    except RecipeError as error:
        problems += error.problems or (error,)


def raise_all(problems: Sequence[RecipeError], what: str = "The recipe") -> None:
    """Raise RecipeError with everything that was noted; do nothing if that is nothing."""
    if len(problems) == 1:
        raise problems[0]
    if problems:
        shown = [f"{number}. {problem}" for number, problem in enumerate(problems[:MOST_PROBLEMS], start=1)]
        more = [f"... and {len(problems) - MOST_PROBLEMS} more."] if len(problems) > MOST_PROBLEMS else []
        error = RecipeError("\n".join([f"{what} has {len(problems)} problems:", *shown, *more]))
        error.problems = tuple(problems)
        raise error


def reject_unknown(
    data: Mapping[str, Any], known: Iterable[str], where: str, elsewhere: Mapping[str, str] | None = None
) -> None:
    """Refuse unknown keys, and suggest the nearest accepted one.

    Args:
        data: what was written.
        known: the accepted keys.
        where: name of `data` for the message.
        elsewhere: key of another place or tool -> a sentence that says where it belongs.
    """
    names = list(known)
    problems: list[RecipeError] = []
    for key in (key for key in data if key not in names):
        close = nearest(str(key), names)
        hint = (elsewhere or {}).get(key) or (f"Did you mean '{close}'?" if close else "")
        problems.append(
            RecipeError(
                f"Unknown key '{key}' in {where}. {hint}".rstrip() + "\n"
                "It would be silently ignored, so it is refused.\n"
                f"Accepted keys: {', '.join(names)}."
            )
        )
    raise_all(problems)


def as_mapping(value: Any, key: str) -> Mapping[str, Any]:
    """Accept a mapping."""
    if not isinstance(value, Mapping):
        raise RecipeError(f"`{key}` must be a mapping of keys to values, got {_shown(value)}.")
    return value


def as_list(value: Any, key: str) -> Sequence[Any]:
    """Accept a list or another sequence, but no string."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise RecipeError(f"`{key}` must be a list, got {_shown(value)}.")
    return value


def require_few(rules: Sized, key: str) -> None:
    """Refuse more than `MOST_RULES`."""
    if len(rules) > MOST_RULES:
        raise RecipeError(
            f"`{key}` has {len(rules):,} entries; at most {MOST_RULES:,} are read.\n"
            "Each is compared with the name of every tensor.\nWrite patterns that match more names."
        )


def as_text(value: Any, key: str) -> str:
    """Accept a string that is not blank."""
    if not isinstance(value, str) or not value.strip():
        raise RecipeError(f"`{key}` must be a string, got {_shown(value)}.{_quote_hint(value)}")
    return _valid_text(value, key)


def as_number(value: Any, key: str, *, low: float = -math.inf, high: float = math.inf) -> float:
    """Accept a finite number in [low, high], given as any real type."""
    if isinstance(value, bool) or not isinstance(value, Real):
        hint = ""
        with suppress(ValueError):  # YAML reads `1e-3`, without a dot, as a string
            if isinstance(value, str) and math.isfinite(float(value)):
                hint = f" Write {float(value)!r}, without quotes."
        raise RecipeError(f"`{key}` must be a number, got {_shown(value)}.{hint}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise RecipeError(f"`{key}` must be a finite number, got {_shown(value)}.")
    if not low <= number <= high:
        raise RecipeError(f"`{key}` must be between {low:g} and {high:g}, got {number!r}.")
    return number


def as_whole(value: Any, key: str, *, low: int) -> int:
    """Accept a whole number from `low` to `LARGEST_WHOLE`."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise RecipeError(f"`{key}` must be a whole number, got {_shown(value)}.")
    number = int(value)
    if not low <= number <= LARGEST_WHOLE:
        bound = f"at least {low}" if number < low else f"at most {LARGEST_WHOLE}"
        raise RecipeError(f"`{key}` must be {bound}, got {_shown(value)}.")
    return number


def as_flag(value: Any, key: str) -> bool:
    """Accept true or false."""
    if not isinstance(value, bool):
        raise RecipeError(f"`{key}` must be true or false, got {_shown(value)}.")
    return value


def as_choice(value: Any, key: str, choices: Iterable[str]) -> str:
    """Accept one of `choices`, and suggest the nearest."""
    names = list(choices)
    if not isinstance(value, str) or value not in names:
        close = nearest(str(value), names)
        hint = f" Did you mean '{close}'?" if close else ""
        raise RecipeError(f"`{key}` must be one of {', '.join(names)}, got {_shown(value)}.{hint}")
    return value


def require_shallow(value: Any) -> None:
    """Raise RecursionError if lists and mappings are nested more deeply than all that reads them can follow."""
    level = [value]
    for _ in range(MOST_LEVELS):
        mappings = [inner for one in level if isinstance(one, Mapping) for inner in one.values()]
        level = mappings + [inner for one in level if isinstance(one, (list, tuple)) for inner in one]
        if not level:
            return
    raise RecursionError(f"it is nested more than {MOST_LEVELS} levels deep")


def as_json(value: Any, key: str) -> Any:
    """Copy a JSON value, read-only at every level: mappings as `MappingProxyType`, lists as tuples.

    Raises:
        RecipeError: something in it has no JSON form; names its key, like `evidence.losses[2]`.
    """
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise RecipeError(f"The keys of `{key}` must be strings, got {_shown(name)}.{_quote_hint(name)}")
        return MappingProxyType({_valid_text(k, key): as_json(inner, f"{key}.{k}") for k, inner in value.items()})
    if isinstance(value, (list, tuple)):
        return tuple(as_json(inner, f"{key}[{i}]") for i, inner in enumerate(value))
    if isinstance(value, str):
        return _valid_text(value, key)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return as_number(value, key)
    raise RecipeError(f"`{key}` must be a JSON value, got {_shown(value)}.{_quote_hint(value)}")


def plain(value: Any) -> Any:
    """Copy a JSON value into dicts and lists that the caller may change: the opposite of `as_json`."""
    if hasattr(value, "to_value"):  # a number per tensor
        return value.to_value()
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def _valid_text(text: str, key: str) -> str:
    """Return a plain `str`. Half of a surrogate pair is refused: JSON can spell it, but no file can contain it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RecipeError(
            f"`{key}` has half of a surrogate pair at character {error.start}, which is not valid text."
        ) from error
    return str.__str__(text)


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python refuses to write very long whole numbers
        text = "a number of thousands of digits"
    shown = text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 3] + "..."
    return f"{shown} ({type(value).__name__})"


def _quote_hint(value: Any) -> str:
    return " Put it in quotes." if isinstance(value, (int, float, bool, dt.date)) else ""

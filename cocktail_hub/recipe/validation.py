"""Check one value of a recipe and say what is accepted. Pure: no files, no network."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any

from cocktail_hub.errors import RecipeError, nearest

LONGEST_SHOWN = 80
"""Characters of a wrong value that are shown in a message."""
LARGEST_WHOLE = 2**63 - 1
"""Largest whole number: what a seed of PyTorch takes."""


def reject_unknown(
    data: Mapping[str, Any], known: Iterable[str], where: str, elsewhere: Mapping[str, str] | None = None
) -> None:
    """Refuse keys that nobody reads, with the nearest accepted one.

    Args:
        data: what was written.
        known: the accepted keys.
        where: what to call `data` in the message.
        elsewhere: key of another place or tool -> a sentence that says where it belongs.
    """
    names = list(known)
    for key in data:
        if key not in names:
            close = nearest(str(key), names)
            hint = (elsewhere or {}).get(key) or (f"Did you mean '{close}'?" if close else "")
            raise RecipeError(
                f"Unknown key '{key}' in {where}. {hint}".rstrip() + "\n"
                "A key that nobody reads would be silently without effect, so it is refused.\n"
                f"Accepted keys: {', '.join(names)}."
            )


def as_mapping(value: Any, key: str) -> Mapping[str, Any]:
    """A mapping, or an error that names `key`."""
    if not isinstance(value, Mapping):
        raise RecipeError(f"`{key}` must be a mapping of keys to values, got {_shown(value)}.")
    return value


def as_list(value: Any, key: str) -> Sequence[Any]:
    """A list, or an error that names `key`."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise RecipeError(f"`{key}` must be a list, got {_shown(value)}.")
    return value


def as_text(value: Any, key: str) -> str:
    """A text that is not empty, or an error that names `key`."""
    if not isinstance(value, str) or not value.strip():
        raise RecipeError(f"`{key}` must be a text, got {_shown(value)}.{_quote_hint(value)}")
    return _whole_characters(value, key)


def as_number(value: Any, key: str, *, low: float = -math.inf, high: float = math.inf) -> float:
    """A finite number in [low, high], or an error that names `key`."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise RecipeError(f"`{key}` must be a number, got {_shown(value)}.{_float_hint(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise RecipeError(f"`{key}` must be a finite number, got {_shown(value)}.")
    if not low <= number <= high:
        raise RecipeError(f"`{key}` must be {_range(low, high)}, got {number!r}.")
    return number


def as_whole(value: Any, key: str, *, low: int) -> int:
    """A whole number from `low` to `LARGEST_WHOLE`, or an error that names `key`."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise RecipeError(f"`{key}` must be a whole number, got {_shown(value)}.")
    number = int(value)
    if not low <= number <= LARGEST_WHOLE:
        bound = f"at least {low}" if number < low else f"at most {LARGEST_WHOLE}"
        raise RecipeError(f"`{key}` must be {bound}, got {_shown(value)}.")
    return number


def as_flag(value: Any, key: str) -> bool:
    """True or false, or an error that names `key`."""
    if not isinstance(value, bool):
        raise RecipeError(f"`{key}` must be true or false, got {_shown(value)}.")
    return value


def as_choice(value: Any, key: str, choices: Iterable[str]) -> str:
    """One of `choices`, or an error with the nearest one."""
    names = list(choices)
    if not isinstance(value, str) or value not in names:
        close = nearest(str(value), names)
        hint = f" Did you mean '{close}'?" if close else ""
        raise RecipeError(f"`{key}` must be one of {', '.join(names)}, got {_shown(value)}.{hint}")
    return value


def as_json(value: Any, key: str) -> Any:
    """A read-only copy of a JSON value, whatever is inside: mappings cannot be written to, lists are tuples.

    Raises:
        RecipeError: something in it has no JSON form; names the key, like `evidence.losses[2]`.
    """
    if isinstance(value, Mapping):
        return MappingProxyType({_json_key(k, key): as_json(inner, f"{key}.{k}") for k, inner in value.items()})
    if isinstance(value, (list, tuple)):
        return tuple(as_json(inner, f"{key}[{i}]") for i, inner in enumerate(value))
    if isinstance(value, str):
        return _whole_characters(value, key)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return as_number(value, key)
    raise RecipeError(f"`{key}` must be a JSON value, got {_shown(value)}.{_quote_hint(value)}")


def plain(value: Any) -> Any:
    """The same JSON value as dicts and lists that belong to the caller: the opposite of `as_json`."""
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def _json_key(name: Any, key: str) -> str:
    if not isinstance(name, str):
        raise RecipeError(f"The keys of `{key}` must be texts, got {_shown(name)}.{_quote_hint(name)}")
    return _whole_characters(name, key)


def _whole_characters(text: str, key: str) -> str:
    """The text as a plain `str`; half of a surrogate pair, which JSON can spell but no file can hold, is refused."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RecipeError(
            f"`{key}` holds half of a surrogate pair at character {error.start}, which is no valid text."
        ) from error
    return str.__str__(text)


def _range(low: float, high: float) -> str:
    if high == math.inf:
        return f"at least {low:g}"
    return f"at most {high:g}" if low == -math.inf else f"between {low:g} and {high:g}"


def _shown(value: Any) -> str:
    text = _repr(value)
    shown = text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 3] + "..."
    return f"{shown} ({type(value).__name__})"


def _repr(value: Any) -> str:
    """`repr`, but for whole numbers so long that Python refuses to write them."""
    try:
        return repr(value)
    except ValueError:
        return "a number of thousands of digits"


def _quote_hint(value: Any) -> str:
    return " Put it in quotes." if isinstance(value, (int, float, bool, dt.date)) else ""


def _float_hint(value: Any) -> str:
    """YAML reads `1e-3` as a text: it wants a dot."""
    if not isinstance(value, str):
        return ""
    try:
        number = float(value)
    except ValueError:
        return ""
    return f" Write {number!r}, without quotes." if math.isfinite(number) else ""

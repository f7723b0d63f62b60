"""Check one value of a recipe and say what is accepted. Pure: no files, no network."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cocktail_hub.errors import RecipeError, did_you_mean


def reject_unknown(data: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    """Refuse keys that nobody reads, with the nearest accepted one."""
    names = list(known)
    for key in data:
        if key not in names:
            raise RecipeError(
                f"Unknown key '{key}' in {where}. {did_you_mean(str(key), names)}\n"
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
    return value


def as_number(value: Any, key: str, *, low: float = -math.inf, high: float = math.inf) -> float:
    """A finite number in [low, high], or an error that names `key`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise RecipeError(f"`{key}` must be a number, got {_shown(value)}.{_float_hint(value)}")
    if not math.isfinite(value):
        raise RecipeError(f"`{key}` must be a finite number, got {value!r}.")
    if not low <= value <= high:
        raise RecipeError(f"`{key}` must be {_range(low, high)}, got {value!r}.")
    return float(value)


def as_whole(value: Any, key: str, *, low: int) -> int:
    """A whole number of at least `low`, or an error that names `key`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise RecipeError(f"`{key}` must be a whole number, got {_shown(value)}.")
    if value < low:
        raise RecipeError(f"`{key}` must be at least {low}, got {value}.")
    return value


def as_flag(value: Any, key: str) -> bool:
    """True or false, or an error that names `key`."""
    if not isinstance(value, bool):
        raise RecipeError(f"`{key}` must be true or false, got {_shown(value)}.")
    return value


def as_choice(value: Any, key: str, choices: Iterable[str]) -> str:
    """One of `choices`, or an error with the nearest one."""
    names = list(choices)
    if value not in names:
        raise RecipeError(
            f"`{key}` must be one of {', '.join(names)}, got {_shown(value)}. {did_you_mean(str(value), names)}"
        )
    return str(value)


def _range(low: float, high: float) -> str:
    if high == math.inf:
        return f"at least {low:g}"
    return f"at most {high:g}" if low == -math.inf else f"between {low:g} and {high:g}"


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 80 else text[:77] + '...'} ({type(value).__name__})"


def _quote_hint(value: Any) -> str:
    return " Put it in quotes." if isinstance(value, (int, float, bool)) else ""


def _float_hint(value: Any) -> str:
    """YAML reads `1e-3` as a text: it wants a dot."""
    if not isinstance(value, str):
        return ""
    try:
        return f" Write {float(value)!r}, without quotes."
    except ValueError:
        return ""

"""Rules for tensors by name: numbers that differ from one to the next, and what to do where some models lack one."""

from __future__ import annotations

import fnmatch
import re
import time
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from cocktail_hub.errors import RecipeError, did_you_mean
from cocktail_hub.recipe.validation import (
    as_flag,
    as_json,
    as_list,
    as_mapping,
    as_number,
    as_text,
    reject_unknown,
    require_few,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

LARGEST_WEIGHT = 1e6
"""Numbers beyond this are typing errors, and their sums would overflow."""
REGEX = "regex:"
"""What a pattern that is a regular expression begins with; others are globs."""
FIRST: Final = "first"
"""A tensor that an ingredient lacks comes from the first ingredient alone."""
DROP: Final = "drop"
"""A tensor that the first ingredient lacks is left out of the mix."""
CHOICES: Final = (FIRST, DROP)

LAYER = re.compile(r"(?:^|(?<=\.))(\d+)(?=\.)")
"""The first number in a tensor's name: of the layer, where there are layers."""
_BEFORE_LAYERS = re.compile(
    r"embed(?!_out)|wte|wpe|shared|patch|(cls|class)_token|position|project_in|pre_layrnorm|stem"
)
"""What the names of tensors contain that come before the layers."""
PATIENCE = 2.0
"""Seconds that the names of a model may take one expression; ordinary ones take microseconds each."""
_QUICK = 0.01


@dataclass(frozen=True, kw_only=True)
class TensorRule:
    """A number, or numbers along the depth of the model, for the tensors whose name matches."""

    match: str | None = None
    """A glob over the whole name, or over what follows a dot in it; `regex:` and a regular expression over the whole
    name; or `None`, which matches everything."""
    value: float | tuple[float, ...]
    """The number, or those to interpolate between, from the first layer to the last."""

    def matches(self, name: str) -> bool:
        """Tell whether the rule is for this tensor."""
        return self.match is None or compiled(self.match).fullmatch(name)

    def at(self, depth: float) -> float:
        """Return the number at a depth from 0 to 1."""
        if not isinstance(self.value, tuple):
            return self.value
        place = depth * (len(self.value) - 1)
        below = min(int(place), len(self.value) - 1)
        above = min(below + 1, len(self.value) - 1)
        part = place - below
        return (1.0 - part) * self.value[below] + part * self.value[above] if part else self.value[below]


@dataclass(frozen=True)
class PerTensor:
    """A number per tensor: that of the first rule that matches. The last one matches everything."""

    rules: tuple[TensorRule, ...]

    def at(self, name: str, depth: float) -> float:
        """Return the number of a tensor."""
        return next(rule for rule in self.rules if rule.matches(name)).at(depth)

    @property
    def numbers(self) -> list[float]:
        """All numbers in it."""
        values = [rule.value for rule in self.rules]
        return [number for value in values for number in (value if isinstance(value, tuple) else (value,))]

    def to_value(self) -> Any:
        """Return what a recipe says, which `as_tensor_number` reads back."""
        shown = [
            ({} if rule.match is None else {"match": rule.match})
            | {"value": list(rule.value) if isinstance(rule.value, tuple) else rule.value}
            for rule in self.rules
        ]
        return shown[0]["value"] if len(shown) == 1 else shown

    def __format__(self, spec: str) -> str:
        """Return the range of the numbers, each in this format."""
        low, high = min(self.numbers), max(self.numbers)
        return format(low, spec) if low == high else f"{low:{spec}} to {high:{spec}}"


Number = float | PerTensor
"""A number of a recipe."""


def as_tensor_number(value: Any, key: str) -> Number:
    """Accept a number, a list of numbers along the depth, or rules; each up to a million in magnitude.

    Raises:
        RecipeError: it is none of these; a pattern is not valid; or the last rule does not match everything.
    """
    if isinstance(value, PerTensor):
        return value
    if isinstance(value, (str, bytes)) or not hasattr(value, "__len__"):
        return _as_number(value, key)
    listed = as_list(value, key)
    require_few(listed, key)
    if not listed:
        raise RecipeError(f"`{key}` is an empty list.\nThere is no number to use.\nGive a number, or a list of some.")
    if not any(hasattr(entry, "keys") for entry in listed):
        return PerTensor((TensorRule(value=tuple(_as_number(v, f"{key}[{i}]") for i, v in enumerate(listed))),))
    rules = []
    for index, entry in enumerate(listed):
        where = f"{key}[{index}]"
        data = as_mapping(entry, where)
        reject_unknown(data, ("match", "value"), f"`{where}`")
        if "value" not in data:
            raise RecipeError(f"`{where}` has no `value`. It needs a number, or a list of numbers along the depth.")
        given, pattern = data["value"], data.get("match")
        number = _as_number(given, where) if isinstance(given, str) or not hasattr(given, "__len__") else None
        if pattern is not None:
            compiled(as_text(pattern, f"{where}.match"))
        if (pattern is None) != (index == len(listed) - 1):
            raise RecipeError(
                f"`{where}` has {'no' if pattern is None else 'a'} `match`, "
                f"but {'rules follow it' if pattern is None else 'is the last rule'}.\n"
                "The first rule that matches a tensor decides, and every tensor needs a number.\n"
                "Let just the last rule have no `match`: `{value: ...}`."
            )
        inner = tuple(_as_number(v, f"{where}.value") for v in as_list(given, where)) if number is None else number
        rules.append(TensorRule(match=pattern, value=inner))
    return PerTensor(tuple(rules))


def as_parameters(value: Any, key: str) -> Mapping[str, Any]:
    """Accept a mapping of JSON values; lists in it are numbers that differ from tensor to tensor."""
    data = as_mapping(value, key)
    as_json(dict.fromkeys(data), key)  # all names are text
    listed = (list, tuple, PerTensor)
    return MappingProxyType(
        {name: (as_tensor_number if isinstance(v, listed) else as_json)(v, f"{key}.{name}") for name, v in data.items()}
    )


def _as_number(value: Any, key: str) -> float:
    return as_number(value, key, low=-LARGEST_WEIGHT, high=LARGEST_WEIGHT)


class Expression:
    """A regular expression of strangers. Some take longer than anyone will wait, so what is slow is stopped."""

    def __init__(self, pattern: str) -> None:
        """Compile it. Raises ValueError."""
        import regex  # not for the many recipes without a pattern

        self.pattern = pattern
        try:
            self._compiled = regex.compile(pattern)
        except (regex.error, OverflowError, RecursionError, MemoryError) as error:
            raise ValueError(str(error) or "it is too large") from error
        self._left = PATIENCE

    def fullmatch(self, name: str) -> bool:
        """Tell whether it matches a whole name. Raises RecipeError if that takes too long."""
        began = time.thread_time()
        try:
            return self._compiled.fullmatch(name, timeout=max(self._left, _QUICK)) is not None
        except TimeoutError:
            raise RecipeError(
                f"The pattern {self.pattern!r} takes too long to match: {PATIENCE:.0f} s, and it had not ended.\n"
                "A group that is repeated, with a repetition inside, can take longer than anyone will wait.\n"
                "Repeat single characters or classes only, such as `\\d+` or `.*`, or write several rules."
            ) from None
        finally:
            if (took := time.thread_time() - began) > _QUICK:
                self._left -= took


@lru_cache(maxsize=1024)
def compiled(pattern: str) -> Expression:
    """Return what matches whole names of tensors.

    Raises:
        RecipeError: it is a regular expression that is not valid.
    """
    is_regex = pattern.startswith(REGEX)
    try:
        return Expression(
            pattern.removeprefix(REGEX).strip() if is_regex else rf"(?:.*\.)?(?:{fnmatch.translate(pattern)})"
        )
    except ValueError as error:
        raise RecipeError(f"The pattern {pattern!r} is not a regular expression: {error}.") from error


def split_layer(name: str) -> tuple[str, int, str] | None:
    """Return what comes before the number of a tensor's layer, the number, and what follows; `None` without layer."""
    layer = LAYER.search(name)
    return (name[: layer.start()], int(layer[1]), name[layer.end() :]) if layer else None


def depths(names: Iterable[str]) -> dict[str, float]:
    """Return how deep in the model each tensor is.

    A layer's is its index over that of the last one, in its own tower: all tensors with the same name up to the index.
    Embeddings, and what else comes before the layers, are at 0; what follows the layers at 1.
    """
    found = {name: LAYER.search(name) for name in names}
    last: dict[str, int] = {}
    for name, layer in found.items():
        if layer:
            tower = name[: layer.start()]
            last[tower] = max(last.get(tower, 1), int(layer[1]))
    return {
        name: int(layer[1]) / last[name[: layer.start()]] if layer else float(not _BEFORE_LAYERS.search(name))
        for name, layer in found.items()
    }


@dataclass(frozen=True, kw_only=True)
class KeepRule:
    """Tensors that are one model's as they are.

    Raises:
        RecipeError: `match` is no pattern.
    """

    match: str
    """As in `TensorRule`."""
    model: str | None = None
    """`base`, `first`, or the `model` of an ingredient. `None`: the base where there is one, else the first."""

    def __post_init__(self) -> None:
        compiled(as_text(self.match, "keep.match"))

    def to_value(self) -> Any:
        """Return what a recipe says."""
        return self.match if self.model is None else {"match": self.match, "model": self.model}

    @classmethod
    def from_value(cls, value: Any, key: str) -> KeepRule:
        """Read one entry of `keep`: a pattern, or a mapping. Raises RecipeError."""
        if isinstance(value, cls):
            return value
        data = {"match": value} if isinstance(value, str) else as_mapping(value, key)
        reject_unknown(data, ("match", "model"), f"`{key}`")
        if "match" not in data:
            raise RecipeError(f"`{key}` has no `match`. It needs a pattern of tensor names, such as 'lm_head*'.")
        return cls(match=data["match"], model=data.get("model"))


@dataclass(frozen=True, kw_only=True)
class TokenRule:
    """Whose row a token of the mix has."""

    source: str
    """`base`, `first`, or the `model` of an ingredient: it gives the row to models that lack the token. Or `zero`."""
    token: str = ""
    """Another token of that model, whose row it gives."""
    force: bool = False
    """Whether the row is that model's as it is, whoever else has one."""

    def to_value(self) -> Any:
        """Return what a recipe says."""
        more = ({"token": self.token} if self.token else {}) | ({"force": True} if self.force else {})
        return {"source": self.source} | more if more else self.source

    @classmethod
    def from_value(cls, value: Any, key: str) -> TokenRule:
        """Read a model, or a mapping. Raises RecipeError."""
        if isinstance(value, cls):
            return value
        data = {"source": value} if isinstance(value, str) else as_mapping(value, key)
        reject_unknown(data, ("source", "token", "force"), f"`{key}`")
        if "source" not in data:
            raise RecipeError(f"`{key}` has no `source`. It needs the model whose row the token has.")
        token = as_text(data["token"], f"{key}.token") if data.get("token") else ""
        force = as_flag(data.get("force", False), f"{key}.force")
        return cls(source=as_text(data["source"], key), token=token, force=force)


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
            Expression(self.match)
        except ValueError as error:
            raise RecipeError(f"`layers.match` {self.match!r} is not a regular expression: {error}.") from error
        key = f"layers.weights of '{self.match}'"
        object.__setattr__(self, "weights", tuple(_as_number(w, key) for w in as_list(self.weights, key)))

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


class MissingPolicy:
    """The patterns of `missing`. The first that matches a tensor's name applies."""

    def __init__(self, missing: Mapping[str, str]) -> None:
        """Compile the patterns.

        Raises:
            RecipeError: a pattern is not a regular expression, or its value is neither `first` nor `drop`.
        """
        self._rules: list[tuple[Expression, str]] = []
        for pattern, choice in missing.items():
            if choice not in CHOICES:
                hint = did_you_mean(str(choice), CHOICES)
                raise RecipeError(f"`missing` of {pattern!r} cannot be {choice!r}. {hint}")
            try:
                self._rules.append((Expression(pattern), choice))
            except ValueError as error:
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

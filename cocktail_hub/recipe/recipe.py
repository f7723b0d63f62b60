"""What to mix: a validated, immutable value. Reads no network, imports no torch."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from cocktail_hub.errors import RecipeError
from cocktail_hub.method_table import METHOD_TABLE, MethodSpec
from cocktail_hub.recipe.ingredient import Anchor, Ingredient, Pin
from cocktail_hub.recipe.values import as_choice, as_list, as_mapping, as_number, as_text, as_whole, reject_unknown
from cocktail_hub.recipe.weighting import Weighting

if TYPE_CHECKING:
    from typing_extensions import Self

SCHEMA = 1
"""Version of the recipe format; a recipe of a later one is refused."""
WEIGHT_SUM_TOLERANCE = 1e-6
"""How far the weights of a linear mix may miss 1."""
DTYPES = ("auto", "float32", "float16", "bfloat16", "float64")
TASKS = (
    "text-generation",
    "text2text-generation",
    "sentence-similarity",
    "feature-extraction",
    "text-ranking",
    "text-classification",
    "token-classification",
    "question-answering",
    "fill-mask",
    "image-classification",
    "image-feature-extraction",
    "image-text-to-text",
    "automatic-speech-recognition",
    "audio-classification",
    "zero-shot-image-classification",
)
"""Tasks that a recipe may name; where it names none, the ingredients' architecture says."""


@dataclass(frozen=True, kw_only=True)
class LayerRule:
    """Other weights for the tensors whose name matches. The first rule that matches wins."""

    match: str
    """Regular expression over the whole tensor name, as in the first ingredient's files."""
    weights: tuple[float, ...]
    """A weight per ingredient, in recipe order."""

    def __post_init__(self) -> None:
        as_text(self.match, "layers.match")
        try:
            re.compile(self.match)
        except re.error as error:
            raise RecipeError(f"`layers.match` {self.match!r} is not a regular expression: {error}.") from error
        numbers = tuple(as_number(w, f"layers.weights of '{self.match}'") for w in self.weights)
        object.__setattr__(self, "weights", numbers)

    @classmethod
    def from_value(cls, value: Any, key: str) -> LayerRule:
        """Read one entry of `layers`."""
        if isinstance(value, cls):
            return value
        data = as_mapping(value, key)
        reject_unknown(data, ("match", "weights"), f"`{key}`")
        missing = [name for name in ("match", "weights") if name not in data]
        if missing:
            raise RecipeError(f"`{key}` has no `{missing[0]}`. It needs `match` and `weights`.")
        return cls(match=data["match"], weights=tuple(as_list(data["weights"], f"{key}.weights")))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A mix. Every instance is valid: there is no separate `validate()` to forget.

    Raises:
        RecipeError: a value is of the wrong kind, out of range, or does not fit the others.
    """

    ingredients: tuple[Ingredient, ...]
    """Two or more, in the order in which they are added up."""
    schema: int = SCHEMA
    """Version of this format."""
    task: str | None = None
    """Hub task of the mix, e.g. `text-generation`. `None`: the ingredients' architecture says."""
    method: str = "linear"
    """Merge method (docs/methods.md)."""
    base: Pin | None = None
    """The model that task vectors are taken from, for the methods that use them."""
    weighting: Weighting | None = None
    """How to compute the weights, where the ingredients give none."""
    anchor: Anchor | None = None
    """LM-Cocktail's many-model mix: `share * anchor + (1 - share) * sum of the others`."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Parameters of the method."""
    layers: tuple[LayerRule, ...] = ()
    """Other weights for some tensors."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """Pattern of tensor names -> what to do when some ingredients lack them (docs/checkpoints.md)."""
    dtype: str = "auto"
    """Type of the result's floating-point tensors; `auto`: the first ingredient's."""
    config: str = "first"
    """`first`, or the ingredient that config.json and generation_config.json come from."""
    tokenizer: str = "first"
    """`first`, or the ingredient that tokenizer, processor and chat template come from."""
    seed: int = 0
    """Seed of methods that draw at random."""
    evidence: Mapping[str, Any] | None = None
    """What computed weights came from: losses, examples, temperature. Written with the weights."""

    def __post_init__(self) -> None:
        self._check_kinds()
        self._check_method()
        self._check_duplicates()
        self._check_weights()
        self._check_layers()

    @property
    def weights(self) -> tuple[float, ...] | None:
        """The ingredients' weights in recipe order, or `None` when they are still to be computed."""
        given = [i.weight for i in self.ingredients if i.weight is not None]
        return tuple(given) if len(given) == len(self.ingredients) else None

    @property
    def spec(self) -> MethodSpec:
        """What the merge method needs."""
        return METHOD_TABLE[self.method]

    @property
    def pins(self) -> tuple[Pin, ...]:
        """Every model that goes in: ingredients, then base, then anchor."""
        return (*self.ingredients, *(pin for pin in (self.base, self.anchor) if pin))

    def _check_kinds(self) -> None:
        if len(self.ingredients) + (self.anchor is not None) < 2:
            raise RecipeError(
                f"`ingredients` needs at least 2 entries, got {len(self.ingredients)}.\n"
                "A mix of one model is that model.\nAdd another ingredient, or load the model itself."
            )
        if self.schema != SCHEMA:
            raise RecipeError(
                f"`schema` is {self.schema!r}, but this version of cocktail_hub reads schema {SCHEMA}.\n"
                "A recipe of another format could mean something else.\nUpgrade with: pip install -U cocktail-hub"
            )
        if self.task is not None:
            as_choice(self.task, "task", TASKS)
        as_choice(self.method, "method", METHOD_TABLE)
        as_choice(self.dtype, "dtype", DTYPES)
        as_whole(self.seed, "seed", low=0)
        for key in ("config", "tokenizer"):
            as_choice(getattr(self, key), key, ["first", *dict.fromkeys(pin.model for pin in self.pins)])

    def _check_method(self) -> None:
        if self.spec.needs_base and self.base is None:
            raise RecipeError(
                f"Method '{self.method}' needs a `base`.\nIt adds up the differences of the ingredients to that model.\n"
                "Give the model that the ingredients were fine-tuned from: `base: org/name`."
            )
        if self.base is not None and not self.spec.needs_base:
            raise RecipeError(
                f"Method '{self.method}' does not use a `base`.\nIt would be silently without effect.\n"
                "Remove it, list it as an ingredient, or choose a method on task vectors such as 'task_arithmetic'."
            )
        if self.anchor is not None and self.method != "linear":
            raise RecipeError(f"`anchor` goes with method 'linear', got '{self.method}'.")
        self.spec.check_parameters(self.parameters)

    def _check_duplicates(self) -> None:
        seen = [(pin.model, pin.revision, pin.digest) for pin in self.ingredients]
        if len(set(seen)) == 1:
            return  # a model mixed with itself is itself: a harmless first try, and LM_Cocktail's own example
        for index, key in enumerate(seen):
            if key in seen[:index]:
                raise RecipeError(
                    f"Ingredient '{self.ingredients[index].label}' is listed twice (positions {seen.index(key)} and "
                    f"{index}).\nThat is most often a slip, and its share would be the sum of both.\n"
                    "List it once, with the sum of the weights."
                )

    def _check_weights(self) -> None:
        given = [i for i in self.ingredients if i.weight is not None]
        if given and len(given) < len(self.ingredients):
            lacking = next(i for i in self.ingredients if i.weight is None)
            raise RecipeError(
                f"'{lacking.label}' has no `weight`, but '{given[0].label}' has one.\n"
                "Give every ingredient a `weight`, or none and a `weighting` that computes them."
            )
        if not given and self.weighting is None:
            raise RecipeError(
                "The ingredients have no `weight`, and there is no `weighting`.\n"
                "Without shares there is nothing to mix by.\n"
                "Give every ingredient a `weight`, or add `weighting: {rule: uniform}` for equal shares."
            )
        if given and self.weighting is not None:
            raise RecipeError(
                "The ingredients have a `weight`, and there is a `weighting` that computes them.\n"
                "Only one of the two can decide.\nRemove the weights to have them computed, or remove `weighting`."
            )
        if given and self.spec.convex:
            check_sum([i.weight or 0.0 for i in given], "the weights")

    def _check_layers(self) -> None:
        for rule in self.layers:
            if len(rule.weights) != len(self.ingredients):
                raise RecipeError(
                    f"`layers` rule '{rule.match}' has {len(rule.weights)} weights for {len(self.ingredients)} "
                    "ingredients.\nGive one weight per ingredient, in recipe order."
                )
            if self.spec.convex:
                check_sum(rule.weights, f"the weights of `layers` rule '{rule.match}'")
        if self.layers and self.anchor is not None:
            raise RecipeError(
                "`layers` and `anchor` cannot be combined: a rule's weights would not say what the anchor gets.\n"
                "List the anchor as an ingredient with its own weight."
            )

    def to_dict(self) -> dict[str, Any]:
        """The keys that differ from their defaults, ready for YAML or JSON. `from_dict` reads them back."""
        shown: dict[str, Any] = {"schema": self.schema}
        for key in ("task", "method"):
            if getattr(self, key):
                shown[key] = getattr(self, key)
        shown["ingredients"] = [ingredient.to_dict() for ingredient in self.ingredients]
        for key in ("base", "weighting", "anchor"):
            if getattr(self, key) is not None:
                shown[key] = getattr(self, key).to_dict()
        for key in ("parameters", "missing"):
            if getattr(self, key):
                shown[key] = dict(getattr(self, key))
        if self.layers:
            shown["layers"] = [{"match": rule.match, "weights": list(rule.weights)} for rule in self.layers]
        for key, default in (("dtype", "auto"), ("config", "first"), ("tokenizer", "first"), ("seed", 0)):
            if getattr(self, key) != default:
                shown[key] = getattr(self, key)
        if self.evidence is not None:
            shown["evidence"] = dict(self.evidence)
        return shown

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Parse a loaded YAML or JSON mapping.

        Raises:
            RecipeError: a key is unknown or missing, or a value is of the wrong kind or out of range.
        """
        reject_unknown(as_mapping(data, "recipe"), [f.name for f in fields(cls)], "the recipe")
        return cls(**parse_parts(data))


def parse_parts(data: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a recipe's keys, each read into its own class; `null` means the default."""
    parts = {key: value for key, value in data.items() if value is not None}
    if "ingredients" not in parts:
        raise RecipeError("The recipe has no `ingredients`. List two or more models to mix.")
    entries = as_list(parts["ingredients"], "ingredients")
    parts["ingredients"] = tuple(Ingredient.from_value(e, f"ingredients[{i}]") for i, e in enumerate(entries))
    if "base" in parts:
        parts["base"] = Pin.from_value(parts["base"], "base")
    if "anchor" in parts:
        parts["anchor"] = Anchor.from_value(parts["anchor"], "anchor")
    if "weighting" in parts:
        parts["weighting"] = Weighting.from_value(parts["weighting"])
    if "layers" in parts:
        rules = as_list(parts["layers"], "layers")
        parts["layers"] = tuple(LayerRule.from_value(rule, f"layers[{i}]") for i, rule in enumerate(rules))
    for key in ("parameters", "missing", "evidence"):
        if key in parts:
            parts[key] = dict(as_mapping(parts[key], key))
    return parts


def check_sum(weights: tuple[float, ...] | list[float], what: str) -> None:
    """Refuse weights that do not sum to 1, and say by what to divide them."""
    total = math.fsum(weights)
    if abs(total - 1.0) > WEIGHT_SUM_TOLERANCE:
        divided = f"Divide each by {total:g}" if total > 0 else "Raise them"
        raise RecipeError(
            f"{what[0].upper()}{what[1:]} sum to {total:g}, not to 1.\n"
            "A linear mix of shares that miss 1 scales the whole model, which breaks it.\n"
            f"{divided}, or leave them out and add `weighting: {{rule: uniform}}`."
        )

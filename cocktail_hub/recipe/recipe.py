"""What to mix: a validated, immutable value. Reads no network, imports no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import yaml

from cocktail_hub.errors import RecipeError
from cocktail_hub.methods.registry import METHODS
from cocktail_hub.recipe.reference import COMMIT, Anchor, Ingredient, ModelReference
from cocktail_hub.recipe.task import TASKS
from cocktail_hub.recipe.tensor_rules import KeepRule, LayerRule, MissingPolicy, PerTensor, TokenRule, as_parameters
from cocktail_hub.recipe.validation import (
    as_choice,
    as_flag,
    as_json,
    as_list,
    as_mapping,
    as_text,
    as_whole,
    plain,
    reject_unknown,
)
from cocktail_hub.recipe.weighting import Weighting
from cocktail_hub.version import install_command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from typing_extensions import Self

    from cocktail_hub.methods.contract import Method

SCHEMA = 1
"""Version of the recipe format; a recipe of a later one is refused."""
MOST_STAGES = 32
"""Recipes in a recipe, all levels together, and levels."""
IMPORTED = "imported"
"""Key of a recipe's `evidence`: the tool that it was written for, and what to know about the translation."""
MOST_INGREDIENTS = 1000
"""Ingredients of one recipe."""
LARGEST_MULTIPLE = 65_536
"""Of `pad_to_multiple_of`: more is a typing error."""
TEMPLATES = ("alpaca", "chatml", "llama3")
"""Names of well-known chat templates."""
DTYPES = ("auto", "float32", "float16", "bfloat16", "float64")

MISNAMED: Mapping[str, str] = {
    "models": "List the models under `ingredients`.",
    "model": "List the models under `ingredients`.",
    "merge_method": "The key is `method`.",
    "base_model": "The key is `base`.",
}
"""Other tools' names for keys of a recipe -> what to write."""
_ELSEWHERE: Mapping[str, str] = {
    **{f.name: "It belongs under `weighting`." for f in fields(Weighting)},
    **{name: "It belongs under `parameters`." for spec in METHODS.values() for name in spec.parameters},
    "revision": "It belongs beside the `model` that it is a revision of.",
    "weight": "It belongs beside the `model` that it applies to.",
    "weights": "Give each ingredient its own `weight`.",
    **MISNAMED,
}
"""Keys that people write at the top of a recipe -> where they belong."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A mix. Every instance is valid: there is no separate `validate()` to forget.

    Raises:
        RecipeError: a value is of the wrong kind, out of range, or does not fit the others.
    """

    ingredients: tuple[Ingredient, ...]
    """As many as the method takes, in the order in which they are added up."""
    schema: int = SCHEMA
    """Version of this format."""
    task: str | None = None
    """Hub task of the mix, e.g. `text-generation`. `None`: the ingredients' architecture says."""
    method: str = "linear"
    """Merge method (docs/methods.md)."""
    base: ModelReference | None = None
    """The model that task vectors are taken from, for the methods that use them."""
    weighting: Weighting | None = None
    """How to compute the weights, where the ingredients give none."""
    anchor: Anchor | None = None
    """LM-Cocktail's many-model mix: `share * anchor + (1 - share) * sum of the others`."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Parameters of the method; each number may differ from tensor to tensor."""
    normalize: bool = False
    """Divide the weights by their sum, and so those of each rule in `layers`."""
    layers: tuple[LayerRule, ...] = ()
    """Other weights for some tensors."""
    keep: tuple[KeepRule, ...] = ()
    """Tensors that are one model's as they are; the first rule that matches wins."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """Pattern of tensor names -> what to do when some ingredients lack them (docs/checkpoints.md). Longest first."""
    dtype: str = "auto"
    """Type of the result's floating-point tensors; `auto`: the first ingredient's."""
    config: str = "first"
    """`first`, or the ingredient that config.json and generation_config.json come from."""
    tokenizer: str = "first"
    """Whose tokens the mix has, with processor and chat template: `first`, `base`, an ingredient, or `union`: the first
    ingredient's, and then what others have."""
    tokens: Mapping[str, TokenRule] = field(default_factory=dict)
    """Token -> the model that its row comes from."""
    pad_to_multiple_of: int = 1
    """The vocabulary gets rows until their number is a multiple of this."""
    chat_template: str = "auto"
    """`auto`: that of the tokenizer; or the model that it comes from, the name of a well-known one, or its text."""
    seed: int = 0
    """Seed of methods that draw at random."""
    evidence: Mapping[str, Any] | None = None
    """What computed weights came from (losses, examples, temperature), and the recipes that were inlined."""

    def __post_init__(self) -> None:
        for key, read in _READERS.items():
            value = getattr(self, key)
            if value is not None or key not in _OPTIONAL:
                object.__setattr__(self, key, read(value, key))
        if self.method == "passthrough" and not self.weighting and all(i.weight is None for i in self.ingredients):
            object.__setattr__(self, "ingredients", tuple(replace(i, weight=1.0) for i in self.ingredients))
        self._check_nested()
        self._check_kinds()
        self._check_method()
        self._check_duplicates()
        self._check_weights()
        self._check_layers()

    @property
    def code(self) -> dict[str, str]:
        """Repo whose Python code the mix runs -> its commit, according to the evidence."""
        found = (self.evidence or {}).get("code")
        pairs = found.items() if isinstance(found, Mapping) else ()
        return {str(name): str(commit) for name, commit in pairs if COMMIT.fullmatch(str(commit))}

    @property
    def materials(self) -> dict[str, Mapping[str, str | None]]:
        """`org/name@commit` -> file -> sha256 of what was mixed, according to the evidence; `None`: not compared."""
        found = (self.evidence or {}).get("materials")
        pairs = found.items() if isinstance(found, Mapping) else ()
        return {str(name): files for name, files in pairs if isinstance(files, Mapping)}

    @property
    def weights(self) -> tuple[Any, ...] | None:
        """The ingredients' weights in recipe order, or `None` when they are still to be computed."""
        given = [i.weight for i in self.ingredients if i.weight is not None]
        return tuple(given) if len(given) == len(self.ingredients) else None

    @property
    def stacked(self) -> bool:
        """Whether the ingredients' layers follow on each other."""
        return self.method == "passthrough" and len(self.ingredients) > 1

    @property
    def import_notes(self) -> tuple[str, ...]:
        """What to know where the recipe was translated from another tool's configuration."""
        imported = (self.evidence or {}).get(IMPORTED)
        notes = imported.get("notes") if isinstance(imported, Mapping) else None
        return tuple(map(str, notes)) if isinstance(notes, tuple) else ()

    @property
    def varies(self) -> bool:
        """Whether weights differ from tensor to tensor."""
        return bool(self.layers) or any(isinstance(i.weight, PerTensor) for i in self.ingredients)

    @property
    def rules(self) -> dict[str, PerTensor]:
        """Key -> number that differs from tensor to tensor."""
        found: dict[str, Any] = {f"parameters.{name}": value for name, value in self.parameters.items()}
        for i in self.ingredients:
            found |= {f"weight of '{i.label}'": i.weight}
            found |= {f"parameters.{name} of '{i.label}'": value for name, value in i.parameters.items()}
        return {key: value for key, value in found.items() if isinstance(value, PerTensor)}

    @property
    def kept(self) -> list[tuple[str, int]]:
        """Pattern of `keep` -> which model the tensors are of: its index in base and ingredients, in this order."""
        models = [reference.model for reference in (*((self.base,) if self.base else ()), *self.ingredients)]
        named = {"base": 0, "first": 1 if self.base else 0, None: 0}
        return [
            (rule.match, named[rule.model] if rule.model in named else models.index(rule.model)) for rule in self.keep
        ]

    @property
    def every_parameter(self) -> dict[str, Any]:
        """Every parameter of the method, the recipe's or its default; those of single ingredients are not in it."""
        rules = {name: value for name, value in self.parameters.items() if isinstance(value, PerTensor)}
        return self.spec.with_defaults({n: v for n, v in self.parameters.items() if n not in rules}) | rules

    @property
    def own_template(self) -> bool:
        """Whether the chat template is no model's: a well-known one, or a text, which in Jinja has braces."""
        return self.chat_template in TEMPLATES or "{" in self.chat_template

    @property
    def spec(self) -> Method:
        """The merge method."""
        return METHODS[self.method]

    @property
    def references(self) -> tuple[ModelReference, ...]:
        """Every model that goes in: ingredients, then base, then anchor."""
        return (*self.ingredients, *(reference for reference in (self.base, self.anchor) if reference))

    @property
    def all_references(self) -> tuple[ModelReference, ...]:
        """The same, each adapter followed by the model that it adapts, and the models of a recipe in its place."""
        return tuple(inner for reference in self.references for inner in _with_base(reference))

    @property
    def common_base(self) -> ModelReference | None:
        """The base, or the one model that all adapters adapt; `None` if there is no such model."""
        adapted = dict.fromkeys(ingredient.base for ingredient in self.ingredients if ingredient.base is not None)
        return self.base or (next(iter(adapted)) if len(adapted) == 1 else None)

    def _check_nested(self) -> None:
        inner = [reference for reference in self.references if reference.recipe is not None]
        if inner and _stages(self.references) > MOST_STAGES:
            raise RecipeError(
                f"The recipe contains more than {MOST_STAGES} others.\nEach is mixed by itself first.\n"
                "Mix some of them to folders (`cocktail mix -o`), and name these."
            )
        for reference in inner:
            try:
                Recipe.from_dict(reference.recipe or {})
            except RecipeError as error:
                raise RecipeError(f"In the recipe of '{reference.model}': {error}") from error
            if any(reference.model == r.model and reference.recipe != r.recipe for r in self.references):
                raise RecipeError(
                    f"Two models are called '{reference.model}', and one of them is a recipe.\n"
                    "It would not be clear which one is meant.\n"
                    "Give the recipe another name: `{model: NAME, recipe: ...}`."
                )

    def _check_kinds(self) -> None:
        if as_whole(self.schema, "schema", low=0) != SCHEMA:
            raise RecipeError(
                f"`schema` is {self.schema}, but this version of cocktail_hub reads schema {SCHEMA}.\n"
                "A recipe of another format could mean something else.\nInstall a newer checkout of "
                f"cocktail_hub: {install_command()}"
            )
        if self.task is not None:
            as_choice(self.task, "task", TASKS)
        as_choice(self.method, "method", METHODS)
        as_choice(self.dtype, "dtype", DTYPES)
        as_whole(self.seed, "seed", low=0)
        as_flag(self.normalize, "normalize")
        models = ["first", *dict.fromkeys(reference.model for reference in self.references)]
        based = ["base"] if self.base else []
        as_choice(self.config, "config", models)
        as_choice(self.tokenizer, "tokenizer", ["union", *based, *models])
        for token, token_rule in self.tokens.items():
            as_choice(token_rule.source, f"tokens.{token}.source", ["zero", *based, *models])
        if not as_whole(self.pad_to_multiple_of, "pad_to_multiple_of", low=1) <= LARGEST_MULTIPLE:
            raise RecipeError(
                f"`pad_to_multiple_of` must be at most {LARGEST_MULTIPLE}, got {self.pad_to_multiple_of}."
            )
        as_text(self.chat_template, "chat_template")
        if not self.own_template:
            as_choice(self.chat_template, "chat_template", ["auto", *TEMPLATES, *based, *models])
        for index, rule in enumerate(self.keep):
            if rule.model is not None:
                as_choice(rule.model, f"keep[{index}].model", based + models)

    def _check_method(self) -> None:
        if self.spec.base == "needed" and self.base is None:
            raise RecipeError(
                f"Method '{self.method}' needs a `base`.\n"
                "It combines task vectors: the differences between the ingredients and that model.\n"
                "Give the model that the ingredients were fine-tuned from: `base: org/name`."
            )
        if self.base is not None and self.spec.base == "none":
            raise RecipeError(
                f"Method '{self.method}' does not use a `base`, so it would be ignored.\n"
                "The mix would not be what the recipe seems to say.\n"
                "Remove it, list it as an ingredient, or choose a method on task vectors such as 'task_arithmetic'."
            )
        count = len(self.ingredients) + (self.anchor is not None)
        if self.stacked and (
            self.varies
            or not all(i.layer_range for i in self.ingredients)
            or {i.weight for i in self.ingredients} != {1.0}
        ):
            raise RecipeError(
                "'passthrough' of several `ingredients` stacks their layers, so each needs a `layer_range`, and no "
                "other weight than 1.\nWithout it, the order of the layers would not be clear.\n"
                "Write, e.g., `{model: org/name, layer_range: [0, 16]}`; `scale` under `parameters` makes it stronger."
            )
        if not self.spec.fewest <= count <= (self.spec.most or count) and not self.stacked:
            raise RecipeError(
                f"Method '{self.method}' takes {self.spec.accepted_ingredients} `ingredients`, got {count}.\n"
                + (
                    "With fewer there is nothing to mix.\nAdd an ingredient, or load the model itself."
                    if count < self.spec.fewest
                    else "It has no definition for more.\nRemove some, or choose another method."
                )
            )
        if self.anchor is not None and self.method != "linear":
            raise RecipeError(
                f"`anchor` goes with method 'linear', got '{self.method}'.\n"
                "Its share is a part of a weighted average, which this method does not compute.\n"
                "Remove it, or list the model as an ingredient or as the `base`."
            )
        self._check_parameters(self.parameters)
        for ingredient in self.ingredients:
            self._check_parameters(ingredient.parameters)
            for name in ingredient.parameters:
                if not self.spec.parameters[name].per_model:
                    raise RecipeError(
                        f"'{ingredient.label}' has its own `{name}`, but method '{self.method}' has one for all.\n"
                        "It would be ignored.\nGive it under `parameters` of the recipe."
                    )

    def _check_parameters(self, parameters: Mapping[str, Any]) -> None:
        for name, value in parameters.items():
            for number in value.numbers if isinstance(value, PerTensor) else [value]:
                self.spec.check_parameters({name: number})

    def _check_duplicates(self) -> None:
        seen = [(i.model, i.revision, i.digest, i.base, i.layer_range, i.recipe) for i in self.ingredients]
        if all(key == seen[0] for key in seen) or self.stacked:
            return  # a model mixed with itself is itself: a harmless first try, and LM_Cocktail's own example
        for index, key in enumerate(seen):
            if key in seen[:index]:
                raise RecipeError(
                    f"Ingredient '{self.ingredients[index].label}' is listed twice (positions {seen.index(key)} and "
                    f"{index}).\nThat is usually a mistake, and its weight would be the sum of both.\n"
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
                "A mix needs to know how much of each model to take.\n"
                "Give every ingredient a `weight`, or add `weighting: {rule: uniform}` for equal weights."
            )
        if given and self.weighting is not None:
            raise RecipeError(
                "The ingredients have a `weight`, and there is a `weighting` that computes them.\n"
                "It is not clear which of the two to use.\n"
                "Remove the weights to have them computed, or remove `weighting`."
            )
        if (
            given and not self.stacked and not any(isinstance(i.weight, PerTensor) for i in given)
        ):  # those are checked tensor by tensor
            self.spec.used_weights([i.weight or 0.0 for i in given], "the weights", normalize=self.normalize)

    def _check_layers(self) -> None:
        for rule in self.layers:
            if len(rule.weights) != len(self.ingredients):
                raise RecipeError(
                    f"`layers` rule '{rule.match}' has {len(rule.weights)} weights for {len(self.ingredients)} "
                    "ingredients.\nGive one weight per ingredient, in recipe order."
                )
            what = f"the weights of `layers` rule '{rule.match}'"
            self.spec.used_weights(rule.weights, what, normalize=self.normalize)
        if self.varies and self.anchor is not None:
            what = "`layers`" if self.layers else "Weights per tensor"
            raise RecipeError(
                f"{what} and `anchor` cannot be combined: a rule has no weight for the anchor.\n"
                "List the anchor as an ingredient with its own weight."
            )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as JSON values: read-only mappings cannot be pickled."""
        return type(self).from_dict, (self.to_dict(),)

    def to_dict(self) -> dict[str, Any]:
        """The keys that differ from their defaults, ready for YAML or JSON. `from_dict` reads them back."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        optional = {key: values[key] for key in _ORDER if values[key] is not None}
        usual = {f.name: f.default for f in fields(self)}
        shown = {
            key: _shown(value)
            for key, value in optional.items()
            if key in _ALWAYS or bool(value if usual[key] is MISSING else value != usual[key])
        }
        return {"schema": self.schema} | shown

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Parse a loaded YAML or JSON mapping; `null` means the default.

        Raises:
            RecipeError: a key is unknown or missing, or a value is of the wrong kind or out of range.
        """
        reject_unknown(as_mapping(data, "recipe"), [f.name for f in fields(cls)], "the recipe", _ELSEWHERE)
        given = {key: value for key, value in data.items() if value is not None}
        if "ingredients" not in given:
            raise RecipeError("The recipe has no `ingredients`. List the models to mix.")
        if isinstance(given["ingredients"], (list, tuple)) and len(given["ingredients"]) > MOST_INGREDIENTS:
            raise RecipeError(
                f"The recipe has {len(given['ingredients']):,} `ingredients`; at most {MOST_INGREDIENTS:,} are mixed.\n"
                "Each is checked, and kept open while the mix is made.\nMix them in groups, then mix the mixes."
            )
        return cls(**given)


def _with_base(reference: ModelReference) -> Iterator[ModelReference]:
    if reference.recipe is not None:
        yield from Recipe.from_dict(reference.recipe).all_references
        return
    yield reference
    if reference.base is not None:
        yield from _with_base(reference.base)


def _stages(references: Iterable[ModelReference], depth: int = 1) -> int:
    """Count the recipes in models; those nested too deeply count as too many."""
    found = 0
    for reference in references:
        if reference.recipe is not None:
            inside = [*(reference.recipe.get("ingredients") or ()), reference.recipe.get("base")]
            recipes = [value.get("recipe") for value in inside if isinstance(value, Mapping)]
            nested = [ModelReference(model="recipe", recipe=r) for r in recipes if isinstance(r, Mapping)]
            found += MOST_STAGES if depth > MOST_STAGES else 1 + _stages(nested, depth + 1)
    return found


def _each(read: Callable[[Any, str], Any]) -> Callable[[Any, str], tuple[Any, ...]]:
    """Return what reads a list whose entries `read` reads."""
    return lambda value, key: tuple(read(entry, f"{key}[{i}]") for i, entry in enumerate(as_list(value, key)))


def _read_mapping(value: Any, key: str) -> Any:
    return as_json(as_mapping(value, key), key)


def _read_missing(value: Any, key: str) -> Any:
    """Longest pattern first: JSON objects have no order that survives, so the order they are tried in is fixed."""
    missing = _read_mapping(value, key)
    if missing:
        MissingPolicy(missing)
    return MappingProxyType(dict(sorted(missing.items(), key=lambda item: (-len(item[0]), item[0]))))


_READERS: Mapping[str, Callable[[Any, str], Any]] = {
    "ingredients": _each(Ingredient.from_value),
    "base": ModelReference.from_value,
    "weighting": lambda value, _: Weighting.from_value(value),
    "anchor": Anchor.from_value,
    "parameters": as_parameters,
    "layers": _each(LayerRule.from_value),
    "keep": _each(KeepRule.from_value),
    "missing": _read_missing,
    "tokens": lambda value, key: MappingProxyType(
        {
            token: TokenRule.from_value(rule, f"{key}.{token}")
            for token, rule in sorted(as_mapping(value, key).items(), key=lambda item: as_text(item[0], key))
        }
    ),
    "evidence": _read_mapping,
}
"""Key -> what makes its value, from a mapping or from a value of its own class."""
_OPTIONAL = frozenset({"base", "weighting", "anchor", "evidence"})
_ORDER = (
    *(
        "task",
        "method",
        "ingredients",
        "base",
        "normalize",
        "weighting",
        "anchor",
        "parameters",
        "layers",
        "keep",
        "missing",
    ),
    *("dtype", "config", "tokenizer", "tokens", "pad_to_multiple_of", "chat_template", "seed", "evidence"),
)
"""The order in which people read a recipe."""
_ALWAYS = frozenset({"method", "evidence"})
"""Keys that are written even where they say nothing new."""


def _shown(value: Any) -> Any:
    if isinstance(value, (ModelReference, Weighting, LayerRule)):
        return value.to_dict()
    return [_shown(inner) for inner in value] if isinstance(value, tuple) else plain(value)


MERGE_FORMAT = 5
"""Raised whenever the same recipe would give different bytes. It is part of the keys by which mixes and computed
weights are cached, so both are then made again."""
_WITHOUT_EFFECT = ("task", "evidence", "base", "ingredients")
"""Keys that do not determine the bytes, or enter in another form: models by commit or digest."""


@dataclass(frozen=True, kw_only=True)
class ResolvedRecipe(Recipe):
    """A recipe with a commit or content digest for every model and a number for every weight.

    Raises:
        RecipeError: a model is not pinned, or a weight is missing.
    """

    def __post_init__(self) -> None:
        Recipe.__post_init__(self)
        for reference in self.all_references:
            if not reference.pinned:
                raise RecipeError(
                    f"'{reference.label}' is not pinned to a commit or a content digest, so the recipe is not resolved."
                )
        if self.weights is None or self.anchor is not None:
            raise RecipeError("The weights are still to be computed, so the recipe is not resolved.")

    @property
    def identity(self) -> dict[str, Any]:
        """What determines the bytes of the mix: no names of branches, no paths, no evidence."""
        shared = {key: value for key, value in self.to_dict().items() if key not in _WITHOUT_EFFECT}
        shared["config"] = self.donor("config")
        shared["tokenizer"] = "union" if self.tokenizer == "union" else self.donor("tokenizer")
        if self.tokens:
            shared["tokens"] = {
                token: ["zero" if rule.source == "zero" else self._place(rule.source), rule.token, rule.force]
                for token, rule in self.tokens.items()
            }
        if self.chat_template in ("first", "base", *(reference.model for reference in self.references)):
            shared["chat_template"] = self._place(self.chat_template)
        if self.keep:
            shared["keep"] = self.kept
        known, every = self.spec.parameters, plain(self.every_parameter)
        # words at their default are left out: a method may gain an option, and its mixes keep their digest
        shared["parameters"] = {n: v for n, v in every.items() if not known[n].choices or v != known[n].default}
        ingredients = [
            _identity(i) | {"weight": plain(i.weight)} | ({"parameters": plain(i.parameters)} if i.parameters else {})
            for i in self.ingredients
        ]
        base = {"base": _identity(self.base)} if self.base else {}
        return shared | {"merge_format": MERGE_FORMAT, "ingredients": ingredients} | base

    @property
    def digest(self) -> str:
        """Sha256 of the identity as canonical JSON: 64 hex digits. Same digest, same bytes."""
        return hashlib.sha256(canonical_json(self.identity).encode()).hexdigest()

    def donor(self, key: str) -> int:
        """Index of the ingredient that gives `config` or `tokenizer`; -1 is the base."""
        return self._place(getattr(self, key))

    def _place(self, name: str) -> int:
        if name == "first":
            return 0
        models = [ingredient.model for ingredient in self.ingredients]
        return models.index(name) if name in models else -1

    def to_json(self) -> str:
        """The whole recipe as canonical JSON, evidence and requested revisions included."""
        return canonical_json(self.to_dict())


def _identity(reference: ModelReference) -> dict[str, Any]:
    """What determines the content of a model or of a recipe's mix."""
    if reference.recipe is None:
        return reference.identity()
    cut = {"layer_range": list(reference.layer_range)} if reference.layer_range else {}
    inner = as_resolved(Recipe.from_dict(reference.recipe)).identity
    return {"recipe": inner, "rounded": False} | cut  # once the mix of `inner` was, and other bytes had the same digest


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal texts."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def as_resolved(recipe: Recipe) -> ResolvedRecipe:
    """Return the recipe as a `ResolvedRecipe`, its parameters written out: a later default changes no old mix.

    Raises:
        RecipeError: a model is not pinned, or a weight is missing.
    """
    known = {f.name: getattr(recipe, f.name) for f in fields(recipe)}
    return ResolvedRecipe(**{**known, "parameters": recipe.every_parameter})


def with_given_weights(models: Iterable[Any], weights: Iterable[Any]) -> list[dict[str, Any]]:
    """Return a list of models and one of weights as the `ingredients` of a recipe.

    Raises:
        RecipeError: the lists differ in length.
    """
    listed, numbers = list(models), list(weights)
    if len(listed) != len(numbers):
        raise RecipeError(
            f"`weights` has {len(numbers)} numbers for {len(listed)} `ingredients`. Give one per ingredient."
        )
    named = (dict(model) if isinstance(model, Mapping) else {"model": model} for model in listed)
    return [ingredient | {"weight": weight} for ingredient, weight in zip(named, numbers, strict=True)]


def recipe_from_mapping(data: Mapping[str, Any], *, open_weights: bool = False) -> Recipe:
    """Read a recipe, or the `recipe` inside a `config.json` of a recipe repo.

    Args:
        data: the mapping.
        open_weights: take a recipe that names neither weights nor examples: the caller gives them.

    Raises:
        RecipeError: it is not a valid recipe.
    """
    inner = data if data.get("model_type") != "cocktail" else data.get("recipe")
    if not isinstance(inner, Mapping):
        raise RecipeError(
            "The config has the `model_type` 'cocktail', but no mapping under `recipe`.\n"
            "It does not say what to mix.\nPublish it again with `CocktailConfig.push_to_hub` or `cocktail push`."
        )
    return Recipe.from_dict(_opened(inner) if open_weights else inner)


def _opened(recipe: Mapping[str, Any]) -> Mapping[str, Any]:
    """The recipe, with what it lacks to compute weights and the caller is going to replace."""
    weighting, listed = recipe.get("weighting"), recipe.get("ingredients")
    entries = listed if isinstance(listed, (list, tuple)) else ()
    if any(isinstance(entry, Mapping) and entry.get("weight") is not None for entry in entries):
        return recipe
    if weighting is None:
        return {**recipe, "weighting": {"rule": "uniform"}}
    if isinstance(weighting, Mapping) and weighting.get("rule") != "uniform" and not weighting.get("examples"):
        return {**recipe, "weighting": {**weighting, "examples": "given with the call"}}
    return recipe


_LINE_BREAKS = frozenset("\x85\u2028\u2029")


def dump_yaml(recipe: Recipe) -> str:
    """Write the recipe as YAML for people; `parse_recipe` reads it back."""
    text = json.dumps(recipe.to_dict(), ensure_ascii=False)
    legible = not _LINE_BREAKS.intersection(text)  # PyYAML writes these unescaped, but reads them as line breaks
    return yaml.safe_dump(json.loads(text), sort_keys=False, allow_unicode=legible, width=100)

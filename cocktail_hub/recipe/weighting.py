"""How weights are computed from a few examples, where a recipe does not give them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

from cocktail_hub.errors import RecipeError
from cocktail_hub.recipe.validation import (
    as_choice,
    as_flag,
    as_json,
    as_list,
    as_mapping,
    as_number,
    as_text,
    as_whole,
    plain,
    reject_unknown,
)

SEARCHING = ("greedy", "top_k", "cma")
"""Rules that try mixes, and choose by a metric."""
RULES = ("softmax", "uniform", "ensemble", *SEARCHING)
FALLBACKS = ("uniform", "softmax", "never")
OF_RULES = {
    "prior": ("ensemble",),
    "floor": ("ensemble",),
    "fallback": ("ensemble", *SEARCHING),
    "metric": SEARCHING,
    "k": ("top_k",),
    "evaluations": ("cma",),
}
"""Key -> the only rules that have it."""
LOCATING = ("examples", "revision", "split", "name")
"""Keys that say where the examples are."""
POOLINGS = ("cls", "mean", "max", "lasttoken")
DTYPES = ("float32", "bfloat16", "float16")
Examples = str | tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, kw_only=True)
class Weighting:
    """Weights by each ingredient's loss on a few examples (LM-Cocktail, arXiv:2311.13534).

    Raises:
        RecipeError: a value is of the wrong kind or out of range.
    """

    rule: str = "softmax"
    """`softmax`: `softmax(-loss / temperature)`. `uniform`: equal weights, no examples needed. `ensemble`: the weights
    whose mean of the ingredients' outputs has the lowest loss. `greedy` and `top_k`: soups of the best ingredients;
    `cma`: CMA-ES. These three try mixes and take the best by `metric`."""
    examples: Examples | None = None
    """Path of a JSONL, JSON, CSV or Parquet file, a Hub dataset id, or the examples themselves."""
    revision: str | None = None
    """Branch, tag or commit, when `examples` is a Hub dataset."""
    split: str | None = None
    """File or split of a Hub dataset, e.g. `train`. `None`: the only one there is."""
    name: str | None = None
    """Which task, where a JSON file has several: a mapping of name to list, such as LM-Cocktail's."""
    columns: Mapping[str, str] | None = None
    """Our field name -> the column of the examples that holds it, e.g. `{input: question}`."""
    temperature: float | str = 5.0
    """In nats, above 0; lower favours the best ingredient. `auto`: from the noise of the losses."""
    prior: tuple[float, ...] | None = None
    """Weights above 0 that `ensemble` is drawn to, one per ingredient. `None`: equal."""
    floor: float = 0.01
    """`ensemble` leaves out ingredients with a lower weight."""
    fallback: str = "uniform"
    """What all but `softmax` do with fewer than 20 examples: `uniform` (the prior), `softmax`, or `never` fall back."""
    metric: str | None = None
    """What mixes are chosen by, as `cocktail eval` calls it, e.g. `accuracy@1`. `None`: the first it shows, but for
    language models without options the loss."""
    k: int = 3
    """Ingredients that `top_k` takes."""
    evaluations: int = 100
    """Mixes that `cma` tries, about."""
    seed: int = 0
    """Seed for choosing negatives, and of `cma`."""
    max_length: int | None = None
    """Longest text, in tokens. `None`: the model's own limit."""
    negatives: int | None = None
    """Most negatives used per example. `None`: all of them."""
    batch_size: int | None = None
    """Texts per forward pass; does not change the result. `None`: chosen automatically."""
    chat_template: bool = False
    """Put prompts into the tokenizer's chat template (decoders)."""
    pooling: str | None = None
    """Pooling of an encoder without sentence-transformers modules: cls, mean, max or lasttoken. `None`: cls."""
    normalize: bool | None = None
    """Scale embeddings to length 1, for an encoder without sentence-transformers modules. `None`: yes."""
    dtype: str = "float32"
    """Precision of the forward passes: float32, bfloat16 or float16."""

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if value is not None or f.default is not None:
                object.__setattr__(self, f.name, _READERS[f.name](value, f"weighting.{f.name}"))
        for name, rules in OF_RULES.items():
            if self.rule not in rules and getattr(self, name) != type(self).__dataclass_fields__[name].default:
                raise RecipeError(
                    f"`weighting.{name}` goes with `rule: {'` or `'.join(rules)}`, got `rule: {self.rule}`.\n"
                    "It would be ignored.\nRemove it, or change the rule."
                )
        if self.examples is None and self.rule != "uniform":
            raise RecipeError(
                "`weighting` has no `examples`.\nThe weights are computed from each ingredient's loss on them.\n"
                "Give a path, a Hub dataset id or a list, or use `rule: uniform` for equal weights."
            )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as JSON values: read-only mappings cannot be pickled."""
        return type(self).from_value, (self.to_dict(),)

    def to_dict(self) -> dict[str, Any]:
        """The rule, and the keys that differ from their defaults, ready for JSON."""
        shown = (f for f in fields(self) if f.name == "rule" or getattr(self, f.name) != f.default)
        return {f.name: plain(getattr(self, f.name)) for f in shown}

    @classmethod
    def from_value(cls, value: Any) -> Weighting:
        """Read the `weighting` of a recipe; `null` means the default.

        Raises:
            RecipeError: a key is unknown, or a value is of the wrong kind or out of range.
        """
        if isinstance(value, cls):
            return value
        data = as_mapping(value, "weighting")
        reject_unknown(data, [f.name for f in fields(cls)], "`weighting`")
        return cls(**{key: inner for key, inner in data.items() if inner is not None})


def _read_examples(value: Any, key: str) -> Examples | None:
    if isinstance(value, str):
        return as_text(value, key) if value else None
    listed = as_list(value, key)
    return tuple(as_json(as_mapping(row, f"{key}[{i}]"), f"{key}[{i}]") for i, row in enumerate(listed)) or None


def _read_temperature(value: Any, key: str) -> float | str:
    if value == "auto":
        return "auto"
    try:
        temperature = as_number(value, key)
    except RecipeError as error:
        raise RecipeError(f"{error} Or write auto.") from None
    if temperature <= 0:
        raise RecipeError(f"`{key}` must be above 0 nats, got {value!r}.")
    return temperature


def _read_prior(value: Any, key: str) -> tuple[float, ...]:
    prior = tuple(as_number(weight, f"{key}[{i}]") for i, weight in enumerate(as_list(value, key)))
    if not prior or min(prior) <= 0:
        raise RecipeError(
            f"`{key}` must have weights above 0, got {value!r}.\n"
            "An ingredient whose prior is 0 could never get a weight.\n"
            "Give it a small one, or remove the ingredient."
        )
    return prior


def _read_floor(value: Any, key: str) -> float:
    floor = as_number(value, key, low=0)
    if floor >= 1:
        raise RecipeError(f"`{key}` must be below 1, got {value!r}: no weight is above 1.")
    return floor


_READERS: Mapping[str, Callable[[Any, str], Any]] = {
    **dict.fromkeys(("revision", "split", "name", "metric"), as_text),
    **dict.fromkeys(("chat_template", "normalize"), as_flag),
    **dict.fromkeys(("max_length", "negatives", "batch_size", "k", "evaluations"), partial(as_whole, low=1)),
    "rule": partial(as_choice, choices=RULES),
    "examples": _read_examples,
    "columns": lambda value, key: as_json(
        {k: as_text(v, f"{key}.{k}") for k, v in as_mapping(value, key).items()}, key
    ),
    "temperature": _read_temperature,
    "prior": _read_prior,
    "floor": _read_floor,
    "fallback": partial(as_choice, choices=FALLBACKS),
    "seed": partial(as_whole, low=0),
    "pooling": partial(as_choice, choices=POOLINGS),
    "dtype": partial(as_choice, choices=DTYPES),
}
"""Key -> what reads its value; `None` is the default of the keys that have no other."""

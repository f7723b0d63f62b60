"""How the shares are computed from a few examples, where a recipe does not give them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
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

RULES = ("softmax", "uniform")
POOLINGS = ("cls", "mean", "max", "lasttoken")
DTYPES = ("float32", "bfloat16", "float16")
Examples = str | tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, kw_only=True)
class Weighting:
    """Shares by how well each ingredient does on a few examples (LM-Cocktail, arXiv:2311.13534).

    Raises:
        RecipeError: a value is of the wrong kind or out of range.
    """

    rule: str = "softmax"
    """`softmax`: `softmax(-loss / temperature)`. `uniform`: equal shares, no examples needed."""
    examples: Examples | None = None
    """Path of a JSONL, JSON, CSV or Parquet file, a Hub dataset id, or the examples themselves."""
    revision: str | None = None
    """Branch, tag or commit, when `examples` is a Hub dataset."""
    split: str | None = None
    """File or split of a Hub dataset, e.g. `train`. `None`: the only one there is."""
    columns: Mapping[str, str] | None = None
    """Our field name -> the column of the examples that holds it, e.g. `{input: question}`."""
    temperature: float | str = 5.0
    """In nats, above 0; lower favours the best ingredient. `auto`: from the noise of the losses."""
    seed: int = 0
    """Seed of the choice of negatives."""
    max_length: int | None = None
    """Longest text, in tokens. `None`: what the model takes."""
    negatives: int | None = None
    """How many negatives of each example are used, at most. `None`: all of them."""
    batch_size: int | None = None
    """Texts per forward pass; has no effect on the result. `None`: found by itself."""
    chat_template: bool = False
    """Put prompts into the tokenizer's chat template (decoders)."""
    pooling: str | None = None
    """Pooling of an encoder without sentence-transformers modules: cls, mean, max or lasttoken. `None`: cls."""
    normalize: bool | None = None
    """Scale embeddings to length 1, for an encoder without sentence-transformers modules. `None`: yes."""
    dtype: str = "float32"
    """Precision of the forward passes: float32, bfloat16 or float16."""

    def __post_init__(self) -> None:
        as_choice(self.rule, "weighting.rule", RULES)
        object.__setattr__(self, "examples", self._checked_examples())
        object.__setattr__(self, "temperature", self._checked_temperature())
        for key in ("revision", "split"):
            if getattr(self, key) is not None:
                as_text(getattr(self, key), f"weighting.{key}")
        if self.columns is not None:
            columns = as_mapping(self.columns, "weighting.columns")
            texts = {key: as_text(column, f"weighting.columns.{key}") for key, column in columns.items()}
            object.__setattr__(self, "columns", as_json(texts, "weighting.columns"))
        as_whole(self.seed, "weighting.seed", low=0)
        for key in ("max_length", "negatives", "batch_size"):
            if getattr(self, key) is not None:
                as_whole(getattr(self, key), f"weighting.{key}", low=1)
        as_flag(self.chat_template, "weighting.chat_template")
        if self.pooling is not None:
            as_choice(self.pooling, "weighting.pooling", POOLINGS)
        if self.normalize is not None:
            as_flag(self.normalize, "weighting.normalize")
        as_choice(self.dtype, "weighting.dtype", DTYPES)

    def _checked_examples(self) -> Examples | None:
        if self.examples is None or self.examples in ("", (), []):
            if self.rule == "uniform":
                return None
            raise RecipeError(
                "`weighting` has no `examples`.\nThe shares are computed from how well each ingredient does on them.\n"
                "Give a path, a Hub dataset id or a list, or use `rule: uniform` for equal shares."
            )
        if isinstance(self.examples, str):
            return as_text(self.examples, "weighting.examples")
        listed = enumerate(as_list(self.examples, "weighting.examples"))
        checked = ((as_mapping(example, f"weighting.examples[{i}]"), i) for i, example in listed)
        return tuple(as_json(example, f"weighting.examples[{i}]") for example, i in checked)

    def _checked_temperature(self) -> float | str:
        if self.temperature == "auto":
            return "auto"
        try:
            temperature = as_number(self.temperature, "weighting.temperature")
        except RecipeError as error:
            raise RecipeError(f"{error} Accepted, too: auto.") from None
        if temperature <= 0:
            raise RecipeError(f"`weighting.temperature` must be above 0 nats, got {self.temperature!r}.")
        return temperature

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

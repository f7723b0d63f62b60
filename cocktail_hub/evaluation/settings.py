"""What decides a loss besides the model and the examples."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, get_args

from cocktail_hub.errors import ScoringError, did_you_mean
from cocktail_hub.recipe.task import TASKS as HUB_TASKS
from cocktail_hub.recipe.task import ScoredAs

if TYPE_CHECKING:
    from collections.abc import Mapping

Kind = ScoredAs
"""The four kinds of model that can be scored, by LM-Cocktail's names."""
Pooling = Literal["cls", "mean", "max", "lasttoken"]
Dtype = Literal["float32", "bfloat16", "float16"]

TASKS: Mapping[str, Kind] = MappingProxyType(
    {task.name: task.scored_as for task in HUB_TASKS.values() if task.scored_as}
    | {kind: kind for kind in get_args(Kind)}
    | {"summarization": "encoder-decoder", "translation": "encoder-decoder"}
)
"""Names of tasks, the Hub's and LM-Cocktail's -> the kind of model that does it."""

SCORE_FORMAT = 2
"""Raised whenever the same model, examples and settings would give another loss."""


def kind_of(task: str) -> Kind:
    """The kind of model that does a task.

    Raises:
        ScoringError: models for this task cannot be scored.
    """
    if task not in TASKS:
        raise ScoringError(
            f"Models for the task '{task}' cannot be scored on examples. {did_you_mean(task, TASKS)}\n"
            "A loss is defined for decoders, encoders, rerankers and encoder-decoders only.\n"
            "Give every ingredient a `weight`, or use `rule: uniform`."
        )
    return TASKS[task]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringSettings:
    """How losses are computed. Valid by construction.

    Raises:
        ScoringError: a value is out of range, or the task cannot be scored.
    """

    task: str
    """A key of `TASKS`: the Hub's name (`text-generation`) or LM-Cocktail's (`decoder`)."""
    max_length: int | None = None
    """Longest text in tokens, >= 1. `None`: what the model takes."""
    neg_number: int | None = None
    """Negatives used of each example, at most, >= 1. `None`: all of them."""
    batch_size: int | None = None
    """Texts per forward pass, >= 1. No effect on the loss, except with `compat`. `None`: found by itself."""
    seed: int = 0
    """Chooses among the negatives when there are more than `neg_number`; otherwise no effect. >= 0."""
    chat_template: bool = False
    """Decoders: put the input into the tokenizer's chat template, where it has one."""
    temperature_infonce: float = 0.05
    """Encoders: divisor of the similarities, > 0. The paper's value is 0.05."""
    pooling: Pooling | None = None
    """Encoders without sentence-transformers modules: how token vectors become one. `None`: cls."""
    normalize: bool | None = None
    """Encoders without sentence-transformers modules: scale vectors to length 1. `None`: yes."""
    device: str = "auto"
    """`auto` (a GPU when there is one), or a torch device such as `cpu` or `cuda:1`. No effect beyond rounding."""
    dtype: Dtype = "float32"
    """Precision of the forward passes; losses are always computed in float32."""
    trust_remote_code: bool = False
    """Run model code that comes with an ingredient."""
    compat: bool = False
    """Compute the number that `LM_Cocktail` computes: see `cocktail_hub.evaluation.lm_cocktail`. Needs `batch_size`."""

    def __post_init__(self) -> None:
        kind_of(self.task)
        for key, low in (("max_length", 1), ("neg_number", 1), ("batch_size", 1), ("seed", 0)):
            value = getattr(self, key)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < low):
                raise ScoringError(f"`{key}` must be a whole number >= {low}, got {value!r}.")
        if not self.temperature_infonce > 0:
            raise ScoringError(f"`temperature_infonce` must be > 0, got {self.temperature_infonce!r}.")
        self._check_choice("pooling", (None, *get_args(Pooling)))
        self._check_choice("dtype", get_args(Dtype))
        if self.compat and self.batch_size is None:
            raise ScoringError(
                "`compat` needs a `batch_size`.\n"
                "The original's loss depends on how the examples are batched, so there is no number without one.\n"
                "Its own default is 2."
            )

    def _check_choice(self, key: str, accepted: tuple[str | None, ...]) -> None:
        value = getattr(self, key)
        if value not in accepted:
            hint = did_you_mean(str(value), [str(choice) for choice in accepted if choice])
            raise ScoringError(f"`{key}` is {value!r}, which is not accepted. {hint}")

    @property
    def kind(self) -> Kind:
        """The kind of model that the task needs."""
        return TASKS[self.task]

    def identity(self) -> dict[str, object]:
        """What decides the loss, and nothing else: no device, and a batch size only where it counts."""
        shown = asdict(self)
        shown["task"] = self.kind
        shown["format"] = SCORE_FORMAT
        for key in ("device", "trust_remote_code"):
            del shown[key]
        if not self.compat:
            del shown["batch_size"]
        return shown

    @property
    def digest(self) -> str:
        """Sha256 of the identity as canonical JSON: 64 hex digits."""
        text = json.dumps(self.identity(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

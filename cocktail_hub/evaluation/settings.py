"""What decides a loss besides the model and the examples."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from cocktail_hub.errors import ScoringError, did_you_mean
from cocktail_hub.recipe.task import TASKS as HUB_TASKS
from cocktail_hub.recipe.task import ScoredAs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cocktail_hub.recipe import Weighting

ScoredKind = ScoredAs
"""The kinds of model that have a loss here, named as in LM_Cocktail."""

TASKS: Mapping[str, ScoredKind] = MappingProxyType(
    {task.name: task.scored_as for task in HUB_TASKS.values() if task.scored_as}
)
"""Hub task -> the kind of model that is scored for it."""

SCORE_FORMAT = 2
"""Raised whenever the same model, examples and settings would give another loss."""

_DECISIVE = ("max_length", "negatives", "seed", "chat_template", "pooling", "normalize", "dtype")
"""Keys of `weighting` that a loss depends on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringSettings:
    """How losses are computed: a recipe's `weighting`, and what a recipe cannot say.

    Raises:
        ScoringError: models for the task cannot be scored, or `lm_cocktail` has no batch size.
    """

    task: str
    """Hub task of the mix, a key of `TASKS`."""
    weighting: Weighting
    """Limits, precision and prompts; its rule and temperature do not affect losses."""
    device: str = "auto"
    """`auto` (a GPU if there is one), or a torch device such as `cpu` or `cuda:1`. Changes rounding only."""
    trust_remote_code: bool = False
    """Run model code from the ingredients' repos."""
    outputs: bool = False
    """Keep what the losses are computed from, in `Losses.outputs`."""
    lm_cocktail: bool = False
    """Compute the losses of the original LM_Cocktail (FlagEmbedding at 7ed43d6), which depend on the batch size.

    - decoder: the text is `input + " " + output + eos` even if the input ends in white space; a text that is too long
      loses its end; the loss is the mean over batches of the mean over their tokens.
    - encoder: the first token's vector at length 1, whatever modules the folder has; the first positive of an example
      and its negatives; candidates are the passages of the batch, repeated ones included; mean over batches.
    - encoder-decoder: the mean over batches of the mean over their tokens.
    - reranker: the original has none; nothing changes.

    Where the original fails or is wrong, ours differs: `docs/migrate-from-lm-cocktail.md` lists the cases.
    """

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ScoringError(
                f"Models for the task '{self.task}' cannot be scored on examples. {did_you_mean(self.task, TASKS)}\n"
                "A loss is defined only for decoders, encoders, rerankers and encoder-decoders.\n"
                "Give every ingredient a `weight`, or use `rule: uniform`."
            )
        if self.lm_cocktail and self.weighting.batch_size is None:
            raise ScoringError(
                "The losses of LM_Cocktail need a `batch_size`.\n"
                "They depend on which examples share a batch.\n"
                "Its own default is 2."
            )

    @property
    def kind(self) -> ScoredKind:
        """The kind of model that the task needs."""
        return TASKS[self.task]

    @property
    def loss_batch(self) -> int | None:
        """Examples per batch where the loss depends on it; `None`: it does not."""
        return self.weighting.batch_size if self.lm_cocktail else None

    def identity(self) -> dict[str, Any]:
        """Everything that a loss depends on, and nothing else, as JSON values."""
        own = {"format": SCORE_FORMAT, "task": self.kind, "lm_cocktail": self.lm_cocktail}
        own |= {key: getattr(self.weighting, key) for key in _DECISIVE} | {"batch_size": self.loss_batch}
        return own | {"outputs": True} if self.outputs else own

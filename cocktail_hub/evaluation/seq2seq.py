"""Losses of an encoder-decoder: the cross-entropy of the output's tokens, given the input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import cross_entropy

from cocktail_hub.errors import ScoringError
from cocktail_hub.evaluation.batches import pad_right, run_in_batches
from cocktail_hub.evaluation.losses import Losses
from cocktail_hub.evaluation.model import ScoringRun, token_limit

if TYPE_CHECKING:
    from collections.abc import Sequence

_IGNORED = -100
"""The label that transformers' models skip."""


@dataclass(frozen=True, slots=True)
class _Pair:
    """Token ids of one example."""

    source: tuple[int, ...]
    target: tuple[int, ...]
    """At least one id."""
    truncated: bool


def seq2seq_losses(run: ScoringRun) -> Losses:
    """Per example the mean over the output's tokens, with the special tokens the tokenizer adds, in nats per token.

    Input and output each lose their end if they are longer than the limit; the special tokens stay.

    Raises:
        ScoringError: weights are missing, an output has no token, a loss is not finite, or memory is too small.
        SourceError: the folder cannot be loaded.
    """
    tokenizer, model = run.load_tokenizer(), run.load_model("text2text-generation")
    limit = token_limit(model, tokenizer, run.settings)
    pairs = [_pair(run, tokenizer, row, index, limit) for index, row in enumerate(run.examples.rows)]
    for index, pair in enumerate(pairs):
        run.check_ids((*pair.source, *pair.target), model, index)
    costs = [len(pair.source) + len(pair.target) for pair in pairs]
    sums = run_in_batches(costs, lambda batch: _sums(model, [pairs[index] for index in batch], run.device), run)
    return Losses.of(
        run.name,
        sums,
        [len(pair.target) for pair in pairs],
        batch_size=run.settings.loss_batch,
        truncated=sum(pair.truncated for pair in pairs),
        texts=len(pairs),
        tokens=sum(costs),
        reading="input to output",
    )


def _pair(run: ScoringRun, tokenizer: Any, row: Any, index: int, limit: int | None) -> _Pair:
    whole = tokenizer(row["input"], text_target=row["output"], verbose=False)
    source, target = whole["input_ids"], whole["labels"]
    truncated = limit is not None and max(len(source), len(target)) > limit
    if truncated:
        short = tokenizer(row["input"], text_target=row["output"], truncation=True, max_length=limit, verbose=False)
        source, target = short["input_ids"], short["labels"]
    special = set(tokenizer.all_special_ids)
    if not set(target) - special or (row["input"].strip() and not set(source) - special):
        raise ScoringError(
            f"Example {index} cannot be scored with '{run.name}': no token of its input or output is left"
            f"{f' within {limit} tokens' if truncated else ''}.\n"
            "The loss is the cross-entropy of the output's tokens, given the input's.\n"
            "Raise `max_length`, or remove the example.",
            model=run.name,
            example=index,
        )
    return _Pair(tuple(source), tuple(target), truncated)


@torch.inference_mode()
def _sums(model: Any, pairs: Sequence[_Pair], device: torch.device) -> list[float]:
    """Per pair the sum of the cross-entropies of its labels, in nats. The model itself shifts labels to its inputs."""
    batch = pad_right(
        [{"input_ids": pair.source, "attention_mask": [1] * len(pair.source)} for pair in pairs], {}, device
    )
    labels = pad_right([{"labels": pair.target} for pair in pairs], {"labels": _IGNORED}, device)["labels"]
    logits = model(**batch, labels=labels, use_cache=False).logits
    return [
        float(
            cross_entropy(logits[row].float(), labels[row], ignore_index=_IGNORED, reduction="none")
            .cpu()
            .double()
            .sum()
        )
        for row in range(len(pairs))
    ]

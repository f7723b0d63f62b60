"""Losses of an encoder-decoder: the cross-entropy of the output's tokens, given the input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from cocktail_hub.errors import ScoringError
from cocktail_hub.evaluation.batches import pad_right, run_in_batches
from cocktail_hub.evaluation.losses import Losses
from cocktail_hub.evaluation.model import ScoringRun, token_limit
from cocktail_hub.evaluation.outputs import join_outputs, output_tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cocktail_hub.evaluation.outputs import Outputs

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
    found = run_in_batches(costs, lambda batch: _outputs(model, [pairs[index] for index in batch], run), run)
    return Losses.of(
        run.name,
        [total for total, _ in found],
        [len(pair.target) for pair in pairs],
        batch_size=run.settings.loss_batch,
        truncated=sum(pair.truncated for pair in pairs),
        texts=len(pairs),
        tokens=sum(costs),
        reading="input to output",
        outputs=join_outputs([outputs for _, outputs in found]),
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
def _outputs(model: Any, pairs: Sequence[_Pair], run: ScoringRun) -> list[tuple[float, Outputs]]:
    """Per pair the sum of the cross-entropies of its labels, in nats, and what is kept of their logits.

    The model itself shifts labels to its inputs.
    """
    batch = pad_right(
        [{"input_ids": pair.source, "attention_mask": [1] * len(pair.source)} for pair in pairs], {}, run.device
    )
    labels = pad_right([{"labels": pair.target} for pair in pairs], {"labels": _IGNORED}, run.device)["labels"]
    logits = model(**batch, labels=labels, use_cache=False).logits
    return [
        output_tokens(logits[row, : len(pair.target)], labels[row, : len(pair.target)], keep=run.settings.outputs)
        for row, pair in enumerate(pairs)
    ]

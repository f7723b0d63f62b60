"""Losses of an encoder-decoder: the cross-entropy of the output's tokens, given the input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import cross_entropy

from cocktail_hub.errors import ScoringError
from cocktail_hub.evaluation.batches import Run, pad_right, run_in_batches
from cocktail_hub.evaluation.lm_cocktail import mean_of_batches
from cocktail_hub.evaluation.losses import Losses
from cocktail_hub.evaluation.model import check_ids, device_of, limit_of, load_model, load_tokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cocktail_hub.evaluation.examples import Examples
    from cocktail_hub.evaluation.losses import OnTexts
    from cocktail_hub.evaluation.settings import ScoringSettings

_IGNORED = -100
"""The label that transformers' models skip."""


@dataclass(frozen=True, slots=True)
class _Pair:
    """Token ids of one example."""

    source: tuple[int, ...]
    target: tuple[int, ...]
    """At least one id."""
    truncated: bool


def seq2seq_losses(
    folder: Path,
    examples: Examples,
    settings: ScoringSettings,
    *,
    name: str,
    tokenizer_folder: Path,
    on_texts: OnTexts | None = None,
) -> Losses:
    """Per example the mean over the output's tokens, with the special tokens the tokenizer adds, in nats per token.

    Input and output each lose their end when they are longer than the limit; the special tokens stay.

    Raises:
        ScoringError: weights are missing, an output has no token, a loss is not finite, or memory is too small.
        SourceError: the folder cannot be loaded.
    """
    from transformers import AutoModelForSeq2SeqLM

    tokenizer = load_tokenizer(tokenizer_folder, settings, name=name)
    model = load_model(AutoModelForSeq2SeqLM, folder, settings, name=name)
    limit = limit_of(model, tokenizer, settings)
    pairs = [_pair(tokenizer, row, index, name=name, limit=limit) for index, row in enumerate(examples.rows)]
    for index, pair in enumerate(pairs):
        check_ids((*pair.source, *pair.target), model, name=name, example=index)
    run = Run(name=name, device=device_of(model), batch_size=settings.batch_size, on_texts=on_texts)
    sums = run_in_batches(
        [len(pair.source) + len(pair.target) for pair in pairs],
        lambda batch: _sums(model, [pairs[index] for index in batch]),
        run=run,
    )
    counts = [len(pair.target) for pair in pairs]
    return Losses.of(
        name,
        [total / count for total, count in zip(sums, counts, strict=True)],
        mean=mean_of_batches(sums, counts, settings.batch_size or 1) if settings.compat else None,
        truncated=sum(pair.truncated for pair in pairs),
        texts=len(pairs),
        tokens=sum(len(pair.source) + len(pair.target) for pair in pairs),
        reading="input to output",
    )


def _pair(tokenizer: Any, row: Any, index: int, *, name: str, limit: int | None) -> _Pair:
    whole = tokenizer(row["input"], text_target=row["output"], verbose=False)
    source, target = whole["input_ids"], whole["labels"]
    truncated = limit is not None and max(len(source), len(target)) > limit
    if truncated:
        short = tokenizer(row["input"], text_target=row["output"], truncation=True, max_length=limit, verbose=False)
        source, target = short["input_ids"], short["labels"]
    special = set(tokenizer.all_special_ids)
    if not set(target) - special or (row["input"].strip() and not set(source) - special):
        raise ScoringError(
            f"Example {index} cannot be scored with '{name}': no token of its input or output is left"
            f"{f' within {limit} tokens' if truncated else ''}.\n"
            "The loss is the cross-entropy of the output's tokens, given the input's.\n"
            "Raise `max_length`, or remove the example.",
            model=name,
            example=index,
        )
    return _Pair(tuple(source), tuple(target), truncated)


@torch.inference_mode()
def _sums(model: Any, pairs: Sequence[_Pair]) -> list[float]:
    """Per pair the sum of the cross-entropies of its labels, in nats. The model itself shifts labels to its inputs."""
    device = device_of(model)
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

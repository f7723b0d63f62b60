"""Losses of a decoder: the cross-entropy of the output's tokens, given the input."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import cross_entropy

from cocktail_hub.errors import ScoringError
from cocktail_hub.evaluation.batches import Run, pad_right, run_in_batches
from cocktail_hub.evaluation.lm_cocktail import mean_of_batches
from cocktail_hub.evaluation.losses import Losses
from cocktail_hub.evaluation.model import check_ids, device_of, limit_of, load_model, load_tokenizer
from cocktail_hub.evaluation.prompts import Prompt, check_scorable, cut, joined, templated, tokenized

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cocktail_hub.evaluation.examples import Examples
    from cocktail_hub.evaluation.losses import OnTexts
    from cocktail_hub.evaluation.settings import ScoringSettings

_LOGITS_PER_TOKEN = 32768
"""A vocabulary of this size counts as one unit of memory per token; a bigger one as proportionally more."""


def decoder_losses(
    folder: Path,
    examples: Examples,
    settings: ScoringSettings,
    *,
    name: str,
    tokenizer_folder: Path,
    on_texts: OnTexts | None = None,
) -> Losses:
    """Per example the mean over the output's tokens, EOS included, in nats per token.

    Raises:
        ScoringError: weights are missing, an output has no token, a loss is not finite, or memory is too small.
        SourceError: the folder cannot be loaded.
    """
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(tokenizer_folder, settings, name=name)
    model = load_model(AutoModelForCausalLM, folder, settings, name=name)
    model.config.get_text_config().use_cache = False
    prompts = _prompts(tokenizer, examples, settings, name=name, model=model)
    weight = max(1, model.config.get_text_config().vocab_size // _LOGITS_PER_TOKEN)
    run = Run(name=name, device=device_of(model), batch_size=settings.batch_size, on_texts=on_texts)
    sums = run_in_batches(
        [len(prompt.ids) * weight for prompt in prompts],
        lambda batch: _sums(model, [prompts[index] for index in batch]),
        run=run,
    )
    counts = [len(prompt.ids) - prompt.first for prompt in prompts]
    return Losses.of(
        name,
        [total / count for total, count in zip(sums, counts, strict=True)],
        mean=mean_of_batches(sums, counts, settings.batch_size or 1) if settings.compat else None,
        truncated=sum(prompt.truncated for prompt in prompts),
        texts=len(prompts),
        tokens=sum(len(prompt.ids) for prompt in prompts),
        reading="chat template" if _uses_template(tokenizer, settings) else "plain text",
    )


def _uses_template(tokenizer: Any, settings: ScoringSettings) -> bool:
    return settings.chat_template and bool(tokenizer.chat_template)


def _prompts(tokenizer: Any, examples: Examples, settings: ScoringSettings, *, name: str, model: Any) -> list[Prompt]:
    limit, prompts = limit_of(model, tokenizer, settings), []
    for index, row in enumerate(examples.rows):
        source, target = str(row["input"]), str(row["output"])
        if _uses_template(tokenizer, settings):
            try:
                text = templated(tokenizer, source, target)
            except ValueError as error:
                raise ScoringError(f"Example {index}: {error}.", model=name, example=index) from error
        else:
            text = joined(source, target, compat=settings.compat)
        prompt = cut(tokenized(tokenizer, text), limit, bos=tokenizer.bos_token_id, compat=settings.compat)
        check_scorable(prompt, name=name, example=index, limit=limit)
        check_ids(prompt.ids, model, name=name, example=index)
        prompts.append(prompt)
    return prompts


@torch.inference_mode()
def _sums(model: Any, prompts: Sequence[Prompt]) -> list[float]:
    """Per prompt the sum of the cross-entropies of its output's tokens, in nats.

    Padding is on the right, where no token of a text attends to it and positions count from the text's own start.
    Logits are computed from the first predicted token of the batch on, where the model can.
    """
    batch = pad_right(
        [{"input_ids": prompt.ids, "attention_mask": [1] * len(prompt.ids)} for prompt in prompts], {}, device_of(model)
    )
    length = batch["input_ids"].shape[1]
    keep = length - min(prompt.first for prompt in prompts) + 1
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        logits = model(**batch, logits_to_keep=keep).logits
    else:
        logits = model(**batch).logits
    logits, skipped = logits[:, -keep:], length - keep
    return [
        float(
            cross_entropy(
                logits[row, prompt.first - 1 - skipped : len(prompt.ids) - 1 - skipped].float(),
                batch["input_ids"][row, prompt.first : len(prompt.ids)],
                reduction="none",
            )
            .cpu()  # Apple's MPS has no float64
            .double()
            .sum()
        )
        for row, prompt in enumerate(prompts)
    ]

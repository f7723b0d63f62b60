"""Losses of a decoder: the cross-entropy of the output's tokens, given the input."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch

from cocktail_hub.errors import ScoringError
from cocktail_hub.evaluation.batches import pad_right, run_in_batches
from cocktail_hub.evaluation.losses import Losses
from cocktail_hub.evaluation.model import ScoringRun, token_limit
from cocktail_hub.evaluation.outputs import join_outputs, output_tokens
from cocktail_hub.evaluation.prompts import Prompt, check_scorable, cut, joined, templated, tokenized

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cocktail_hub.evaluation.outputs import Outputs

LOGITS_PER_TOKEN = 32768
"""A vocabulary of this size counts as one unit of memory per token; a larger one as proportionally more."""


def decoder_losses(run: ScoringRun) -> Losses:
    """Per example the mean over the output's tokens, EOS included, in nats per token.

    Raises:
        ScoringError: weights are missing, an output has no token, a loss is not finite, or memory is too small.
        SourceError: the folder cannot be loaded.
    """
    tokenizer, model = run.load_tokenizer(), run.load_model("text-generation")
    config = model.config.get_text_config()
    config.use_cache = False
    chat = run.settings.weighting.chat_template and bool(tokenizer.chat_template)
    prompts = _prompts(run, tokenizer, model, chat=chat)
    cost = max(1, config.vocab_size // LOGITS_PER_TOKEN)
    found = run_in_batches(
        [len(prompt.ids) * cost for prompt in prompts],
        lambda batch: _outputs(model, [prompts[index] for index in batch], run),
        run,
    )
    return Losses.of(
        run.name,
        [total for total, _ in found],
        [len(prompt.ids) - prompt.first for prompt in prompts],
        batch_size=run.settings.loss_batch,
        truncated=sum(prompt.truncated for prompt in prompts),
        texts=len(prompts),
        tokens=sum(len(prompt.ids) for prompt in prompts),
        reading="chat template" if chat else "plain text",
        outputs=join_outputs([outputs for _, outputs in found]),
    )


def _prompts(run: ScoringRun, tokenizer: Any, model: Any, *, chat: bool) -> list[Prompt]:
    limit, prompts = token_limit(model, tokenizer, run.settings), []
    original = run.settings.lm_cocktail
    for index, row in enumerate(run.examples.rows):
        source, target = str(row["input"]), str(row["output"])
        try:
            text = templated(tokenizer, source, target) if chat else joined(source, target, lm_cocktail=original)
        except ValueError as error:
            raise ScoringError(f"Example {index}: {error}.", model=run.name, example=index) from error
        prompt = cut(tokenized(tokenizer, text), limit, bos=tokenizer.bos_token_id, lm_cocktail=original)
        check_scorable(prompt, name=run.name, example=index, limit=limit)
        run.check_ids(prompt.ids, model, index)
        prompts.append(prompt)
    return prompts


@torch.inference_mode()
def _outputs(model: Any, prompts: Sequence[Prompt], run: ScoringRun) -> list[tuple[float, Outputs]]:
    """Per prompt the sum of the cross-entropies of its output's tokens, in nats, and what is kept of their logits."""
    # Padding is on the right, where no token of a text attends to it and positions count from the text's own start.
    batch = pad_right(
        [{"input_ids": prompt.ids, "attention_mask": [1] * len(prompt.ids)} for prompt in prompts], {}, run.device
    )
    length = batch["input_ids"].shape[1]
    # Where the model can, logits are computed only from the first predicted token of the batch on.
    keep = length - min(prompt.first for prompt in prompts) + 1
    bound = {"logits_to_keep": keep} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    logits, skipped = model(**batch, **bound).logits[:, -keep:], length - keep
    return [
        output_tokens(
            logits[row, prompt.first - 1 - skipped : len(prompt.ids) - 1 - skipped],
            batch["input_ids"][row, prompt.first : len(prompt.ids)],
            keep=run.settings.outputs,
        )
        for row, prompt in enumerate(prompts)
    ]

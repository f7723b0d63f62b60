"""Answers that a language model writes: greedy, the same on every run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from cocktail_hub.evaluation.batches import run_in_batches
from cocktail_hub.evaluation.model import token_limit
from cocktail_hub.evaluation.prompts import joined, templated

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cocktail_hub.evaluation.model import ScoringRun


def generate(run: ScoringRun, references: Sequence[Sequence[str]]) -> list[str]:
    """Let a language model answer the input of every example, and return the answers without white space around them.

    The input is put as for the loss, and loses its beginning if it is too long. An answer ends with an end-of-text
    token, after as many tokens as the longest reference has, and, if no reference has a line break, at the first one.
    """
    tokenizer, model = run.load_tokenizer(), run.load_model("")
    longest = max(
        len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) for own in references for text in own
    )
    limit = token_limit(model, tokenizer, run.settings)
    decoder = not model.config.is_encoder_decoder
    room = None if limit is None else max(1, limit - longest if decoder else limit)
    prompts = [_prompt(run, tokenizer, str(row["input"]), decoder=decoder)[-(room or 0) :] for row in run.examples.rows]
    new = continued(run, prompts, longest + 1)
    answers = [str(text).strip() for text in tokenizer.batch_decode(new, skip_special_tokens=True)]
    if any("\n" in text.strip() for own in references for text in own):
        return answers
    return [text.partition("\n")[0].strip() for text in answers]


def continued(
    run: ScoringRun, prompts: Sequence[Sequence[int]], new_tokens: int, *, end: int | None = None
) -> list[list[int]]:
    """The tokens that a model writes after each prompt, greedily.

    Args:
        run: the model; an encoder-decoder reads the prompt.
        prompts: tokens.
        new_tokens: the most of each.
        end: the token that ends a text; `None`: those that the model's own settings name. Others may follow it.
    """
    tokenizer, model = run.load_tokenizer(), run.load_model("")
    own, decoder = model.generation_config, not model.config.is_encoder_decoder
    model.generation_config = _greedy(own, tokenizer, new_tokens)
    if end is not None:
        model.generation_config.eos_token_id = end

    @torch.inference_mode()
    def forward(batch: Sequence[int]) -> list[list[int]]:
        rows = [prompts[index] for index in batch]
        gaps = [max(map(len, rows)) - len(row) for row in rows]  # on the left, so that all rows end where answers begin
        ids = torch.tensor([[*[0] * gap, *row] for gap, row in zip(gaps, rows, strict=True)], device=run.device)
        mask = torch.tensor(
            [[0] * gap + [1] * len(row) for gap, row in zip(gaps, rows, strict=True)], device=run.device
        )
        found = model.generate(input_ids=ids, attention_mask=mask)
        return list((found[:, ids.shape[1] :] if decoder else found).tolist())

    try:
        return run_in_batches([len(ids) + new_tokens for ids in prompts], forward, run)
    finally:
        model.generation_config = own


def _prompt(run: ScoringRun, tokenizer: Any, source: str, *, decoder: bool) -> list[int]:
    """Tokens of an input, up to where the output begins."""
    if not decoder:  # an encoder reads the input with all of its special tokens
        return list(tokenizer(source, verbose=False)["input_ids"])
    chat = run.settings.weighting.chat_template and bool(tokenizer.chat_template)
    text = templated(tokenizer, source, "-") if chat else joined(source, "-")
    ids = list(tokenizer(text.text[: text.boundary], add_special_tokens=text.special, verbose=False)["input_ids"])
    while len(ids) > 1 and ids[-1] == tokenizer.eos_token_id:
        ids.pop()
    return ids or [tokenizer.bos_token_id or tokenizer.eos_token_id or 0]


def _greedy(own: Any, tokenizer: Any, new_tokens: int) -> Any:
    """Settings for greedy decoding with the tokens for begin and end of a model's own settings, and nothing else."""
    from transformers import GenerationConfig

    return GenerationConfig(
        max_new_tokens=new_tokens,
        do_sample=False,
        use_cache=True,
        bos_token_id=own.bos_token_id,
        eos_token_id=tokenizer.eos_token_id if own.eos_token_id is None else own.eos_token_id,
        pad_token_id=tokenizer.pad_token_id or 0,
        decoder_start_token_id=own.decoder_start_token_id,
        forced_bos_token_id=own.forced_bos_token_id,
    )

"""What the mix, its base and its ingredients answer to the same question."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cocktail_hub.errors import ScoringError
from cocktail_hub.evaluation.loading import load_cross_encoder, load_model, load_sentence_transformer
from cocktail_hub.evaluation.settings import TASKS
from cocktail_hub.pipeline.mix import check_and_weigh, prepare
from cocktail_hub.search.evaluate import entrants_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cocktail_hub.merge.options import MixOptions

LONGEST_ANSWER = 80
"""Tokens that a language model writes."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one model says."""

    model: str
    """Its name."""
    text: str = ""
    """What a language model wrote."""
    ranked: tuple[tuple[str, float], ...] = ()
    """Candidates and their scores, best first, of an embedder or a reranker."""


def writes(task: str) -> bool:
    """Whether models for a Hub task write text, and so need no candidates."""
    return TASKS.get(task) in ("decoder", "encoder-decoder")


def answers(recipe: Any, question: str, candidates: Sequence[str], options: MixOptions) -> Iterator[Answer]:
    """Ask the mix of a recipe, its base and its ingredients, one model in memory at a time.

    Raises:
        ScoringError: the models are of a kind that cannot be asked, or there are no candidates to rank.
        CocktailError: the mix cannot be made.
    """
    report, resolved = check_and_weigh(prepare(recipe, options))
    task = resolved.task or report.kind.task
    kind = TASKS.get(task)
    if kind is None:
        raise ScoringError(
            f"Models for the task '{task}' cannot be asked here.\nThis page asks embedders, rerankers and language "
            "models.\nDownload the recipe, and load the mix in Python."
        )
    if not question.strip() or not (writes(task) or candidates):
        raise ScoringError(
            f"There is no {'text to rank' if question.strip() else 'question'}.\nModels are compared by what they "
            "answer.\nWrite a question, and for embedders and rerankers a few texts, one a line."
        )
    with tempfile.TemporaryDirectory(prefix="cocktail-", ignore_cleanup_errors=True) as scratch:
        for entrant in entrants_of(resolved, report, options, Path(scratch)):
            with entrant.folder() as folder:
                if writes(task):
                    yield Answer(model=entrant.name, text=written(folder, entrant.tokenizer[0], question))
                    continue
                if kind == "reranker":
                    reranker = load_cross_encoder(folder)
                    scores = reranker.predict([(question, text) for text in candidates]).reshape(len(candidates), -1)
                    found = [float(row[-1]) for row in scores]
                else:
                    embedder = load_sentence_transformer(folder)
                    similarity = embedder.similarity(
                        embedder.encode_query([question]), embedder.encode_document(list(candidates))
                    )
                    found = [float(score) for score in similarity[0]]
                pairs = sorted(zip(candidates, found, strict=True), key=lambda pair: -pair[1])
                yield Answer(model=entrant.name, ranked=tuple(pairs))


def written(folder: Path, tokenizer_folder: Path, prompt: str) -> str:
    """What a language model writes after a prompt, always its most likely words."""
    import torch
    from transformers import AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(str(tokenizer_folder)), load_model(folder)
    if tokenizer.chat_template:
        turn = [{"role": "user", "content": prompt}]
        tokens = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    else:
        tokens = tokenizer(prompt, return_tensors="pt")
    tokens.pop("token_type_ids", None)
    with torch.inference_mode():
        written = model.generate(**tokens, max_new_tokens=LONGEST_ANSWER, do_sample=False)[0]
    start = 0 if model.config.is_encoder_decoder else tokens["input_ids"].shape[1]
    return str(tokenizer.decode(written[start:], skip_special_tokens=True)).strip()

"""Losses of a reranker: the cross-entropy of a query's positive passage among its negatives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.checkpoint.weight_files import read_weight_files
from cocktail_hub.errors import ScoringError, SourceError
from cocktail_hub.evaluation.batches import Run, run_in_batches
from cocktail_hub.evaluation.embeddings import check_lengths, limit_sequences, uncut_lengths
from cocktail_hub.evaluation.encoder import Passages, contrast, passages_of
from cocktail_hub.evaluation.losses import Losses
from cocktail_hub.evaluation.model import missing_weights, pick_device

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cocktail_hub.evaluation.examples import Examples
    from cocktail_hub.evaluation.losses import OnTexts
    from cocktail_hub.evaluation.settings import ScoringSettings

_MOST_LOGITS = 2


def reranker_losses(
    folder: Path,
    examples: Examples,
    settings: ScoringSettings,
    *,
    name: str,
    tokenizer_folder: Path,  # noqa: ARG001 - a cross-encoder's tokenizer belongs to its modules
    on_texts: OnTexts | None = None,
) -> Losses:
    """Per example the cross-entropy of its positive among its negatives in nats, averaged over its positives.

    The score of a pair is the model's raw logit; with two logits, that of label 1 (relevant) minus that of label 0;
    for a causal-LM reranker what its `LogitScore` module says. No sigmoid, no temperature.

    Raises:
        ScoringError: no or random scoring head, an example without negatives, a loss that is not finite, or too
            little memory.
        SourceError: the folder cannot be loaded.
    """
    rows = [passages_of(row, settings) for row in examples.rows]
    _check_negatives(rows)
    model = _open(folder, settings, name=name)
    pairs = [(row.query, text) for row in rows for text in (*row.positives, *row.negatives)]
    owners = [index for index, row in enumerate(rows) for _ in (*row.positives, *row.negatives)]
    limit = limit_sequences(model, settings)
    lengths = uncut_lengths(model, pairs, prompt=_prompt(model))
    run = Run(name=name, device=pick_device(settings.device), batch_size=_rows(model, settings), on_texts=on_texts)
    truncated = check_lengths(lengths, owners, name=name, limit=limit)
    costs = [min(length, limit or length) for length, _ in lengths]
    scores = run_in_batches(
        costs, lambda batch: _scores(model, [pairs[index] for index in batch], name=name), run=run, owners=owners
    )
    return Losses.of(
        name,
        _losses(rows, scores),
        truncated=truncated,
        texts=len(pairs),
        tokens=sum(costs),
        reading=f"{_logits(model)} logit{'s' * (_logits(model) > 1)}",
    )


def _check_negatives(rows: Sequence[Passages]) -> None:
    for index, row in enumerate(rows):
        if not set(row.negatives) - set(row.positives):
            raise ScoringError(
                f"Example {index} has no negatives.\n"
                "A reranker's loss is the cross-entropy of the positive among them; without any it is always 0.\n"
                "Give it a `neg`, or remove the example.",
                example=index,
            )


def _open(folder: Path, settings: ScoringSettings, *, name: str) -> Any:
    from sentence_transformers import CrossEncoder

    try:
        model = CrossEncoder(
            str(folder),
            device=str(pick_device(settings.device)),
            local_files_only=True,
            trust_remote_code=settings.trust_remote_code,
            model_kwargs={"dtype": getattr(torch, settings.dtype)},
        )
    except (OSError, ValueError, ImportError) as error:
        raise SourceError(f"'{name}' cannot be loaded as a cross-encoder: {error}") from error
    _check_head(model, folder, name=name)
    if model.tokenizer.pad_token_id is None:  # the mask hides padding, so any token will do
        model.tokenizer.pad_token = model.tokenizer.eos_token or model.tokenizer.convert_ids_to_tokens(0)
    return model.eval()


def _prompt(model: Any) -> str | None:
    """What `predict` puts before a pair, where the model says so."""
    return (model.prompts or {}).get(model.default_prompt_name)


def _rows(model: Any, settings: ScoringSettings) -> int | None:
    """Pairs per batch: one for a classifier that does not know the tokenizer's padding, so finds no end of a text."""
    pad = getattr(model.transformers_model.config.get_text_config(), "pad_token_id", None)
    alone = not _words(model) and (pad is None or pad != model.tokenizer.pad_token_id)
    return 1 if alone else settings.batch_size


def _words(model: Any) -> Any | None:
    """The module that names a causal LM's tokens for yes and no; `None` for a classifier."""
    from sentence_transformers.cross_encoder.modules import LogitScore

    return next((module for module in model if isinstance(module, LogitScore)), None)


def _check_head(model: Any, folder: Path, *, name: str) -> None:
    """Refuse a head that was not loaded: sentence-transformers fills it with random numbers and says nothing.

    The head is every tensor outside the backbone; a causal LM's is usually tied to its embeddings, and has two
    different words for yes and no instead.
    """
    words = _words(model)
    if words is not None:
        if words.true_token_id == words.false_token_id:
            raise ScoringError(
                f"'{name}' has no two different tokens for 'yes' and 'no', so that every pair would score 0.\n"
                "A causal-LM reranker's score is the difference of their logits.\n"
                "Save the model with a `LogitScore` module that names its tokens.",
                model=name,
            )
        return
    if _logits(model) > _MOST_LOGITS:
        raise ScoringError(
            f"'{name}' has {_logits(model)} logits per pair, so none of them says how relevant a passage is.\n"
            "A reranker has one logit, or two.\nCheck that the model is a reranker.",
            model=name,
        )
    inner = model.transformers_model
    stored = read_weight_files(LocalFiles(folder, name=name)).specs
    prefix = f"{inner.base_model_prefix}."
    missing = sorted(key for key in inner.state_dict() if not key.startswith(prefix) and key not in stored)
    if missing:
        raise missing_weights(name, missing, type(inner).__name__)


def _logits(model: Any) -> int:
    return int(model.num_labels)


def _scores(model: Any, pairs: Sequence[tuple[str, str]], *, name: str) -> list[float]:
    """Raw scores of one batch of pairs."""
    logits = model.predict(
        list(pairs),
        batch_size=len(pairs),
        activation_fn=torch.nn.Identity(),
        convert_to_tensor=True,
        show_progress_bar=False,
    )
    logits = torch.as_tensor(logits).double().cpu().reshape(len(pairs), -1)
    if logits.shape[1] == _MOST_LOGITS:
        logits = logits[:, 1:] - logits[:, :1]
    if logits.shape[1] != 1:
        raise ScoringError(f"'{name}' gives {logits.shape[1]} scores per pair, but a reranker gives one.", model=name)
    return [float(score) for score in logits[:, 0]]


def _losses(rows: Sequence[Passages], scores: Sequence[float]) -> list[float]:
    losses, start = [], 0
    for index, row in enumerate(rows):
        texts = (*row.positives, *row.negatives)
        known = {place for place, text in enumerate(texts) if text in row.positives}
        part = torch.tensor(scores[start : start + len(texts)], dtype=torch.float64)
        losses.append(contrast(part, range(len(row.positives)), known, index))
        start += len(texts)
    return losses

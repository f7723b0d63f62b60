"""Losses of a reranker: the cross-entropy of a query's positive passage among its negatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.checkpoint.weight_files import read_weight_files
from cocktail_hub.errors import ScoringError
from cocktail_hub.evaluation.batches import run_in_batches
from cocktail_hub.evaluation.embeddings import check_lengths, limit_sequences, uncut_lengths
from cocktail_hub.evaluation.encoder import contrast, passages_of
from cocktail_hub.evaluation.examples import require_negatives
from cocktail_hub.evaluation.loading import load_cross_encoder
from cocktail_hub.evaluation.losses import Losses

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cocktail_hub.evaluation.encoder import Passages
    from cocktail_hub.evaluation.model import ScoringRun

_MOST_LOGITS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredPairs:
    """The scores that a reranker gives the passages of the examples."""

    rows: tuple[Passages, ...]
    """Per example its query, positives and negatives."""
    scores: tuple[torch.Tensor, ...]
    """Per example one score per positive, then one per negative: float64, higher is more relevant."""
    truncated: int
    """Number of pairs that were cut."""
    tokens: int
    """Number of tokens that went through the model."""
    reading: str
    """How a score is read from the model."""

    @property
    def known(self) -> list[set[int]]:
        """Per example the places of its scores whose passage is one of its positives."""
        return [
            {place for place, text in enumerate((*row.positives, *row.negatives)) if text in row.positives}
            for row in self.rows
        ]


def reranker_losses(run: ScoringRun) -> Losses:
    """Per example the cross-entropy of its positive among its negatives in nats, averaged over its positives.

    Raises:
        ScoringError: no or random scoring head, an example without negatives, a loss that is not finite, or too
            little memory.
        SourceError: the folder cannot be loaded.
    """
    found = score_pairs(run)
    losses = [
        contrast(scores, range(len(row.positives)), known, index)
        for index, (row, scores, known) in enumerate(zip(found.rows, found.scores, found.known, strict=True))
    ]
    return Losses.of(
        run.name,
        losses,
        truncated=found.truncated,
        texts=sum(map(len, found.scores)),
        tokens=found.tokens,
        reading=found.reading,
        outputs={"scores": torch.cat(found.scores).numpy()} if run.settings.outputs else {},
    )


def score_pairs(run: ScoringRun) -> ScoredPairs:
    """Score every passage of every example with its query. Raises as `reranker_losses`.

    The score of a pair is the model's raw logit; with two logits, that of label 1 (relevant) minus that of label 0;
    for a causal-LM reranker the output of its `LogitScore` module. No sigmoid, no temperature.
    """
    rows = [passages_of(row, run.settings) for row in run.examples.rows]
    for index, row in enumerate(rows):
        require_negatives(index, row.positives, row.negatives)
    model = run.load_with(load_cross_encoder)
    _check_head(run, model)
    if model.tokenizer.pad_token_id is None:  # the mask hides padding, so any token will do
        model.tokenizer.pad_token = model.tokenizer.eos_token or model.tokenizer.convert_ids_to_tokens(0)
    model.eval()
    texts = [(*row.positives, *row.negatives) for row in rows]
    pairs = [(row.query, text) for row, own in zip(rows, texts, strict=True) for text in own]
    owners = [index for index, own in enumerate(texts) for _ in own]
    limit = limit_sequences(model, run)
    lengths = uncut_lengths(model, pairs, prompt=(model.prompts or {}).get(model.default_prompt_name))
    truncated = check_lengths(lengths, owners, name=run.name, limit=limit)
    costs = [min(length, limit or length) for length, _ in lengths]
    # A classifier that does not know the tokenizer's padding cannot find the end of a padded text.
    pad = getattr(model.transformers_model.config.get_text_config(), "pad_token_id", None)
    alone = _logit_module(model) is None and (pad is None or pad != model.tokenizer.pad_token_id)

    def forward(batch: Sequence[int]) -> list[float]:
        return _scores(model, [pairs[index] for index in batch], 1 if alone else len(batch), run.name)

    scores = torch.tensor(run_in_batches(costs, forward, run, owners=owners), dtype=torch.float64)
    return ScoredPairs(
        rows=tuple(rows),
        scores=torch.split(scores, [*map(len, texts)]),
        truncated=truncated,
        tokens=sum(costs),
        reading=f"{model.num_labels} logit{'s' * (model.num_labels > 1)}",
    )


def _logit_module(model: Any) -> Any | None:
    """The module that names a causal LM's tokens for yes and no; `None` for a classifier."""
    from sentence_transformers.cross_encoder.modules import LogitScore

    return next((module for module in model if isinstance(module, LogitScore)), None)


def _check_head(run: ScoringRun, model: Any) -> None:
    """Refuse a head that was not loaded: sentence-transformers fills it with random numbers without an error.

    The head is every tensor outside the backbone. A causal LM's head is usually tied to its embeddings; it needs two
    different tokens for yes and no instead.
    """
    words = _logit_module(model)
    if words is not None and words.true_token_id == words.false_token_id:
        raise ScoringError(
            f"'{run.name}' has no two different tokens for 'yes' and 'no', so every pair would score 0.\n"
            "A causal-LM reranker's score is the difference of their logits.\n"
            "Save the model with a `LogitScore` module that names its tokens.",
            model=run.name,
        )
    if words is not None:
        return
    if model.num_labels > _MOST_LOGITS:
        raise ScoringError(
            f"'{run.name}' has {model.num_labels} logits per pair, so none of them is the relevance of a passage.\n"
            "A reranker has one logit, or two.\nCheck that the model is a reranker.",
            model=run.name,
        )
    inner = model.transformers_model
    # the model was loaded from these files, whichever they are: weights in memory are links
    stored = read_weight_files(LocalFiles(run.folder, name=run.name, any_link=True)).specs
    prefix = f"{inner.base_model_prefix}."
    run.refuse_missing([key for key in inner.state_dict() if not key.startswith(prefix) and key not in stored], inner)


def _scores(model: Any, pairs: Sequence[tuple[str, str]], batch_size: int, name: str) -> list[float]:
    """Raw scores of pairs."""
    logits = model.predict(
        list(pairs),
        batch_size=batch_size,
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

"""Scores ingredients on examples, one in memory at a time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cocktail_hub.errors import ScoringError
from cocktail_hub.weigh.examples import FIELDS, Examples, check_examples
from cocktail_hub.weigh.losses import Progress
from cocktail_hub.weigh.losses_cache import losses_key

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cocktail_hub.weigh.losses import Losses, OnProgress
    from cocktail_hub.weigh.losses_cache import LossesCache
    from cocktail_hub.weigh.settings import Kind, ScoringSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An ingredient that is to be scored."""

    name: str
    """As it is called in messages and reports."""
    identity: str
    """What pins its weights, e.g. `org/model@<40 hex>` or a content digest; the cache goes by it."""
    folder: Callable[[], Path]
    """Gives its local folder. Called only when the cache does not have the losses: so nothing is fetched for those."""


def score_folder(
    folder: Path,
    examples: Examples | Sequence[Mapping[str, Any]],
    settings: ScoringSettings,
    *,
    name: str,
    tokenizer_folder: Path | None = None,
    on_progress: OnProgress | None = None,
    place: tuple[int, int] = (0, 1),
) -> Losses:
    """Compute the losses of one model; nothing of it is in memory afterwards.

    Args:
        folder: a local checkpoint folder, as transformers or sentence-transformers save it.
        examples: of the task's kind; see `examples.load_examples`.
        settings: how to score.
        name: the ingredient, for messages and reports.
        tokenizer_folder: whose tokenizer reads the texts, so that every ingredient is asked the same. `None`: its
            own. Has no effect on rerankers and on folders with sentence-transformers modules, which bring their own.
        on_progress: called before loading, and after every batch.
        place: index of the ingredient and number of ingredients, for `on_progress`.

    Returns:
        One loss per example in nats; the same, up to rounding, for every batch size.

    Raises:
        ScoringError: the examples cannot be scored with this model; `model` and `example` say which.
        SourceError: the folder cannot be loaded.
    """
    checked = _checked(examples, settings)

    def tell(done: int, total: int) -> None:
        if on_progress is not None:
            on_progress(Progress(name=name, ingredient=place[0], ingredients=place[1], done=done, total=total))

    tell(0, 0)
    score = _scorer(settings.kind)
    from cocktail_hub.weigh.model import free_memory

    try:
        return score(
            Path(folder),
            checked,
            settings,
            name=name,
            tokenizer_folder=Path(tokenizer_folder or folder),
            on_texts=tell,
        )
    finally:
        free_memory()


def score_all(
    candidates: Sequence[Candidate],
    examples: Examples | Sequence[Mapping[str, Any]],
    settings: ScoringSettings,
    *,
    tokenizer: Candidate | None = None,
    cache: LossesCache | None = None,
    on_progress: OnProgress | None = None,
) -> tuple[Losses, ...]:
    """Score ingredients one after the other, taking from the cache what it has.

    Args:
        candidates: in recipe order.
        examples: of the task's kind.
        settings: how to score.
        tokenizer: whose tokenizer reads the texts for all of them. `None`: each its own.
        cache: where losses are kept. `None`: nothing is kept.
        on_progress: called before each ingredient is loaded, after every batch, and once for a cached ingredient.

    Returns:
        The losses, in the order of `candidates`.

    Raises:
        ScoringError: as for `score_folder`.
        SourceError: as for `score_folder`.
    """
    checked = _checked(examples, settings)
    found = []
    for index, candidate in enumerate(candidates):
        place = (index, len(candidates))
        key = losses_key(
            candidate.identity, checked, settings, tokenizer=tokenizer.identity if tokenizer is not None else ""
        )
        losses = cache.get(key, name=candidate.name) if cache is not None else None
        if losses is None:
            losses = score_folder(
                candidate.folder(),
                checked,
                settings,
                name=candidate.name,
                tokenizer_folder=tokenizer.folder() if tokenizer is not None else None,
                on_progress=on_progress,
                place=place,
            )
            if cache is not None:
                cache.put(key, losses)
        elif on_progress is not None:
            on_progress(_finished(losses, place))
        found.append(losses)
    return tuple(found)


def _finished(losses: Losses, place: tuple[int, int]) -> Progress:
    return Progress(name=losses.name, ingredient=place[0], ingredients=place[1], done=losses.texts, total=losses.texts)


def _checked(examples: Examples | Sequence[Mapping[str, Any]], settings: ScoringSettings) -> Examples:
    if not isinstance(examples, Examples):
        return check_examples(examples, settings.kind)
    if FIELDS[examples.kind] != FIELDS[settings.kind]:
        raise ScoringError(
            f"The examples are for a model of kind '{examples.kind}', the task '{settings.task}' needs a "
            f"'{settings.kind}'.\n"
            f"Its examples have the keys {', '.join(FIELDS[settings.kind])}."
        )
    return examples


def _scorer(kind: Kind) -> Callable[..., Losses]:
    """The function that scores a kind. Imported here, so that importing this module loads no torch."""
    if kind == "decoder":
        from cocktail_hub.weigh.decoder import decoder_losses

        return decoder_losses
    if kind == "encoder":
        from cocktail_hub.weigh.encoder import encoder_losses

        return encoder_losses
    if kind == "reranker":
        from cocktail_hub.weigh.reranker import reranker_losses

        return reranker_losses
    from cocktail_hub.weigh.seq2seq import seq2seq_losses

    return seq2seq_losses

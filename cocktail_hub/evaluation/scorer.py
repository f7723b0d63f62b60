"""Scores ingredients on examples, one in memory at a time; or elsewhere, side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from cocktail_hub.errors import ScoringError
from cocktail_hub.evaluation.examples import FIELDS, Examples, check_examples
from cocktail_hub.evaluation.losses import Progress
from cocktail_hub.evaluation.losses_cache import losses_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from cocktail_hub.evaluation.losses import Losses, OnProgress
    from cocktail_hub.evaluation.losses_cache import LossesCache
    from cocktail_hub.evaluation.settings import Kind, ScoringSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An ingredient that is to be scored."""

    name: str
    """As it is called in messages and reports."""
    identity: str
    """What pins its weights, e.g. `org/model@<40 hex>` or a content digest; the cache goes by it."""
    folder: Callable[[], Path]
    """Gives its local folder. Called only when the cache does not have the losses: so nothing is fetched for those."""


@dataclass(frozen=True, slots=True)
class ScoringJob:
    """One ingredient that the cache does not know."""

    candidate: Candidate
    """The ingredient."""
    examples: Examples
    """Of the task's kind."""
    settings: ScoringSettings
    """How to score."""
    tokenizer: Candidate | None
    """Whose tokenizer reads the texts; `None`: its own."""
    place: tuple[int, int]
    """Index of the ingredient and number of ingredients."""

    def reader(self) -> Path | None:
        """Folder of the tokenizer."""
        return self.tokenizer.folder() if self.tokenizer is not None else None

    def score(self, folder: Path, reader: Path | None, on_progress: OnProgress | None = None) -> Losses:
        """Compute the losses (see `score_folder`), given where model and tokenizer lie."""
        return score_folder(
            folder,
            self.examples,
            self.settings,
            name=self.candidate.name,
            tokenizer_folder=reader,
            on_progress=on_progress,
            place=self.place,
        )


Run: TypeAlias = "Callable[[Sequence[ScoringJob], OnProgress | None], Iterable[tuple[int, Losses]]]"
"""Scores ingredients somewhere; gives the position of each with its losses, in any order."""


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
    from cocktail_hub.evaluation.model import free_memory

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
    run: Run | None = None,
) -> tuple[Losses, ...]:
    """Score ingredients, taking from the cache what it has.

    Args:
        candidates: in recipe order.
        examples: of the task's kind.
        settings: how to score.
        tokenizer: whose tokenizer reads the texts for all of them. `None`: each its own.
        cache: where losses are kept. `None`: nothing is kept.
        on_progress: called before each ingredient is loaded, after every batch, and once for a cached ingredient.
        run: where the others are scored; `None`: here, one after the other.

    Returns:
        The losses, in the order of `candidates`.

    Raises:
        ScoringError: as for `score_folder`.
        SourceError: as for `score_folder`.
    """
    checked = _checked(examples, settings)
    reader = tokenizer.identity if tokenizer is not None else ""
    keys = [losses_key(candidate.identity, checked, settings, tokenizer=reader) for candidate in candidates]
    found: dict[int, Losses] = {}
    open_: list[ScoringJob] = []
    for index, (candidate, key) in enumerate(zip(candidates, keys, strict=True)):
        place = (index, len(candidates))
        losses = cache.get(key, name=candidate.name) if cache is not None else None
        if losses is None:
            open_.append(ScoringJob(candidate, checked, settings, tokenizer, place))
            continue
        found[index] = losses
        if on_progress is not None:
            on_progress(_finished(losses, place))
    for position, losses in (run or _one_by_one)(open_, on_progress):
        index = open_[position].place[0]
        found[index] = losses
        if cache is not None:
            cache.put(keys[index], losses)
    return tuple(found[index] for index in range(len(candidates)))


def _one_by_one(jobs: Sequence[ScoringJob], on_progress: OnProgress | None) -> Iterator[tuple[int, Losses]]:
    for position, job in enumerate(jobs):
        yield position, job.score(job.candidate.folder(), job.reader(), on_progress)


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
        from cocktail_hub.evaluation.decoder import decoder_losses

        return decoder_losses
    if kind == "encoder":
        from cocktail_hub.evaluation.encoder import encoder_losses

        return encoder_losses
    if kind == "reranker":
        from cocktail_hub.evaluation.reranker import reranker_losses

        return reranker_losses
    from cocktail_hub.evaluation.seq2seq import seq2seq_losses

    return seq2seq_losses

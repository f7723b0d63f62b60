"""Whose tokens the mix has, and where each model has their rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cocktail_hub.checkpoint.conversion.tokens import TokenRows
from cocktail_hub.compat.vocabulary import SHOWN, alike, splits_otherwise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cocktail_hub.compat.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignedTokens:
    """The vocabulary of a mix whose models have other rows for its tokens."""

    size: int
    """Rows of the mix."""
    rows: tuple[TokenRows, ...]
    """Where each model has them."""
    notes: tuple[str, ...]
    """What is dropped, and what is not mixed from all models: a sentence each."""


def align_tokens(
    vocabularies: Sequence[Vocabulary], rows: Sequence[int | None], target: int, *, chosen: bool
) -> AlignedTokens | None:
    """Find the rows of one model's tokens in all models.

    Args:
        vocabularies: of the models.
        rows: of each model's embeddings, where that is known.
        target: index of the model whose tokens the mix has.
        chosen: whether the recipe names that model. Otherwise models whose learnt tokens differ are most likely not
            related, and their rows are not matched.

    Returns:
        The rows; `None` where all have them in the same place, or where that cannot be told.
    """
    mine, size = vocabularies[target], rows[target]
    known = [count for count in rows if count is not None]
    if size is None or len(known) < len(rows) or not all(vocabulary.tokens for vocabulary in vocabularies):
        return None
    for other in vocabularies:  # ids of sentencepiece are positions in its file, which some tokenizers move
        equal = sum(mine.known.get(number) == token for number, token in other.known.items())
        if (mine.pieces or other.pieces) and mine.text != other.text and 2 * equal < len(other.known):
            return None
    learnt = mine.tokens[0] if mine.tokens else {}
    moved = [number for other in vocabularies for number in _moved(mine, other)]
    if not (moved or len(set(known)) > 1) or (not chosen and any(number in learnt for number in moved)):
        return None
    found, notes = [], []
    texts = set(mine.known.values())
    for other, own in zip(vocabularies, known, strict=True):
        sources = _sources(other, own, mine, texts, size)
        found.append(TokenRows.of(sources, own))
        if other.same(mine):
            continue
        dropped = [token for token in other.known.values() if token not in texts]
        if dropped:
            shown = ", ".join(map(repr, dropped[:SHOWN]))
            notes.append(f"{len(dropped)} tokens of '{other.name}' are left out, because the mix lacks them ({shown}).")
        lacking = [mine.known[row] for row, source in enumerate(sources) if source is None and row in mine.known]
        if lacking:
            shown = ", ".join(map(repr, lacking[:SHOWN]))
            notes.append(f"'{other.name}' lacks {len(lacking)} tokens of the mix ({shown}); others give their rows.")
        notes += splits_otherwise(mine, other, tokenizer=mine.name)
    return AlignedTokens(size=size, rows=tuple(found), notes=tuple(notes))


def _moved(mine: Vocabulary, other: Vocabulary) -> list[int]:
    """Return ids that belong to different tokens."""
    if other.same(mine):
        return []
    theirs = other.known
    pairs = ((number, token, theirs.get(number, token)) for number, token in mine.known.items())
    return [number for number, token, found in pairs if found != token and not alike(token, found)]


def _sources(other: Vocabulary, own: int, mine: Vocabulary, texts: set[str], size: int) -> list[int | None]:
    """Return where a model has the row of each id of the mix, `None` for one that it lacks.

    A row without a token, which pads the matrix, is that at the same place. So is a spare one that one of the two has
    given a name.
    """
    if other.same(mine):
        return [row if row < own else None for row in range(size)]
    ids = {token: number for number, token in other.known.items() if number < own}

    def source(row: int) -> int | None:
        token, found = mine.known.get(row), other.known.get(row)
        if token == found:
            return row if row < own else None
        if token is None or token in ids:
            return ids.get(token) if token else None
        return row if row < own and found is not None and found not in texts and alike(token, found) else None

    return [source(row) for row in range(size)]

"""Whose tokens the mix has, and where each model has their rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cocktail_hub.checkpoint.conversion.tokens import ZERO, TokenRows, stretches_apart
from cocktail_hub.compat.joined_tokenizer import join_tokenizers
from cocktail_hub.compat.vocabulary import SHOWN, alike, splits_otherwise
from cocktail_hub.errors import IncompatibleError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from cocktail_hub.checkpoint.conversion.tokens import RowStretch
    from cocktail_hub.compat.vocabulary import Vocabulary
    from cocktail_hub.recipe.tensor_rules import TokenRule


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignedTokens:
    """The vocabulary of a mix whose models have other rows for its tokens."""

    tokens: Mapping[int, str]
    """Every token of the mix by its id."""
    rows: tuple[TokenRows, ...]
    """Where each model has their rows."""
    apart: tuple[RowStretch, ...]
    """Rows that the method does not make."""
    written: bytes
    """The tokenizer.json of the mix; empty if it is that of a model."""
    notes: tuple[str, ...]
    """What is dropped, and what is not mixed from all models: a sentence each."""


def align_tokens(
    vocabularies: Sequence[Vocabulary],
    rows: Sequence[int | None],
    target: int,
    *,
    choice: str = "first",
    rules: Mapping[str, tuple[int, TokenRule]] | None = None,
    multiple: int = 1,
) -> AlignedTokens | None:
    """Find the rows of the mix's tokens in all models.

    Args:
        vocabularies: of the models.
        rows: of each model's embeddings, where that is known.
        target: index of the model whose tokens the mix has, or whose come first.
        choice: the recipe's `tokenizer`. If it names no model, those whose learnt tokens differ are most likely not
            related, and their rows are not matched. With `union`, tokens that only others have come after the first's.
        rules: token -> index of the model whose row it has, or `ZERO`, and what the recipe says.
        multiple: what the number of rows is to be a multiple of.

    Returns:
        The rows; `None` where all have them in the same place, or where that cannot be told.

    Raises:
        IncompatibleError: the recipe asks for what the files do not allow.
    """
    mine, size = vocabularies[target], rows[target]
    order = [mine, *vocabularies[target + 1 :], *vocabularies[:target]]  # a base comes last
    asked = choice == "union" or rules or multiple > 1
    unknown = [v.name for v, own in zip(vocabularies, rows, strict=True) if own is None or not tells_ids(v, mine)]
    unknown += [v.name for v in order if choice == "union" and not v.path.endswith("tokenizer.json")]
    if unknown and asked:
        raise IncompatibleError(
            f"The rows of '{unknown[0]}' cannot be told by their tokens: it has no tokenizer.json, or no embeddings.\n"
            "`tokenizer: union`, `tokens` and `pad_to_multiple_of` move rows, so each must be known.\n"
            "Save its tokenizer with transformers, which writes tokenizer.json, or remove these keys.",
            model=unknown[0],
        )
    if unknown or size is None:
        return None
    known = [count for count in rows if count is not None]
    tokens, texts = dict(mine.known), set(mine.known.values())
    if choice == "union":
        extra = [token for other in order[1:] for _, token in sorted(other.known.items()) if token not in texts]
        tokens |= enumerate(dict.fromkeys(extra), max(tokens, default=-1) + 1)
        texts |= set(extra)
        size = max(size, max(tokens, default=-1) + 1)
    size += -size % multiple
    learnt = mine.tokens[0] if mine.tokens else {}
    moved = [number for other in vocabularies for number in moved_ids(mine, other)]
    same = not moved and not rules and {size} == set(known) and len(tokens) == len(mine.known)
    if same or (choice == "first" and any(number in learnt for number in moved)):
        return None
    sources = [sources_in(v, own, tokens, texts, size) for v, own in zip(vocabularies, known, strict=True)]
    notes = [
        note
        for other, found in zip(vocabularies, sources, strict=True)
        for note in (
            *_token_notes(other, found, tokens, texts),
            *splits_otherwise(mine, other, tokenizer="" if choice == "union" else mine.name),
        )
    ]
    given = _given_rows(vocabularies, sources, {token: number for number, token in tokens.items()}, rules or {})
    found_rows = tuple(TokenRows.of(found, own) for found, own in zip(sources, known, strict=True))
    return AlignedTokens(
        tokens=tokens,
        rows=found_rows,
        apart=stretches_apart(found_rows, given),
        written=join_tokenizers(order, tokens) if len(tokens) > len(mine.known) else b"",
        notes=tuple(notes),
    )


def tells_ids(one: Vocabulary, other: Vocabulary) -> bool:
    """Tell whether the file has ids: those of sentencepiece are positions, which some tokenizers move."""
    if not one.tokens or ((one.pieces or other.pieces) and not other.tokens):
        return False
    if not (one.pieces or other.pieces) or one.text == other.text:
        return True
    return 2 * sum(other.known.get(number) == token for number, token in one.known.items()) >= len(one.known)


def moved_ids(mine: Vocabulary, other: Vocabulary) -> list[int]:
    """Return ids that belong to different tokens."""
    if other.same(mine):
        return []
    theirs = other.known
    pairs = ((number, token, theirs.get(number, token)) for number, token in mine.known.items())
    return [number for number, token, found in pairs if found != token and not alike(token, found)]


def sources_in(other: Vocabulary, own: int, tokens: Mapping[int, str], texts: set[str], size: int) -> list[int | None]:
    """Return where a model has the row of each id of the mix, `None` for one that it lacks.

    A row without a token, which pads the matrix, is that at the same place. So is a spare one that one of the two has
    given a name.
    """
    theirs = other.known
    ids = {token: number for number, token in theirs.items() if number < own}

    def source(row: int) -> int | None:
        token, found = tokens.get(row), theirs.get(row)
        if token == found:
            return row if row < own else None
        if token is None or token in ids:
            return None if token is None else ids[token]
        return row if row < own and found is not None and found not in texts and alike(token, found) else None

    return [source(row) for row in range(size)]


def _token_notes(
    other: Vocabulary, sources: Sequence[int | None], tokens: Mapping[int, str], texts: set[str]
) -> Iterator[str]:
    """Name the tokens of a model that the mix lacks, and the other way round."""
    if dropped := [token for token in other.known.values() if token not in texts]:
        shown = ", ".join(map(repr, dropped[:SHOWN]))
        yield f"{len(dropped)} tokens of '{other.name}' are left out, because the mix lacks them ({shown})."
    if lacking := [tokens[row] for row, source in enumerate(sources) if source is None and row in tokens]:
        shown = ", ".join(map(repr, lacking[:SHOWN]))
        yield f"'{other.name}' lacks {len(lacking)} tokens of the mix ({shown}); others give their rows."


def _given_rows(
    vocabularies: Sequence[Vocabulary],
    sources: Sequence[list[int | None]],
    ids: Mapping[str, int],
    rules: Mapping[str, tuple[int, TokenRule]],
) -> dict[int, tuple[int, bool]]:
    """Return the rules by the rows of the mix; the row of another token becomes one of the model's `sources`.

    Raises:
        IncompatibleError: a token or its row is not there.
    """
    for token, (model, rule) in rules.items():
        name = "zero" if model == ZERO else vocabularies[model].name
        row, whose = ids.get(token), "the mix"
        if row is not None and model != ZERO:
            whose = "that model"
            if rule.token and (rule.force or sources[model][row] is None):
                named = (number for number, known in vocabularies[model].known.items() if known == rule.token)
                sources[model][row] = next(named, None)
            row = sources[model][row]
        if row is None:
            raise IncompatibleError(
                f"`tokens` takes the row of {token!r} from '{name}', but {whose} has no such token.\n"
                "Its row would be another token's.\n"
                "Correct or remove it, or name a model with this token as its `source`, or under `tokenizer`.",
                model=name,
            )
    return {ids[token]: (model, rule.force) for token, (model, rule) in rules.items()}

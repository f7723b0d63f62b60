"""Why two ingredients do not fit, in the words that the user reads: what, why it matters, how to fix it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cocktail_hub.checkpoint.conversion.name_patterns import common_pattern
from cocktail_hub.errors import IncompatibleError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cocktail_hub.checkpoint.header import TensorSpec


def missing_tensors(model: str, first: str, names: Sequence[str]) -> IncompatibleError:
    """An ingredient lacks tensors that the first one has."""
    return IncompatibleError(
        f"Cannot mix '{model}': it lacks {_some(names)}, which '{first}' has.\n"
        "A tensor that is missing somewhere has no average; a head or pooler would be random there.\n"
        f"Take it from '{first}' alone with `missing: {{{common_pattern(names)!r}: first}}`, or choose another model.",
        model=model,
        tensor=names[0],
    )


def extra_tensors(model: str, first: str, names: Sequence[str]) -> IncompatibleError:
    """An ingredient has tensors that the first one lacks."""
    return IncompatibleError(
        f"Cannot mix '{model}': it has {_some(names)}, which '{first}' lacks.\n"
        f"The mix has the architecture of '{first}', where this tensor has no place, so what it learnt would be lost.\n"
        f"List '{model}' first, or leave it out with `missing: {{{common_pattern(names)!r}: drop}}`.",
        model=model,
        tensor=names[0],
    )


def different_shape(
    model: str, first: str, tensor: str, shapes: tuple[tuple[int, ...], tuple[int, ...]], *, vocabulary: bool
) -> IncompatibleError:
    """A tensor has another shape than in the first ingredient.

    Args:
        model: the ingredient that differs.
        first: the first ingredient.
        tensor: name in the first ingredient.
        shapes: this ingredient's and the first one's.
        vocabulary: whether the first dimension is the vocabulary.
    """
    found, expected = shapes
    what = f"'{tensor}' has shape {list(found)}, but {list(expected)} in '{first}'"
    if vocabulary:
        what = f"its vocabulary has {found[0]} entries, that of '{first}' {expected[0]}: {what}"
    return IncompatibleError(
        f"Cannot mix '{model}': {what}.\n"
        "Tensors are averaged element by element, so every ingredient must share one architecture and vocabulary.\n"
        f"Remove '{model}' from `ingredients`, or choose a revision fine-tuned from the same base as '{first}'.",
        model=model,
        tensor=tensor,
    )


def different_kind(model: str, first: str, tensor: str, found: TensorSpec, expected: TensorSpec) -> IncompatibleError:
    """A tensor is of integers or flags in one ingredient and something else in another."""
    return IncompatibleError(
        f"Cannot mix '{model}': '{tensor}' is {found.dtype}, but {expected.dtype} in '{first}'.\n"
        "Integers and flags are not averaged: they must be the same everywhere.\n"
        f"Remove '{model}' from `ingredients`, or save it again with the type that '{first}' has.",
        model=model,
        tensor=tensor,
    )


def different_values(model: str, kept: str, left_out: str) -> IncompatibleError:
    """Two tensors that the first ingredient ties have different values."""
    return IncompatibleError(
        f"Cannot mix '{model}': '{left_out}' and '{kept}' have different values, but are one tensor in the first "
        "ingredient (`tie_word_embeddings`).\n"
        f"A mix with tied embeddings would lose '{left_out}'.\n"
        f"List '{model}' first, or choose ingredients that all tie their embeddings.",
        model=model,
        tensor=left_out,
    )


def _some(names: Sequence[str]) -> str:
    return f"'{names[0]}'" + (f" and {len(names) - 1} more tensors" if len(names) > 1 else "")

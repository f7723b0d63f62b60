"""Computed weights on disk: a recipe that was scored before needs no models, headers or torch to be weighed again."""

from __future__ import annotations

import hashlib
import json
import math
from typing import TYPE_CHECKING, Any

from cocktail_hub.evaluation.settings import SCORE_FORMAT
from cocktail_hub.recipe import MERGE_FORMAT, canonical_json
from cocktail_hub.storage.cache import Cache
from cocktail_hub.storage.disk import write_atomically

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cocktail_hub.recipe import Recipe

_NAMED_APART = ("ingredients", "base", "anchor", "weighting", "evidence")
_WITHOUT_EFFECT = ("examples", "revision", "split", "batch_size")
"""Keys of `weighting` that locate the examples, whose digest is known, or change nothing."""


def cached_weights(pinned: Recipe, examples: str) -> tuple[tuple[float, ...], dict[str, Any]] | None:
    """The weights of a recipe and their evidence, if they were computed before and the file is not damaged.

    Args:
        pinned: the recipe, every model pinned, its weights open.
        examples: digest of the examples.
    """
    try:
        data = json.loads(weights_file(pinned, examples).read_text(encoding="utf-8"))
        weights, evidence = tuple(map(float, data["weights"])), dict(data["evidence"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    whole = len(weights) == len(pinned.ingredients) and math.isclose(math.fsum(weights), 1.0, abs_tol=1e-9)
    return (weights, evidence) if whole else None


def cache_weights(pinned: Recipe, examples: str, weights: Sequence[float], evidence: dict[str, Any]) -> None:
    """Keep the weights of a recipe and their evidence."""
    data = json.dumps({"weights": list(weights), "evidence": evidence}, indent=1)
    write_atomically(weights_file(pinned, examples), data, sync=False)


def weights_file(pinned: Recipe, examples: str) -> Path:
    """The file for the weights of a recipe, named by everything that decides them."""
    recipe = pinned.to_dict()
    weighting = pinned.weighting.to_dict() if pinned.weighting else {}
    parts = {
        "formats": [SCORE_FORMAT, MERGE_FORMAT],
        "recipe": {key: value for key, value in recipe.items() if key not in _NAMED_APART},
        "ingredients": [ingredient.identity() for ingredient in pinned.ingredients],
        "base": pinned.base.identity() if pinned.base else None,
        "anchor": pinned.anchor.identity() | {"share": pinned.anchor.share} if pinned.anchor else None,
        "weighting": {key: value for key, value in weighting.items() if key not in _WITHOUT_EFFECT},
        "examples": examples,
    }
    return Cache().root / "weights" / f"{hashlib.sha256(canonical_json(parts).encode()).hexdigest()}.json"

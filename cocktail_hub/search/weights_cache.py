"""Shares on disk: a recipe that was scored before is settled without its models, their headers or torch."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cocktail_hub.evaluation.settings import SCORE_FORMAT
from cocktail_hub.recipe import MERGE_FORMAT, canonical_json
from cocktail_hub.storage.cache import Cache
from cocktail_hub.storage.disk import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

    from cocktail_hub.recipe import Recipe

_TOLD_OTHERWISE = ("ingredients", "base", "anchor", "weighting", "evidence")
_WITHOUT_EFFECT = ("examples", "revision", "split", "batch_size")
"""Keys of `weighting` that say where the examples are, of which the digest is known, or change nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedWeights:
    """The place of the shares of one open recipe on one set of examples."""

    path: Path
    """The file, whether it is there or not."""

    def read(self, count: int) -> tuple[tuple[float, ...], dict[str, Any]] | None:
        """The shares and their evidence; `None` when there are none. A damaged file counts as none."""
        try:
            data = json.loads(self.path.read_text(encoding="utf-8"))
            weights, evidence = tuple(map(float, data["weights"])), dict(data["evidence"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        whole = len(weights) == count and math.isclose(math.fsum(weights), 1.0, abs_tol=1e-9)
        return (weights, evidence) if whole else None

    def write(self, weights: tuple[float, ...], evidence: dict[str, Any]) -> None:
        """Keep shares, whole or not at all."""
        data = json.dumps({"weights": weights, "evidence": evidence}, indent=1)
        write_atomically(self.path, data, sync=False)


def cached_weights(pinned: Recipe, examples: str) -> CachedWeights:
    """Name the shares of a recipe by everything that decides them.

    Args:
        pinned: the recipe, every model pinned, its weights open.
        examples: digest of the examples.
    """
    told = pinned.to_dict()
    weighting = pinned.weighting.to_dict() if pinned.weighting else {}
    anchor = pinned.anchor.identity() | {"share": pinned.anchor.share} if pinned.anchor else None
    parts = {
        "formats": [SCORE_FORMAT, MERGE_FORMAT],
        "recipe": {key: value for key, value in told.items() if key not in _TOLD_OTHERWISE},
        "ingredients": [ingredient.identity() for ingredient in pinned.ingredients],
        "base": pinned.base.identity() if pinned.base else None,
        "anchor": anchor,
        "weighting": {key: value for key, value in weighting.items() if key not in _WITHOUT_EFFECT},
        "examples": examples,
    }
    key = hashlib.sha256(canonical_json(parts).encode()).hexdigest()
    return CachedWeights(path=Cache().root / "shares" / f"{key}.json")

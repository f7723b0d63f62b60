"""Shares on disk: a recipe that was scored before is settled without its models, their headers or torch."""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cocktail_hub.cache import Cache
from cocktail_hub.example_files import locate_examples
from cocktail_hub.recipe import MERGE_FORMAT, canonical_json
from cocktail_hub.resolve import with_weights
from cocktail_hub.weigh.rules import uniform_shares
from cocktail_hub.weigh.settings import SCORE_FORMAT

if TYPE_CHECKING:
    from cocktail_hub.hub import HubOptions
    from cocktail_hub.origin import Origin
    from cocktail_hub.recipe import Recipe
    from cocktail_hub.weighing import Weighed

_TOLD_OTHERWISE = ("ingredients", "base", "anchor", "weighting", "evidence")
_WITHOUT_EFFECT = ("examples", "revision", "split", "batch_size")
"""Keys of `weighting` that say where the examples are, of which the digest is known, or change nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharesNote:
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
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=self.path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump({"weights": weights, "evidence": evidence}, file, indent=1)
            Path(beside).replace(self.path)
        except BaseException:
            Path(beside).unlink(missing_ok=True)
            raise


def note_of(pinned: Recipe, examples: str) -> SharesNote:
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
    return SharesNote(path=Cache().root / "shares" / f"{key}.json")


def recall_shares(pinned: Recipe, origin: Origin, hub: HubOptions) -> Recipe:
    """The recipe with its shares, where they are equal by rule or were computed before; else as it is.

    Raises:
        SourceError: the examples cannot be found.
        RecipeError: a recipe from the Hub names a file of this machine.
    """
    if pinned.weights is not None or pinned.weighting is None:
        return pinned
    count = len(pinned.ingredients)
    if pinned.weighting.rule == "uniform":
        return with_weights(pinned, uniform_shares(count), {"rule": "uniform"})
    note = note_of(pinned, locate_examples(pinned.weighting, origin, hub).digest)
    known = note.read(count)
    return pinned if known is None else with_weights(pinned, *known)


def keep_shares(pinned: Recipe, origin: Origin, hub: HubOptions, found: Weighed) -> None:
    """Keep the shares of a recipe for the next time."""
    if pinned.weighting is not None and pinned.weighting.rule != "uniform":
        digest = locate_examples(pinned.weighting, origin, hub).digest
        note_of(pinned, digest).write(found.weights, found.evidence)

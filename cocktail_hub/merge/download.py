"""Download the files of models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cocktail_hub.compat.check import Roots
from cocktail_hub.hub import HubFiles, download_all

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cocktail_hub.compat.check import Model
    from cocktail_hub.resolve.resolve import ResolvedModel

CARD = "README.md"
"""Downloaded, too, so that the card of the mix can name the licence without another request."""


def bytes_to_fetch(models: Sequence[Model]) -> int:
    """Return the bytes that the models need and that are not on this machine yet; a shared base counts once."""
    places = dict.fromkeys(place for model in models for place in (model.located, model.body))
    return sum(place.files.missing(place.model_files.needed) for place in places if isinstance(place.files, HubFiles))


def fetch(models: Sequence[Model], *, code: bool = False) -> list[Roots]:
    """Download the files that a mix needs, several at a time, unless they are on this machine already.

    Args:
        models: whose files.
        code: whether to download the models' own Python files, too.

    Returns:
        The folders of each model's files, in the same order.
    """
    wanted: dict[ResolvedModel, tuple[HubFiles, list[str]]] = {}
    for place in (place for model in models for place in (model.located, model.body)):
        if isinstance(files := place.files, HubFiles):
            paths = [*place.model_files.needed, *(place.model_files.code if code else ())]
            if not files.hub.offline or files.cached(CARD) is not None:  # offline, a mix can do without a card
                paths.append(CARD)
            wanted[place] = (files, [path for path in paths if path in files.sizes])
    folders = dict(zip(wanted, download_all(list(wanted.values())), strict=True))

    def root(place: ResolvedModel) -> Path:
        return folders.get(place) or place.root

    return [
        Roots(body=root(model.body), adapter=root(model.located) if model.adapted else None, home=root(model.home))
        for model in models
    ]

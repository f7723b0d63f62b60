"""Bring the files of models onto this machine."""

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
"""Fetched along, so that the card of the mix can name the licence without asking the Hub again."""


def bytes_to_fetch(models: Sequence[Model]) -> int:
    """Bytes that the models need and that are not on this machine yet; what several adapt counts once."""
    places = dict.fromkeys(place for model in models for place in (model.located, model.body))
    return sum(place.files.missing(place.model_files.needed) for place in places if isinstance(place.files, HubFiles))


def _paths(place: ResolvedModel, *, code: bool) -> tuple[str, ...]:
    return (*place.model_files.needed, *(place.model_files.code if code else ()), CARD)


def _there(files: HubFiles, path: str) -> bool:
    """Whether a file is to be had: offline, a card that is not on this machine is no reason to stop."""
    return path in files.sizes and not (path == CARD and files.hub.offline and files.cached(path) is None)


def fetch(models: Sequence[Model], *, code: bool = False) -> list[Roots]:
    """Bring the files that a mix needs onto this machine, side by side. What is there already is not fetched.

    Args:
        models: whose.
        code: whether to bring their own Python files, too.

    Returns:
        Where the files of each model lie, in the same order.
    """
    places = list(dict.fromkeys(place for model in models for place in (model.located, model.body)))
    wanted = [
        (place, place.files, [path for path in _paths(place, code=code) if _there(place.files, path)])
        for place in places
        if isinstance(place.files, HubFiles)
    ]
    folders = download_all([(files, paths) for _, files, paths in wanted])
    found = {place: folder for (place, _, _), folder in zip(wanted, folders, strict=True)}

    def root(place: ResolvedModel) -> Path:
        return found.get(place) or place.root

    return [
        Roots(
            body=root(model.body),
            adapter=root(model.located) if model.adapted else None,
            home=root(model.home),
        )
        for model in models
    ]

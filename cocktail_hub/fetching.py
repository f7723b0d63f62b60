"""Bring the files of models onto this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cocktail_hub.checking.parts import Roots
from cocktail_hub.hub import HubFiles, download_all
from cocktail_hub.resolve import local_root

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cocktail_hub.checking.parts import Model

CARD = "README.md"
"""Fetched along, so that the card of the mix can name the licence without asking the Hub again."""


def bytes_to_fetch(models: Sequence[Model]) -> int:
    """Bytes that the models need and that are not on this machine yet; what several adapt counts once."""
    wanted: dict[tuple[str, str], tuple[HubFiles, set[str]]] = {}
    for place in (place for model in models for place in (model.located, model.body)):
        if isinstance(place.files, HubFiles):
            files = place.files
            wanted.setdefault((files.model, files.commit), (files, set()))[1].update(place.contents.needed)
    return sum(files.missing(sorted(paths)) for files, paths in wanted.values())


def fetch(models: Sequence[Model]) -> list[Roots]:
    """Bring the files that a mix needs onto this machine, side by side. What is there already is not fetched.

    Returns:
        Where the files of each model lie, in the same order.
    """
    places = list(dict.fromkeys(place for model in models for place in (model.located, model.body)))
    wanted = [
        (place, place.files, [path for path in (*place.contents.needed, CARD) if path in place.files.sizes])
        for place in places
        if isinstance(place.files, HubFiles)
    ]
    folders = download_all([(files, paths) for _, files, paths in wanted])
    found = {place: folder for (place, _, _), folder in zip(wanted, folders, strict=True)}
    return [
        Roots(
            body=found.get(model.body) or local_root(model.body),
            adapter=(found.get(model.located) or local_root(model.located)) if model.adapted else None,
        )
        for model in models
    ]

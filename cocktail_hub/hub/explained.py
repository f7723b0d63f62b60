"""Errors of the Hub's client, told in words."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from cocktail_hub.errors import CocktailError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def explained(model: str, revision: str | None = None) -> Iterator[None]:
    """Turn the client's errors about one repo into errors that say how to fix them.

    Raises:
        SourceError: the Hub said no, could not be reached, or is not to be asked.
        DiskSpaceError: there is no room for the download.
    """
    try:
        yield
    except CocktailError:
        raise
    except Exception as error:
        from cocktail_hub.hub.errors import in_words

        told = in_words(error, model, revision)
        if told is None:
            raise
        raise told from error

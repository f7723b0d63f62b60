"""Version of the package, and how it names itself to the Hub."""

from __future__ import annotations

from importlib.metadata import version

VERSION = version("cocktail-hub")
USER_AGENT = {"cocktail_hub": VERSION}

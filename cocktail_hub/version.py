"""Version of the package, and how it names itself to the Hub."""

from __future__ import annotations

VERSION = "0.1.0"
USER_AGENT = {"cocktail_hub": VERSION}

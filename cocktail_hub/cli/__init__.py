"""The `cocktail` command: it parses, calls the library and prints. Mixing itself is elsewhere."""

from cocktail_hub.cli.main import main

__all__ = ["main"]

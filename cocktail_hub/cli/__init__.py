"""The `cocktail` command: parse, call the library, print. No logic of mixing lives here."""

from cocktail_hub.cli.main import main

__all__ = ["main"]

"""Version of the package, how it names itself to the Hub, and how it is installed."""

from __future__ import annotations

VERSION = "0.1.0"
USER_AGENT = {"cocktail_hub": VERSION}
INSTALLED_FROM = "."
"""What pip installs: a checkout, because no package index has the package. A test holds the docs to it."""


def install_command(extra: str = "") -> str:
    """The command that installs the package, run in a checkout; `extra` names optional dependencies."""
    return f'pip install "{INSTALLED_FROM}[{extra}]"' if extra else f"pip install {INSTALLED_FROM}"

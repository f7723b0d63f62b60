"""A Hugging Face Hub on loopback, for tests, the demo and air-gapped trials."""

from __future__ import annotations

from cocktail_hub.testing.hub import LoopbackHub
from cocktail_hub.testing.server import Request

__all__ = ["LoopbackHub", "Request"]

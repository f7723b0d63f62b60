"""A Hugging Face Hub on loopback, for tests, the demo, and trying things out without a network.

Standard library only: it can start before huggingface_hub is imported, which reads its endpoint at that moment.
"""

from __future__ import annotations

from cocktail_hub.testing.hub import LoopbackHub
from cocktail_hub.testing.site import Request

__all__ = ["LoopbackHub", "Request"]

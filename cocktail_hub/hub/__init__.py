"""The only part that talks to the network: pin, look, download; `hub.publishing` publishes.

The Hub's client is loaded when it is first needed, which takes longer than a mix of small local models.
"""

from cocktail_hub.hub.client import Hub
from cocktail_hub.hub.files import HubFiles, download_all
from cocktail_hub.hub.publication import Publication, Uploaded

__all__ = ["Hub", "HubFiles", "Publication", "Uploaded", "download_all"]

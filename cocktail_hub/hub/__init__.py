"""The only part that talks to the network: pin, look, download; `hub.publishing` publishes.

The Hub's client is loaded when it is first needed, which takes longer than a mix of small local models.
"""

from cocktail_hub.hub.files import HubFiles, download_all, pin
from cocktail_hub.hub.options import HubOptions
from cocktail_hub.hub.publication import Publication, Uploaded

__all__ = ["HubFiles", "HubOptions", "Publication", "Uploaded", "download_all", "pin"]

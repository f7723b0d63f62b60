"""The only room on the network: find commits, read repos, download, publish.

The Hub's client is imported on first use, since that takes longer than a mix of small local models.
"""

from cocktail_hub.hub.client import Hub, HubFiles, download_all
from cocktail_hub.hub.commit import Publication, Uploaded

__all__ = ["Hub", "HubFiles", "Publication", "Uploaded", "download_all"]

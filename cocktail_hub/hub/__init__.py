"""The only part that talks to the network: pin, look, download, publish."""

from cocktail_hub.hub.files import HubFiles, HubOptions, download_all, pin
from cocktail_hub.hub.publishing import Publication, publish_files

__all__ = ["HubFiles", "HubOptions", "Publication", "download_all", "pin", "publish_files"]

"""The only part that talks to the network: pin, look, download, publish."""

from cocktail_hub.hub.files import HubFiles, HubOptions, download_all, pin
from cocktail_hub.hub.publishing import Publication, Uploaded, forget_recipe, make_repo, publish_files, upload_ahead

__all__ = [
    "HubFiles",
    "HubOptions",
    "Publication",
    "Uploaded",
    "download_all",
    "forget_recipe",
    "make_repo",
    "pin",
    "publish_files",
    "upload_ahead",
]

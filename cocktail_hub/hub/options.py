"""How to talk to the Hub."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import huggingface_hub
from huggingface_hub import constants

from cocktail_hub.version import USER_AGENT, VERSION

if TYPE_CHECKING:
    from huggingface_hub import HfApi


@dataclass(frozen=True, kw_only=True)
class HubOptions:
    """How to talk to the Hub; the fields mean what they mean in `from_pretrained`."""

    token: str | bool | None = field(default=None, repr=False)
    """Access token; `None`: the saved one; `False`: none. Never logged, cached or written."""
    local_files_only: bool = False
    """Ask nothing of the Hub; take everything from the local cache."""
    cache_dir: str | Path | None = None
    """Folder of the Hub cache; `None`: `HF_HUB_CACHE`."""
    force_download: bool = False
    """Download files again even if they are cached."""

    @property
    def offline(self) -> bool:
        """Whether the Hub is not to be asked."""
        return self.local_files_only or huggingface_hub.is_offline_mode()

    @property
    def cache_folder(self) -> Path:
        """Where downloads are kept."""
        return Path(self.cache_dir or constants.HF_HUB_CACHE).expanduser()

    @property
    def api(self) -> HfApi:
        """A client that says who is asking."""
        return huggingface_hub.HfApi(
            token=self.token, library_name="cocktail_hub", library_version=VERSION, user_agent=USER_AGENT
        )

"""A progress bar that is not shown: for a few kilobytes."""

from __future__ import annotations

from typing import Any

from huggingface_hub.utils import tqdm


class NoBar(tqdm):
    """The Hub client's bar, disabled."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]

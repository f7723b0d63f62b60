"""Progress bars on stderr that obey `HF_HUB_DISABLE_PROGRESS_BARS`, like those of the Hub's client."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def bar(title: str, total: int | None, *, unit: str = "B", delay: float = 0.0) -> Iterator[Callable[[int], object]]:
    """Show a bar while the block runs; yields the function that advances it.

    Args:
        title: one word; the bar's group is `cocktail_hub.<title>`.
        total: the amount of work, in `unit`; `None` if it is not known.
        unit: 'B' for bytes, or what is counted.
        delay: seconds before the bar appears. tqdm's own `delay` would import tqdm, which takes 0.1 s, at once.
    """
    began, pending = time.time(), 0
    shown: Any = None

    def advance(count: int) -> None:
        nonlocal pending, shown
        pending += count
        if shown is None and time.time() - began >= delay:
            from huggingface_hub.utils import tqdm

            shown = tqdm(total=total, desc=title, unit=unit, unit_scale=unit == "B", name=f"cocktail_hub.{title}")  # type: ignore[no-untyped-call]
            shown.start_t = shown.last_print_t = began
        if shown is not None:
            shown.update(pending)
            pending = 0

    if not delay and total != 0:
        advance(0)
    try:
        yield advance
    finally:
        if shown is not None:
            shown.close()

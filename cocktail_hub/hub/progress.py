"""Progress bars that obey `HF_HUB_DISABLE_PROGRESS_BARS`, as those of the Hub client do. They go to stderr."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def bar(title: str, total: int, *, unit: str = "B", delay: float = 0.0) -> Iterator[Callable[[int], object]]:
    """Show a bar while the block runs; yields the function that moves it.

    Args:
        title: what is being done, in one word; the bar's group is `cocktail_hub.<title>`.
        total: how much there is to do, in `unit`.
        unit: 'B' for bytes, or what is counted.
        delay: seconds before the bar appears, at the first move after that. What is done by then needs no bar, nor
            the 0.1 s that the import of its library takes.
    """
    shown = _Bar(delay, total=total, desc=title, unit=unit, unit_scale=unit == "B", name=f"cocktail_hub.{title}")
    try:
        yield shown.move
    finally:
        shown.close()


class _Bar:
    """A bar of tqdm, from its time on."""

    def __init__(self, delay: float, **look: Any) -> None:
        self._look = look
        self._began = time.time()
        self._delay = delay
        self._moved = 0
        self._shown: Any = None
        if not delay:
            self._show()

    def move(self, count: int) -> None:
        self._moved += count
        if self._shown is None and time.time() - self._began >= self._delay:
            self._show()
        if self._shown is not None:
            self._shown.update(self._moved)
            self._moved = 0

    def _show(self) -> None:
        from huggingface_hub.utils import tqdm

        self._shown = tqdm(**self._look)  # type: ignore[no-untyped-call]
        self._shown.start_t = self._shown.last_print_t = self._began

    def close(self) -> None:
        if self._shown is not None:
            self._shown.close()

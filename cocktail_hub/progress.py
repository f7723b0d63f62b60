"""Progress bars that obey `HF_HUB_DISABLE_PROGRESS_BARS`, as those of the Hub client do. They go to stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub.utils import tqdm


@contextmanager
def bar(title: str, total: int, *, unit: str = "B") -> Iterator[Callable[[int], object]]:
    """Show a bar while the block runs; yields the function that moves it.

    Args:
        title: what is being done, in one word; the bar's group is `cocktail_hub.<title>`.
        total: how much there is to do, in `unit`.
        unit: 'B' for bytes, or what is counted.
    """
    shown: Any = tqdm(total=total, desc=title, unit=unit, unit_scale=unit == "B", name=f"cocktail_hub.{title}")  # type: ignore[no-untyped-call]
    with shown:
        yield shown.update

"""Progress bars that obey `HF_HUB_DISABLE_PROGRESS_BARS`, as those of the Hub client do. They go to stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from huggingface_hub.utils import tqdm


@contextmanager
def bar(title: str, total: int, *, unit: str = "B") -> Iterator[Callable[[int], object]]:
    """Show a bar while the block runs; yields the function that moves it.

    Args:
        title: what is being done.
        total: how much there is to do, in `unit`.
        unit: 'B' for bytes, or what is counted.
    """
    scaled = unit == "B"
    with tqdm(total=total, desc=title, unit=unit, unit_scale=scaled, name=f"cocktail_hub.{title.split(maxsplit=1)[0]}") as shown:
        yield shown.update

"""How many threads with buffers of which size: memory that depends on the machine, never on the model."""

from __future__ import annotations

import os
from dataclasses import dataclass

from cocktail_hub.errors import MergeError

MAX_MEMORY = 1 << 30
"""Default for the most bytes that the buffers of a merge take together."""
ARENA_BYTES = 6 << 20
"""Buffers of one thread: large enough to keep calls rare, small enough for a core's share of the cache."""
REMOTE_ARENA_BYTES = 64 << 20
"""The same for another device, which is slow to start and to talk to."""
MIN_ARENA_BYTES = 1 << 18
"""With less, the time goes into calls rather than arithmetic."""
SEARCH_BYTES = 3 << 20
"""A search for an order statistic, as `order_statistic` has it; written here so that a plan needs no numpy."""
COUNTING_BYTES = 7 << 20
"""What all searches of a thread share."""
MAX_THREADS = 16
"""Default for the most threads: reading, adding and writing are bound by memory and disk from here on."""


def usable_cpus() -> int:
    """Return how many processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What a merge may use."""

    threads: int
    """Threads that read, compute and write. >= 1."""
    arena: int
    """Bytes of buffers per thread."""
    searches: int
    """Searches for an order statistic that a thread holds at once; 0 for methods that need none."""
    smallest: int = MIN_ARENA_BYTES
    """Bytes of buffers that a thread needs at least."""

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers together."""
        return self.threads * (self.arena + _for_searches(self.searches))

    @property
    def cached_arena(self) -> int:
        """The same in a process of its own, where calls wait for nobody and may be as frequent as suits the cache."""
        return max(MIN_ARENA_BYTES, self.smallest, self.arena // 2)

    @classmethod
    def of(
        cls,
        *,
        threads: int | None,
        max_memory: int | None,
        searches: int = 0,
        remote: bool = False,
        smallest: int = MIN_ARENA_BYTES,
    ) -> Budget:
        """Fit threads and buffers into `max_memory` bytes: first smaller buffers, then fewer threads.

        Args:
            threads: how many are wanted; `None`: one per usable processor, up to 16.
            max_memory: most bytes; `None`: 1 GiB.
            searches: searches for an order statistic that a thread holds at once.
            remote: whether another device computes.
            smallest: bytes of buffers that a thread needs at least.

        Raises:
            MergeError: not even one thread fits, or `threads` is below 1.
        """
        limit = MAX_MEMORY if max_memory is None else max_memory
        wanted = min(usable_cpus(), MAX_THREADS) if threads is None else threads
        least = max(smallest, MIN_ARENA_BYTES) + _for_searches(searches)
        if wanted < 1:
            raise MergeError(f"`threads` must be at least 1, got {wanted}.")
        if limit < least:
            raise MergeError(
                f"`max_memory` of {limit:,} bytes is too little: the smallest buffers take {least:,} bytes.\n"
                f"Allow at least that; the default is {MAX_MEMORY:,}."
            )
        count = min(wanted, limit // least)
        full = REMOTE_ARENA_BYTES if remote else ARENA_BYTES
        arena = min(max(full, smallest), limit // count - _for_searches(searches))
        return cls(threads=count, arena=arena, searches=searches, smallest=smallest)


def _for_searches(count: int) -> int:
    return count * SEARCH_BYTES + COUNTING_BYTES if count else 0

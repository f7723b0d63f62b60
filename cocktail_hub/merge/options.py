"""Options of a mix that do not change its values, and the threads and buffers that they allow."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field

from cocktail_hub.errors import MergeError, RecipeError, did_you_mean
from cocktail_hub.hub import Hub

DEFAULT_SHARD_SIZE = "5GB"
"""Largest weight file, in the syntax of `save_pretrained`."""
ENGINES = ("threads", "ray")
"""What can run a merge: threads of this machine, or a Ray cluster."""

_DEVICE = re.compile(r"cpu|cuda(:\d+)?")
_UNITS = {"": 1, "B": 1}
for _power, _prefix in enumerate("KMGT", start=1):
    _UNITS |= {f"{_prefix}B": 1000**_power, f"{_prefix}IB": 1024**_power}


def parse_size(size: int | str, key: str = "max_shard_size") -> int:
    """Return the bytes of a size such as `500MB`, `5GB` or `1GiB`; a number is in bytes.

    Raises:
        RecipeError: it is not a size above 0.
    """
    text = str(size).strip().upper()
    number = text.rstrip("ABGIKMT")
    try:
        nbytes = int(float(number) * _UNITS[text[len(number) :]])
    except (ValueError, KeyError, OverflowError):
        nbytes = 0
    if nbytes < 1:
        raise RecipeError(f"`{key}` is {size!r}, which is not a size. Write it like 500MB, 5GB or 1GiB.")
    return nbytes


@dataclass(frozen=True, kw_only=True)
class MixOptions:
    """How to make a mix; none of it changes the values of the result.

    Raises:
        RecipeError: a value is not accepted.
    """

    hub: Hub = field(default_factory=Hub)
    """The Hub to read from and publish to."""
    max_shard_size: int | str = DEFAULT_SHARD_SIZE
    """Largest size of one weight file, in bytes or as '5GB'."""
    max_memory: int | str | None = None
    """Most memory for the merge's buffers, in bytes or as '500MB'; `None`: the engine's default."""
    threads: int | None = None
    """Number of worker threads, in large merges all but the first in a process of their own; `None`: one per
    processor, up to 16. 1 starts no process."""
    device: str = "cpu"
    """Device for the arithmetic: `cpu`, `cuda`, or one of several cards, `cuda:1`."""
    scoring_device: str = "auto"
    """Device for scoring ingredients: `auto` (a GPU when there is one), `cpu` or `cuda`."""
    engine: str = "threads"
    """`threads` of this machine, or `ray`, a cluster (needs `cocktail-hub[ray]`)."""
    low_disk: bool = False
    """Download only the inputs of one output file at a time, instead of all models."""
    trust_remote_code: bool = False
    """Allow custom code from the ingredients' repos to run when the mix is loaded. Such a mix is cached separately."""
    force: bool = False
    """Make the mix again even if it is cached. An interrupted run is still continued."""
    replace: bool = False
    """Replace an earlier mix in `output`; other files there are never touched."""

    def __post_init__(self) -> None:
        parse_size(self.max_shard_size)
        _ = self.memory_bytes
        if self.threads is not None and (type(self.threads) is not int or self.threads < 1):
            raise RecipeError(
                f"`threads` is {self.threads!r}, which is not a number of threads.\n"
                "Without a thread nothing is merged.\nWrite 1 or more, or leave it out for one per processor."
            )
        if self.engine not in ENGINES:
            raise RecipeError(f"`engine` is {self.engine!r}. {did_you_mean(self.engine, ENGINES)}")
        if not _DEVICE.fullmatch(self.device):
            raise RecipeError(
                f"`device` is {self.device!r}.\nOnly processors and CUDA cards are known to give the same bytes.\n"
                "Write cpu, cuda, or cuda:1 for the second of several cards."
            )
        if self.engine == "ray" and ":" in self.device:
            raise RecipeError(
                f"`device` is {self.device!r}, but on a cluster Ray assigns a card to every task.\n"
                "Write cuda, without a number."
            )

    @property
    def shard_bytes(self) -> int:
        """Largest size of one weight file in bytes."""
        return parse_size(self.max_shard_size)

    @property
    def memory_bytes(self) -> int | None:
        """Most bytes for the merge's buffers; `None`: the engine's default."""
        return None if self.max_memory is None else parse_size(self.max_memory, "max_memory")


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

"""Options of a mix that do not change its values."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from cocktail_hub.errors import RecipeError, did_you_mean
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

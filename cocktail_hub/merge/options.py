"""How to make a mix: values that callers give and every stage reads."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from cocktail_hub.errors import RecipeError, did_you_mean
from cocktail_hub.hub import Hub

DEFAULT_SHARD_SIZE = "5GB"
"""Largest size of one weight file, as `save_pretrained` takes it."""
ENGINES = ("threads", "ray")
"""What can run a merge."""

_DEVICE = re.compile(r"cpu|cuda(:\d+)?")
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_BINARY_UNITS = {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def parse_size(size: int | str, key: str = "max_shard_size") -> int:
    """Bytes of a size such as `500MB`, `5GB` or `1GiB`; a number is taken as bytes.

    Raises:
        RecipeError: it is no size above 0.
    """
    text = str(size).strip().upper()
    number = text.rstrip("ABGIKMT")
    try:
        nbytes = int(float(number) * (_UNITS | _BINARY_UNITS)[text[len(number) :]])
    except (ValueError, KeyError, OverflowError):
        nbytes = 0
    if nbytes < 1:
        raise RecipeError(f"`{key}` is {size!r}, which is not a size. Write it like 500MB, 5GB or 1GiB.")
    return nbytes


@dataclass(frozen=True, kw_only=True)
class MixOptions:
    """How to make a mix; none of it changes the values of the result."""

    hub: Hub = field(default_factory=Hub)
    """How to talk to the Hub."""
    max_shard_size: int | str = DEFAULT_SHARD_SIZE
    """Largest size of one weight file, in bytes or as '5GB'."""
    max_memory: int | str | None = None
    """What the merge may take for its buffers, in bytes or as '500MB'; `None`: the engine's default."""
    threads: int | None = None
    """How many threads work on the merge, in large ones all but the first through a process of their own; `None`: one
    per processor, up to 16. 1 starts no process."""
    device: str = "cpu"
    """Where the arithmetic is done: `cpu`, `cuda`, or one of several cards, `cuda:1`."""
    scoring_device: str = "auto"
    """Where ingredients are run to be scored: `auto` (a GPU when there is one), `cpu` or `cuda`."""
    engine: str = "threads"
    """What merges: `threads` of this machine, or `ray`, a cluster (needs `cocktail-hub[ray]`)."""
    low_disk: bool = False
    """Keep one output file's worth of the models on the disk at a time, instead of all of them."""
    trust_remote_code: bool = False
    """Whether code from the ingredients' repos may run when the mix is loaded. Such a mix is cached apart."""
    force: bool = False
    """Make the mix again even if it is cached. A run of it that was interrupted is still taken up."""
    replace: bool = False
    """Replace an earlier mix in `output`; anything else there is never touched."""

    def __post_init__(self) -> None:
        parse_size(self.max_shard_size)
        _ = self.memory_bytes
        _require_threads(self.threads)
        if self.engine not in ENGINES:
            raise RecipeError(f"`engine` is {self.engine!r}. {did_you_mean(self.engine, ENGINES)}")
        if not _DEVICE.fullmatch(self.device):
            raise RecipeError(
                f"`device` is {self.device!r}.\nThe same bytes are promised for processors and CUDA cards only.\n"
                "Write cpu, cuda, or cuda:1 for the second of several cards."
            )
        if self.engine == "ray" and ":" in self.device:
            raise RecipeError(
                f"`device` is {self.device!r}, but on a cluster Ray gives every task a card of its own.\n"
                "Write cuda, without a number."
            )

    @property
    def shard_bytes(self) -> int:
        """Largest size of one weight file in bytes."""
        return parse_size(self.max_shard_size)

    @property
    def memory_bytes(self) -> int | None:
        """Bytes that the merge may take for its buffers; `None`: the engine's default."""
        return None if self.max_memory is None else parse_size(self.max_memory, "max_memory")


def _require_threads(threads: object) -> None:
    if threads is not None and (not isinstance(threads, int) or isinstance(threads, bool) or threads < 1):
        raise RecipeError(
            f"`threads` is {threads!r}, which is no number of threads.\nWithout a thread nothing is merged.\n"
            "Write 1 or more, or leave it out for one per processor."
        )

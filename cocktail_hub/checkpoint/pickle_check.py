"""What a pickle would do, told from its instructions before any is carried out.

`torch.load(weights_only=True)` runs no foreign code, but lets a small file take all memory or never end.
"""

from __future__ import annotations

import pickle
import pickletools
import re
from typing import IO

MOST_INSTRUCTIONS = 1_000_000
"""In one pickle; a tensor takes some thirty."""
_PLAIN = re.compile(
    r"collections OrderedDict|torch ([a-z]\w*|Size|\w+Storage)|torch\.nn\.parameter Parameter"
    r"|torch\._utils _rebuild_\w+|torch\._tensor _rebuild_from_type_v2|torch\.serialization _get_layout"
)
"""What describes tensors, rather than making sets, texts and bytes of any size, or tensors without data in the file."""


def check_pickle(stream: IO[bytes]) -> None:
    """Read a pickle to its end, without unpickling it.

    Raises:
        pickle.UnpicklingError: it has more than tensors.
        ValueError: it is damaged, or longer than that of any model.
    """
    tuples, last = set(), ""
    for count, (instruction, value, _) in enumerate(pickletools.genops(stream)):
        name = instruction.name
        if count == MOST_INSTRUCTIONS:
            raise ValueError(f"its pickle has more than {MOST_INSTRUCTIONS:,} instructions")
        if name == "GLOBAL" and not _PLAIN.fullmatch(str(value)):
            raise pickle.UnpicklingError(f"GLOBAL {str(value).replace(' ', '.')}")
        if "PUT" in name and last.startswith("TUPLE"):
            tuples.add(value)
        elif "GET" in name and value in tuples:  # tuples of tuples that stand twice: a key that takes for ever to hash
            raise pickle.UnpicklingError("a tuple stands twice")
        last = name

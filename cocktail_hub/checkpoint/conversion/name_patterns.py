"""What tensor names alone say: wrappers that training tools add, buffers that models compute themselves."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_BUFFERS = re.compile(
    r"(^|\.)(position_ids|token_type_ids|masked_bias|inv_freq|original_inv_freq|cos_cached|sin_cached|final_logits_bias"
    r"|relative_position_index|num_batches_tracked)$"
)
_MASKS = re.compile(r"(^|\.)(attn|attention|crossattention)\.(bias|causal_mask)$")
_WRAPPERS = re.compile(r"(?:(?<=\.)|^)(_orig_mod|_forward_module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_DATA_PARALLEL = "module."


def unwrapped(names: Iterable[str]) -> dict[str, str]:
    """Map names without what torch.compile, FSDP, DataParallel and Lightning add to the names as they are in the file.

    transformers does not know these parts: it would leave such tensors out and start them at random.
    """
    names = list(names)
    bare = {_WRAPPERS.sub("", name): name for name in names}
    while bare and all(name.startswith(_DATA_PARALLEL) for name in bare):
        bare = {name.removeprefix(_DATA_PARALLEL): raw for name, raw in bare.items()}
    return bare if len(bare) == len(names) else {name: name for name in names}


def is_rebuilt(name: str) -> bool:
    """Whether every model computes a buffer of this name itself, so that a checkpoint may have it or not."""
    return _BUFFERS.search(name) is not None


def is_mask(name: str) -> bool:
    """Whether old versions of transformers saved a causal mask under this name, if the model has no such parameter."""
    return _MASKS.search(name) is not None


def is_counter(name: str) -> bool:
    """Whether a tensor only counts training steps, so that it has no average and need not be the same everywhere."""
    return name.endswith("num_batches_tracked")


def common_pattern(names: Sequence[str]) -> str:
    """Return a short regular expression that matches all of the names: what to write into a recipe."""
    if len(names) == 1:
        return re.escape(names[0])
    parts = [name.split(".") for name in names]
    shared = []
    for column in zip(*parts, strict=False):
        if len(set(column)) > 1:
            break
        shared.append(re.escape(column[0]))
    return r"\.".join([*shared, ".*"]) if shared else "|".join(dict.fromkeys(rf"{re.escape(p[0])}\..*" for p in parts))

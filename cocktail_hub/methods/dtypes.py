"""The dtypes of tensors: their safetensors names, sizes, and counterparts in numpy and torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cocktail_hub.errors import CheckpointError, RecipeError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    import torch

BITS: dict[str, int] = {
    name: bits
    for bits, names in {
        4: ("F4",),
        6: ("F6_E2M3", "F6_E3M2"),
        8: ("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"),
        16: ("U16", "I16", "F16", "BF16"),
        32: ("U32", "I32", "F32"),
        64: ("U64", "I64", "F64", "C64"),
    }.items()
    for name in names
}
"""Bits per element of every dtype that safetensors writes, by its safetensors name."""
TORCH_NAMES: dict[str, str] = {
    "F4": "float4_e2m1fn_x2",
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "U16": "uint16",
    "I16": "int16",
    "F16": "float16",
    "BF16": "bfloat16",
    "U32": "uint32",
    "I32": "int32",
    "F32": "float32",
    "U64": "uint64",
    "I64": "int64",
    "F64": "float64",
    "C64": "complex64",
}
"""safetensors name -> attribute of `torch`. The six-bit floats have none."""
SAFETENSORS_NAMES: dict[str, str] = {name: dtype for dtype, name in TORCH_NAMES.items()}
"""Attribute of `torch` -> safetensors name."""
MIXABLE = frozenset({"F64", "F32", "F16", "BF16"})
"""Floats wide enough to be averaged."""
HALVES = frozenset({"F16", "BF16"})
"""Those of 16 bits."""
EXACT = frozenset({"BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64"})
"""Integers and flags: never averaged; they must be the same in every ingredient."""


def itemsize(dtype: str) -> int:
    """Bytes per element of a dtype by its safetensors name, for dtypes of whole bytes."""
    return BITS[dtype] // 8


def accumulator_dtype(dtypes: Iterable[str]) -> str:
    """Return the dtype to add up in, inputs and result given: float32 where all is 16-bit, else float64."""
    return "F32" if HALVES.issuperset(dtypes) else "F64"


def numpy_dtype(dtype: str) -> np.dtype[Any]:
    """Return the numpy dtype of a dtype by its safetensors name; bfloat16, which numpy lacks, is its bits.

    Raises:
        KeyError: numpy has nothing like it.
    """
    import numpy as np

    bits: dict[str, Any] = {"BF16": np.uint16}
    return np.dtype(bits.get(dtype) or TORCH_NAMES[dtype])


def torch_dtype(dtype: str) -> torch.dtype:
    """Return the torch dtype of a safetensors name; loads torch on first use.

    Raises:
        CheckpointError: torch has no such dtype.
    """
    import torch

    found = getattr(torch, TORCH_NAMES.get(dtype, ""), None)
    if not isinstance(found, torch.dtype):
        raise CheckpointError(f"torch {torch.__version__} cannot hold the dtype '{dtype}'.")
    return found


def safetensors_dtype(dtype: torch.dtype) -> str:
    """Return the safetensors name of a torch dtype.

    Raises:
        CheckpointError: safetensors cannot write such a dtype.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in SAFETENSORS_NAMES:
        raise CheckpointError(f"safetensors cannot hold the dtype '{name}'.")
    return SAFETENSORS_NAMES[name]


def mixable_dtype(name: str) -> str:
    """Turn 'bfloat16', 'torch.bfloat16' or 'BF16' into 'BF16': the dtypes a mix can have.

    Raises:
        RecipeError: `name` is no float of 16 bits or more.
    """
    bare = name.removeprefix("torch.")
    found = SAFETENSORS_NAMES.get(bare, bare.upper())
    if found not in MIXABLE:
        known = [TORCH_NAMES[dtype] for dtype in sorted(MIXABLE)]
        raise RecipeError(f"`dtype` of a mix cannot be '{name}'. {did_you_mean(bare, known)}")
    return found

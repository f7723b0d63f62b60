"""Recognise quantised checkpoints, which cannot be mixed, from config files and headers.

Averaging packed integers would give noise, and transformers loads some of these formats as if they were not
quantised. So a checkpoint is refused when either its config or its tensors say that it is quantised.
It is not dequantised: that adds rounding noise to the mix, and the unquantised model is nearly always available.
"""

from __future__ import annotations

import json
import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from cocktail_hub.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cocktail_hub.checkpoint.files import RepoFiles
    from cocktail_hub.checkpoint.header import TensorSpec

PACKED_DTYPES = frozenset({"F4", "F6_E2M3", "F6_E3M2", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"})
"""Floats of 8 bits or less: only quantised checkpoints hold them."""
PACKING_INTEGERS = frozenset({"U8", "I8", "U16", "I16", "U32", "I32"})
"""Integers that weights are packed into. I64 is not one of them: it holds positions and counts."""

_CONFIG_KEYS = ("quantization_config", "quantization", "compression_config")
_SIDE_FILES = {
    "quantize_config.json": "GPTQ",
    "quant_config.json": "AWQ",
    "hf_quant_config.json": "ModelOpt",
    "quanto_qmap.json": "quanto",
}
"""JSON file beside the config -> the method, where the file does not name it."""
_METHODS: tuple[tuple[str, str], ...] = (
    ("GPTQ or AWQ", r"(^|\.)(qweight|qzeros|g_idx)$"),
    ("compressed-tensors", r"\.weight_(packed|zero_point)$"),
    ("MXFP4", r"_(blocks|scales)$"),
    ("torchao", r":(qdata|zero_point)$|\.qdata$"),
    ("AQLM", r"\.codes$"),
    ("HQQ", r"\.W_q$"),
    ("quanto", r"\.weight\._data(\.\w+)?$"),
)
"""Method, and the integer tensors that only it writes."""
_BESIDE = {
    "scales": "MLX",
    **dict.fromkeys(("SCB", "weight.absmax", "weight_format"), "bitsandbytes"),
    "weight_scale": "integers and scales",
}
"""Tensor beside integers that are named `weight` -> method."""
_BITSANDBYTES = r"\.(absmax|quant_map|nested_absmax|SCB|quant_state\.bitsandbytes__\w+)$"
_SCALE = re.compile(r"(.+\.weight)_scale(_inv|_2)?|(.+\.)(scale_weight|input_scale|scale_input)")
"""What weights of 8 or 4 bits are multiplied by; beside others, these have been unpacked with or without it."""
_QUANTIZED_NAME = re.compile(r"gptq|awq|int[48]|fp8|4bit|8bit|bnb|quant", re.IGNORECASE)


def refuse_quantized(
    files: RepoFiles, folder: str, config: Mapping[str, Any], specs: Mapping[str, TensorSpec] | None = None
) -> None:
    """Raise CheckpointError if an ingredient is quantised.

    Args:
        files: the repository; only small JSON files beside the config are read.
        folder: posix path of the model's folder in it, '' for the root.
        config: its config.json.
        specs: its tensors as read from headers; `None` while only the config is known.
    """
    packed = _from_specs(specs or {})
    found = _from_config(config)
    for name, known in _SIDE_FILES.items() if not found else ():
        path = str(PurePosixPath(folder, name))
        if path in files.sizes:
            try:
                named = json.loads(files.read(path)).get("quant_method")
            except (ValueError, AttributeError, RecursionError):  # not JSON, or not a mapping
                named = None
            found = str(named or known), f"it has a '{path}'"
            break
    if not (found := found or packed):
        return
    method, sign = found
    if specs and not packed:
        raise CheckpointError(
            f"'{files.name}' says that it is quantised with {method} ({sign}), but its tensors are not packed.\n"
            "A mix would inherit that entry and be quantised whenever it is loaded.\n"
            "Save the model without it, or mix the unquantised model that it was made from.",
            model=files.name,
        )
    base = str(config.get("_name_or_path"))
    hub_id = re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", base) and not _QUANTIZED_NAME.search(base)
    original = f"'{base}'" if hub_id else "the unquantised model that it was made from (see its card)"
    raise CheckpointError(
        f"'{files.name}' is quantised with {method}: {sign}.\n"
        "Packed weights cannot be averaged, and unpacking them would add their rounding to the mix.\n"
        f"Mix {original} instead, and quantise the result.",
        model=files.name,
    )


def _from_config(config: Mapping[str, Any], prefix: str = "") -> tuple[str, str] | None:
    """Method and sign of quantisation in a config or a config inside of it (`text_config`, `vision_config`...)."""
    for key in _CONFIG_KEYS:
        if entry := config.get(key):
            return _method_of(entry, key), f"`{prefix}{key}` in config.json"
    inner = (key for key, value in config.items() if key.endswith("_config") and isinstance(value, dict))
    found = (_from_config(config[key], f"{prefix}{key}.") for key in inner if key not in _CONFIG_KEYS)
    return next(filter(None, found), None)


def _method_of(entry: object, key: str) -> str:
    if not isinstance(entry, dict):
        return f"`{entry}`"
    loaded = next((f"{bits}" for bits in (8, 4) if entry.get(f"load_in_{bits}bit")), None)
    if "quant_method" in entry:
        bits = loaded or next((entry[k] for k in ("bits", "w_bit", "nbits") if k in entry), None)
        return f"{entry['quant_method']} ({bits} bits)" if bits else str(entry["quant_method"])
    if loaded:
        return "bitsandbytes"
    if key == "quantization" and {"group_size", "bits"} <= entry.keys():
        return f"MLX ({entry['bits']} bits)"
    return str(entry.get("quant_algo") or "an unnamed method")


def _from_specs(specs: Mapping[str, TensorSpec]) -> tuple[str, str] | None:
    for name, spec in specs.items():
        sign = f"'{name}' is {spec.dtype}"
        if spec.dtype in PACKED_DTYPES:
            return ("FP8" if spec.dtype.startswith("F8") else f"{spec.dtype} floats"), sign
        if re.search(_BITSANDBYTES, name):
            return "bitsandbytes", f"it has a tensor '{name}'"
        if (scale := _SCALE.fullmatch(name)) and (scale[1] or f"{scale[3]}weight") in specs:
            return "scales beside its weights", f"it has a tensor '{name}'"
        if spec.dtype not in PACKING_INTEGERS:
            continue
        method = next((method for method, pattern in _METHODS if re.search(pattern, name)), None)
        stem, _, leaf = name.rpartition(".")
        if method is None and leaf in {"weight", "kernel"}:  # other integers are positions, masks, indices
            method = next((method for other, method in _BESIDE.items() if f"{stem}.{other}" in specs), "integers")
        if method:
            return method, sign
    return None

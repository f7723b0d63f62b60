"""Recognise quantised checkpoints, which cannot be mixed, from config files and headers.

Averaging packed integers would give noise, and transformers loads some of these formats as if they were not
quantised. So a checkpoint is refused when either its config or its tensors say that it is quantised.
Dequantising is not done: it carries rounding noise into the mix, and the unquantised model is nearly always at hand.
"""

from __future__ import annotations

import json
import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from cocktail_hub.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cocktail_hub.checkpoint.files import RepoFiles
    from cocktail_hub.checkpoint.header import TensorSpec

PACKED_DTYPES = frozenset({"F4", "F6_E2M3", "F6_E3M2", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"})
"""Floats of 8 bits or less: only quantised checkpoints hold them."""
PACKING_INTEGERS = frozenset({"U8", "I8", "U16", "I16", "U32", "I32"})
"""Integers that weights are packed into. I64 is left out: it holds positions and counts."""

_SIDE_FILES = ("quantize_config.json", "quant_config.json", "hf_quant_config.json", "quanto_qmap.json")
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
_BITSANDBYTES = r"\.(absmax|quant_map|nested_absmax|SCB|quant_state\.bitsandbytes__\w+)$"


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
    found = _from_config(config, "config.json") or _from_side_files(files, folder) or packed
    if found and specs and not packed:
        raise CheckpointError(
            f"'{files.name}' says that it is quantised with {found[0]} ({found[1]}), but its tensors are not packed.\n"
            "A mix would inherit that entry and be quantised whenever it is loaded.\n"
            "Save the model without it, or mix the unquantised model that it was made from.",
            model=files.name,
        )
    if found:
        raise _refusal(files.name, *found, base=_base_of(config))


def _refusal(model: str, method: str, sign: str, *, base: str) -> CheckpointError:
    original = f"'{base}'" if base else "the unquantised model that it was made from (see its card)"
    return CheckpointError(
        f"'{model}' is quantised with {method}: {sign}.\n"
        "Packed weights cannot be averaged, and unpacking them would carry their rounding into the mix.\n"
        f"Mix {original} instead, and quantise the result.",
        model=model,
    )


def _from_config(config: Mapping[str, Any], where: str) -> tuple[str, str] | None:
    """Look for a quantisation entry in a config and in those of its parts (`text_config`, `vision_config`...)."""
    for place, part in _parts(config, ""):
        for key in ("quantization_config", "quantization", "compression_config"):
            entry = part.get(key)
            if entry:
                return _method_of(entry, key), f"`{place}{key}` in {where}"
    return None


def _parts(config: Mapping[str, Any], place: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield place, config
    for key, value in config.items():
        if key.endswith("_config") and not key.startswith("quantization") and isinstance(value, dict):
            yield from _parts(value, f"{place}{key}.")


def _method_of(entry: object, key: str) -> str:
    if not isinstance(entry, dict):
        return f"`{entry}`"
    if "quant_method" in entry:
        bits = next((f" ({entry[k]} bits)" for k in ("bits", "w_bit", "nbits") if k in entry), "")
        if entry.get("load_in_8bit") or entry.get("load_in_4bit"):
            bits = " (8 bits)" if entry.get("load_in_8bit") else " (4 bits)"
        return f"{entry['quant_method']}{bits}"
    if entry.get("load_in_8bit") or entry.get("load_in_4bit"):
        return "bitsandbytes"
    if key == "quantization" and {"group_size", "bits"} <= entry.keys():
        return f"MLX ({entry['bits']} bits)"
    return str(entry.get("quant_algo") or "an unnamed method")


def _from_side_files(files: RepoFiles, folder: str) -> tuple[str, str] | None:
    for name in _SIDE_FILES:
        path = str(PurePosixPath(folder, name))
        if path not in files.sizes:
            continue
        try:
            entry = json.loads(files.read(path))
        except ValueError:
            entry = {}
        method = {"quantize_config.json": "GPTQ", "quant_config.json": "AWQ", "quanto_qmap.json": "quanto"}.get(name)
        named = entry.get("quant_method") if isinstance(entry, dict) else None
        return str(named or method or "ModelOpt"), f"it has a '{path}'"
    return None


def _from_specs(specs: Mapping[str, TensorSpec]) -> tuple[str, str] | None:
    for name, spec in specs.items():
        sign = f"'{name}' is {spec.dtype}"
        if spec.dtype in PACKED_DTYPES:
            return ("FP8" if spec.dtype.startswith("F8") else f"{spec.dtype} floats"), sign
        if re.search(_BITSANDBYTES, name):
            return "bitsandbytes", f"it has a tensor '{name}'"
        if spec.dtype in PACKING_INTEGERS:
            method = next((method for method, pattern in _METHODS if re.search(pattern, name)), None)
            if method:
                return method, sign
            if name.rpartition(".")[2] in {"weight", "kernel"}:  # other integers are positions, masks, indices
                return _method_of_weight(name, specs), sign
    return None


def _method_of_weight(name: str, specs: Mapping[str, TensorSpec]) -> str:
    """Name the method that writes integers under the plain name `weight`, from what lies beside it."""
    stem = name.rpartition(".")[0]
    beside = {other.removeprefix(f"{stem}.") for other in specs if other.startswith(f"{stem}.")}
    if "scales" in beside:
        return "MLX"
    if beside & {"SCB", "weight.absmax", "weight_format"}:
        return "bitsandbytes"
    return "integers and scales" if "weight_scale" in beside else "integers"


def _base_of(config: Mapping[str, Any]) -> str:
    """Name the unquantised model where the config remembers it and it is not a path of someone's machine."""
    name = config.get("_name_or_path")
    hub_id = isinstance(name, str) and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name)
    return (
        str(name)
        if hub_id and not re.search(r"gptq|awq|int[48]|fp8|4bit|8bit|bnb|quant", str(name), re.IGNORECASE)
        else ""
    )

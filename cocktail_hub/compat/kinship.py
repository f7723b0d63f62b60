"""Were models trained from one base? Told by a sample of one matrix: some bytes of each model, before any download."""

from __future__ import annotations

import math
import struct
from concurrent.futures import ThreadPoolExecutor
from operator import mul
from typing import TYPE_CHECKING

from cocktail_hub.checkpoint.adapters.lora import AdaptedWeights
from cocktail_hub.checkpoint.header import read_header
from cocktail_hub.checkpoint.reader import NestedFiles
from cocktail_hub.recipe.tensor_rules import split_layer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cocktail_hub.checkpoint.conversion.tensor_mapping import TensorMapping
    from cocktail_hub.checkpoint.files import RepoFiles
    from cocktail_hub.checkpoint.weight_files import WeightFiles

_SAMPLE = 1 << 13
"""Elements of a sample. The cosine of two that have nothing to do with each other is 0 give or take 0.011."""
_LEAST = 0.1
"""Cosine below which models are called unrelated. Fine-tunes of one base have more than 0.5, most of them 0.99."""
_FORMATS = {"F32": "f", "F16": "e", "BF16": "f"}
"""dtype -> how `struct` calls it; a bfloat16 is the upper half of a float32."""


def unrelated(files: Sequence[RepoFiles], mappings: Sequence[TensorMapping], first: int, *, least: int) -> list[str]:
    """One sentence for each model whose weights point elsewhere than those of the first ingredient.

    Args:
        files: where the whole models are; of an adapter, the one that it adapts.
        mappings: of their tensors to those of the mix.
        first: index of the first ingredient.
        least: elements of the smallest matrix that tells anything.

    Raises:
        SourceError: a file cannot be read.
    """
    weights = [m.weights.base if isinstance(m.weights, AdaptedWeights) else m.weights for m in mappings]
    plain = [
        name
        for name, spec in mappings[first].specs.items()
        if split_layer(name) and len(spec.shape) > 1 and spec.numel >= least
        if all(
            name in mapping.names.keys() - mapping.ranges.keys()
            and own.format == "safetensors"
            and mapping.names[name] in own.specs
            and own.specs[mapping.names[name]].dtype in _FORMATS
            for own, mapping in zip(weights, mappings, strict=True)
        )
    ]
    if not plain or any(isinstance(opened, NestedFiles) for opened in files):  # whose weights are not made yet
        return []
    tensor = plain[len(plain) // 2]

    def sample(opened: RepoFiles, mapping: TensorMapping, own: WeightFiles) -> tuple[float, ...]:
        raw = mapping.names[tensor]
        slot, dtype = read_header(opened, own.file_of[raw]).tensors[raw], own.specs[raw].dtype
        data = opened.read_range(own.file_of[raw], slot.start, slot.start + _SAMPLE * (4 if dtype == "F32" else 2))
        if dtype == "BF16":
            wide = bytearray(2 * len(data))
            wide[2::4], wide[3::4] = data[::2], data[1::2]
            data = bytes(wide)
        return struct.unpack(f"<{_SAMPLE}{_FORMATS[dtype]}", data)

    with ThreadPoolExecutor(len(files)) as pool:
        samples = list(pool.map(sample, files, mappings, weights))
    mine = samples[first]
    sizes = [math.sqrt(sum(map(mul, numbers, numbers))) * math.sqrt(sum(map(mul, mine, mine))) for numbers in samples]
    cosines = [
        sum(map(mul, mine, numbers)) / size if size else 1.0 for numbers, size in zip(samples, sizes, strict=True)
    ]
    return [
        f"'{mapping.name}' has hardly anything in common with '{mappings[first].name}' (the cosine of '{tensor}' is "
        f"{cosine:.2f}): if they were not trained from one base, their mix is of no use."
        for mapping, cosine in zip(mappings, cosines, strict=True)
        if abs(cosine) < _LEAST
    ]

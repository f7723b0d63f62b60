"""Adapters of one base, added up as an adapter: from their factors alone, without the weights of the base."""

from __future__ import annotations

import math
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np

from cocktail_hub.checkpoint.adapters.lora import AdaptedWeights
from cocktail_hub.checkpoint.reader import open_weights
from cocktail_hub.hub import HubFiles
from cocktail_hub.methods.low_rank import low_rank_of_sum
from cocktail_hub.publishing.adapter import PREFIX, Extracted, LoraAdapter, adapter_config, read_tensor

if TYPE_CHECKING:
    from cocktail_hub.checkpoint.adapters.lora import Adapter, Change
    from cocktail_hub.compat import CompatibilityReport
    from cocktail_hub.merge.plan import MergePlan


def add_adapters(
    report: CompatibilityReport, plan: MergePlan, rank: int | None, *, source: str = ""
) -> LoraAdapter | None:
    """Return the adapter that a mix of adapters is; `None` where factors alone cannot tell it.

    That is so for methods that are no weighted sum, for DoRA, for tensors that are saved whole, and for several bases.

    Args:
        report: the models of the mix; its recipe has a number for every weight.
        plan: of the mix.
        rank: the largest rank; a sum of more is the nearest of that rank. `None`: the ranks are added, which is exact.
        source: what the mix is, for the card.

    Raises:
        CheckpointError: an adapter cannot be read.
    """
    bodies = {model.body.reference.model: model.body.reference for model in report.models}
    mappings = report.components[0].mappings
    adapters: dict[int, Adapter] = {
        i: mapping.weights.adapter for i, mapping in enumerate(mappings) if isinstance(mapping.weights, AdaptedWeights)
    }
    if len(bodies) > 1 or not adapters or len(plan.components) > 1 or any(a.config.tied for a in adapters.values()):
        return None
    terms: dict[str, list[tuple[int, float, Change]]] = {}
    for tensor in (tensor for shard in plan.shards for tensor in shard.tensors):
        for i in adapters.keys() & set(tensor.models):
            weights = mappings[i].weights
            change = isinstance(weights, AdaptedWeights) and weights.changes.get(mappings[i].names.get(tensor.name, ""))
            if not change:
                continue
            shapes = [len(adapters[i].weights.specs[name].shape) for name in (change.left, change.right) if name]
            if tensor.rule != "sum" or change.replaced_by or change.bias or change.magnitude or shapes != [2, 2]:
                return None
            factor = tensor.weights[tensor.models.index(i)] * change.scale
            terms.setdefault(tensor.name, []).append((i, factor, change))
    first = adapters[min(adapters)].config
    tensors, parts, ranks = {}, {}, {}
    with ExitStack() as stack:
        readers = {}
        for i, adapter in adapters.items():
            located, paths = report.models[i].located, adapter.weights.weight_files
            root = located.files.download(paths) if isinstance(located.files, HubFiles) else located.root
            readers[i] = open_weights(adapter.weights, root)
            stack.callback(readers[i].close)
        import torch

        for name, listed in terms.items():
            lefts = [read_tensor(readers[i], each.left).double().numpy() * factor for i, factor, each in listed]
            rights = [read_tensor(readers[i], each.right).double().numpy() for i, _, each in listed]
            found = low_rank_of_sum(lefts, rights, rank or sum(each.shape[1] for each in lefts))
            grams = (a.T.astype(np.float64) @ a for a in (found.left, found.right.T))
            kept = math.sqrt(max(float(np.sum(np.multiply(*grams))), 0.0))
            length = kept / math.sqrt(1.0 - found.error**2)
            keys = listed[0][2].left, listed[0][2].right
            module = keys[0].partition(".lora_")[0].removeprefix(PREFIX)
            ranks[module] = found.rank
            for key, matrix in zip(keys, (found.left, found.right), strict=True):
                tensors[key.replace(".default", "")] = torch.from_numpy(np.ascontiguousarray(matrix))
            parts[name] = Extracted(how="low rank", rank=found.rank, length=length, error=found.error)
    base = next(iter(bodies.values()))
    return LoraAdapter(
        base=base,
        config=adapter_config(
            base,
            first.task_type,
            ranks,
            base_class=first.base_class or "",
            modules_to_save=None,
            bias="none",
            fan_in_fan_out=first.transposed,
        ),
        tensors=tensors,
        parts=parts,
        source=source,
    )

"""Compare some tensors of published weights with the same tensors made again, from ranges of the ingredients' files."""

from __future__ import annotations

import hashlib
import random
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.checkpoint.header import read_header
from cocktail_hub.errors import RecipeError
from cocktail_hub.merge.engine.execute import execute
from cocktail_hub.merge.run import opened_models, plan_mix, require_device
from cocktail_hub.methods.registry import METHODS

if TYPE_CHECKING:
    from cocktail_hub.checkpoint.files import RepoFiles
    from cocktail_hub.checkpoint.header import TensorSlot
    from cocktail_hub.compat import CompatibilityReport
    from cocktail_hub.merge.options import MixOptions

PIECE = 1 << 25
"""Bytes of a published tensor that are read at a time."""


def compare_sample(
    report: CompatibilityReport, files: RepoFiles, count: int, options: MixOptions
) -> tuple[dict[str, str], dict[str, str]]:
    """Make some tensors of a mix again, drawn anew each time, so that nobody knows beforehand which are looked at.

    Args:
        report: the checked ingredients; its recipe has a number for every weight.
        files: the published weights.
        count: how many tensors; with more than there are, all.
        options: how the mix was cut into files, and how to make it.

    Returns:
        What the recipe gives and what is published: sha256 of the header of every weight file, under its path, and of
        each drawn tensor, under path and name.

    Raises:
        RecipeError: the method measures the whole model before it makes a tensor.
        CocktailError: an ingredient or the published weights cannot be read.
    """
    require_device(options)
    plan = plan_mix(report, options.max_shard_size)
    everywhere = [t.parameters for shard in plan.shards for t in shard.tensors if t.rule in ("models", "task_vectors")]
    if any(step.over_model(each) for step in METHODS[plan.method].measure for each in everywhere):
        raise RecipeError(
            f"`{plan.method}` measures the whole model before it makes a tensor.\n"
            "A sample of tensors cannot be made without the others.\nCompare everything: leave out the sample."
        )
    names = [(shard.path, tensor.name) for shard in plan.shards for tensor in shard.tensors if tensor.numel]
    drawn = set(random.SystemRandom().sample(names, min(count, len(names))))
    kept = [replace(s, tensors=tuple(t for t in s.tensors if (s.path, t.name) in drawn)) for s in plan.shards]
    small = replace(plan, shards=tuple(shard for shard in kept if shard.tensors))
    expected = {shard.path: hashlib.sha256(shard.header).hexdigest() for shard in plan.shards}
    with tempfile.TemporaryDirectory(prefix="cocktail-", ignore_cleanup_errors=True) as scratch:
        options = replace(options, low_disk=True, engine="threads")
        with opened_models(small, report, Path(scratch), options) as inputs:
            execute(
                small,
                inputs,
                scratch,
                threads=options.threads,
                max_memory=options.memory_bytes,
                device=options.device,
            )
        made = LocalFiles(scratch)
        for shard in small.shards:
            for name, slot in read_header(made, shard.path).tensors.items():
                expected[f"{shard.path}: {name}"] = _sha256(made, shard.path, slot)
    found = {path: "" for path in files.sizes if path.endswith(".safetensors")}
    for shard in plan.shards:
        if shard.path in found:
            tensors = read_header(files, shard.path).tensors
            head = files.read_range(shard.path, 0, min(len(shard.header), files.sizes[shard.path]))
            found[shard.path] = hashlib.sha256(head).hexdigest()
            for name in tensors.keys() & {name for path, name in drawn if path == shard.path}:
                found[f"{shard.path}: {name}"] = _sha256(files, shard.path, tensors[name])
    return expected, found


def _sha256(files: RepoFiles, path: str, slot: TensorSlot) -> str:
    """Return the sha256 of a tensor's bytes."""
    digest = hashlib.sha256()
    for start in range(slot.start, slot.stop, PIECE):
        digest.update(files.read_range(path, start, min(start + PIECE, slot.stop)))
    return digest.hexdigest()

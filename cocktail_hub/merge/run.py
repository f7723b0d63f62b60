"""Run a merge plan: on threads or on Ray, with whole models on the disk or a part of them at a time."""

from __future__ import annotations

import shutil
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from cocktail_hub.errors import MergeError
from cocktail_hub.hub.progress import bar
from cocktail_hub.merge.engine.ray_cluster import import_ray
from cocktail_hub.merge.inputs import ShardInputs
from cocktail_hub.merge.options import DEFAULT_SHARD_SIZE, parse_size
from cocktail_hub.storage.cache import JOURNAL
from cocktail_hub.storage.disk_space import require_free_space, size_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from cocktail_hub.compat import CompatibilityReport
    from cocktail_hub.compat.components import Component
    from cocktail_hub.merge.engine.execute import MergeReport
    from cocktail_hub.merge.options import MixOptions
    from cocktail_hub.merge.plan import MergePlan, ShardPlan

PARTIAL_INPUTS = ".windows"
"""Folder in the staging folder for what is fetched of the models while one output file is made."""
SHORT = 2.0
"""Seconds that a merge of files on this machine may take without a progress bar."""


def write_weights(
    plan: MergePlan,
    report: CompatibilityReport,
    folder: Path,
    options: MixOptions,
    *,
    meanwhile: Callable[[], object] = lambda: None,
) -> MergeReport:
    """Write every weight file of a plan into a folder, and bring what that takes. The journal of it stays there.

    Args:
        plan: what to write.
        report: the models.
        folder: where to.
        options: how.
        meanwhile: called once, when all weights are written but the disk may still be busy with the last of them.

    Raises:
        DiskSpaceError: the disk has too little room; said before anything is downloaded.
        MergeError: the merge could not be finished; finished files are kept for the next try.
        CocktailError: as `execute`.
    """
    from cocktail_hub.merge.engine.on_ray import ATTEMPTS

    for left in (PARTIAL_INPUTS, ATTEMPTS):  # by a run that was killed, on whichever engine
        shutil.rmtree(folder / left, ignore_errors=True)
    require_free_space(needed_space(plan, report, folder, options))
    if options.engine == "ray":
        merged = _on_ray(plan, report, folder, options)
        meanwhile()
        return merged
    run = _on_low_disk if options.low_disk else _on_threads
    return run(plan, report, folder, options, meanwhile)


def require_device(options: MixOptions) -> None:
    """Make sure that the merge can run where it should; asked before anything is downloaded or scored.

    Raises:
        MissingExtraError: it should run on Ray, which is not installed.
        MergeError: there is no such device here.
    """
    if options.engine == "ray":  # which finds a node that has the device
        import_ray()
    elif options.device != "cpu":
        _require_card(options.device)


def _require_card(device: str) -> None:
    import torch

    number = int(device.partition(":")[2] or 0)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if number >= count:
        found = f"torch finds {count} CUDA devices here" if count else "torch finds no CUDA device here"
        raise MergeError(
            f"The merge cannot run on '{device}': {found}.\nNothing was downloaded or merged.\n"
            f"Use `cpu`, which gives the same bytes{', or a lower number' if count else ', or a torch with CUDA'}."
        )


def needed_space(
    plan: MergePlan, report: CompatibilityReport, folder: Path | None, options: MixOptions
) -> list[tuple[Path, int, str]]:
    """Bytes that a mix still takes: for each folder how many, and what for.

    Args:
        plan: what to write.
        report: the models.
        folder: where to; part of it may be there already. `None`: nowhere yet.
        options: how.
    """
    from cocktail_hub.merge.download import bytes_to_fetch

    to_write = max(0, plan.output_bytes - size_of(folder)) if folder else plan.output_bytes
    folder = folder or Path()
    if not options.low_disk:
        downloads = bytes_to_fetch(report.models)
        return [(options.hub.cache_folder, downloads, "the downloads"), (folder, to_write, "the mix")]
    inputs = ShardInputs(components=report.components, models=report.models, scratch=folder)
    return [
        (options.hub.cache_folder, whole_bytes(inputs), "files that cannot be read in parts"),
        (folder, largest_window(plan, inputs), "the parts of the models that one file is made from"),
        (folder, to_write, "the mix"),
    ]


def whole_bytes(inputs: ShardInputs) -> int:
    """Bytes that are downloaded for good, even on little disk."""
    return sum(files.missing(paths) for files, paths in inputs.whole_files())


def largest_window(plan: MergePlan, inputs: ShardInputs) -> int:
    """Most bytes of the models that are on the disk at a time while each file is made in turn."""
    return max((inputs.fetched_bytes(shard) for shard in plan.shards), default=0)


@contextmanager
def windows(shards: Sequence[ShardPlan], report: CompatibilityReport, folder: Path) -> Iterator[ShardInputs]:
    """The models of a plan, opened shard by shard, with a bar for what is fetched; their tied tensors are compared.

    Args:
        shards: what is going to be made.
        report: the models.
        folder: on the disk that was found large enough; nothing of the models is left in it.
    """
    inputs = ShardInputs(components=report.components, models=report.models, scratch=folder / PARTIAL_INPUTS)
    try:
        inputs.check_ties()
        with bar("fetch", sum(inputs.fetched_bytes(shard) for shard in shards)) as advance:
            inputs.on_fetch = advance
            yield inputs
    finally:
        shutil.rmtree(inputs.scratch, ignore_errors=True)


def _on_threads(
    plan: MergePlan, report: CompatibilityReport, folder: Path, options: MixOptions, meanwhile: Callable[[], object]
) -> MergeReport:
    from cocktail_hub.merge.download import fetch
    from cocktail_hub.merge.engine.execute import execute

    roots = fetch(report.models)
    with ExitStack() as opened, bar("merge", plan.output_bytes, delay=SHORT) as advance:
        sources = [component.open(roots) for component in report.components]
        for source in (source for component in sources for source in component):
            opened.callback(source.close)
        report.require_unchanged()
        return execute(plan, sources, folder, **_settings(options), on_progress=advance, meanwhile=meanwhile)


def _on_low_disk(
    plan: MergePlan, report: CompatibilityReport, folder: Path, options: MixOptions, meanwhile: Callable[[], object]
) -> MergeReport:
    from cocktail_hub.merge.engine.execute import execute

    missing = [shard for shard in plan.shards if not (folder / shard.path).is_file()]
    with windows(missing, report, folder) as inputs, bar("merge", plan.output_bytes) as advance:
        return execute(plan, inputs, folder, **_settings(options), on_progress=advance, meanwhile=meanwhile)


def _on_ray(plan: MergePlan, report: CompatibilityReport, folder: Path, options: MixOptions) -> MergeReport:
    """Workers fetch what they need for themselves; without `low_disk` it is downloaded here first, for all of them."""
    from cocktail_hub.merge.download import fetch
    from cocktail_hub.merge.engine.on_ray import execute_on_ray

    if not options.low_disk:
        fetch(report.models)
    inputs = ShardInputs(
        components=report.components, models=report.models, scratch=folder / PARTIAL_INPUTS, node_local=True
    )
    try:
        inputs.check_ties()
        with bar("merge", plan.output_bytes) as advance:
            return execute_on_ray(plan, inputs, folder, **_settings(options), on_progress=advance)
    finally:
        shutil.rmtree(inputs.scratch, ignore_errors=True)


class _Settings(TypedDict):
    threads: int | None
    max_memory: int | None
    device: str
    keep_journal: bool


def _settings(options: MixOptions) -> _Settings:
    return {
        "threads": options.threads,
        "max_memory": options.memory_bytes,
        "device": options.device,
        "keep_journal": True,
    }


def plan_mix(report: CompatibilityReport, max_shard_size: int | str = DEFAULT_SHARD_SIZE) -> MergePlan:
    """Decide every output file and how each tensor is computed, from headers alone."""
    from cocktail_hub.merge.plan import ComponentInput, plan_merge

    recipe = report.recipe
    names = tuple(model.name for model in report.models)
    return plan_merge(
        [
            ComponentInput(
                folder=component.folder, specs=component.specs, models=names, first_only=frozenset(component.taken)
            )
            for component in report.components
        ],
        method=recipe.method,
        weights=recipe.weights or (),
        parameters=recipe.parameters,
        layers=recipe.layers,
        normalize=recipe.normalize,
        dtype=None if recipe.dtype == "auto" else recipe.dtype,
        max_shard_size=parse_size(max_shard_size),
    )


def merge_modules(
    report: CompatibilityReport, components: Sequence[Component], folder: Path, options: MixOptions
) -> None:
    """Write the merged weights of some components only: the small modules (Dense) that a recipe repo contains.

    Args:
        report: the models, with every weight given.
        components: the components to write.
        folder: where to write them.
        options: how to merge.
    """
    require_device(options)
    wanted = replace(report, components=tuple(components))
    write_weights(plan_mix(wanted), wanted, folder, replace(options, engine="threads", low_disk=True))
    (folder / JOURNAL).unlink()

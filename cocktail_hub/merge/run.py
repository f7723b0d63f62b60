"""Run a merge plan: download the models, whole or a part of them at a time, and write the weights of the mix."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cocktail_hub.checkpoint.reader import NestedFiles
from cocktail_hub.compat.check import Model, Roots, places
from cocktail_hub.errors import MergeError, SourceError
from cocktail_hub.hub.client import HubFiles, download_all
from cocktail_hub.hub.progress import bar
from cocktail_hub.merge.engine.execute import OpenModels, execute
from cocktail_hub.merge.engine.journal import Journal
from cocktail_hub.merge.inputs import ShardInputs
from cocktail_hub.merge.options import DEFAULT_SHARD_SIZE, parse_size
from cocktail_hub.merge.plan import ComponentInput, plan_merge
from cocktail_hub.methods.contract import normalized
from cocktail_hub.storage.cache import JOURNAL
from cocktail_hub.storage.disk import disk_errors, require_free_space, size_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from cocktail_hub.compat import CompatibilityReport
    from cocktail_hub.compat.check import Component
    from cocktail_hub.merge.engine.execute import MergeReport, Runner, Upload
    from cocktail_hub.merge.options import MixOptions
    from cocktail_hub.merge.plan import MergePlan
    from cocktail_hub.resolve.resolve import ResolvedModel

PARTIAL_INPUTS = ".partial-inputs"
"""Folder beside the weights for what is fetched of the models while one of their files is made."""
SHORT = 2.0
"""Seconds that a merge of local files may take without a progress bar."""


def write_weights(
    plan: MergePlan,
    report: CompatibilityReport,
    folder: Path,
    options: MixOptions,
    *,
    upload: Upload | None = None,
    meanwhile: Callable[[], object] = lambda: None,
) -> MergeReport:
    """Write every weight file of a plan into a folder, and download what that takes. The journal stays there.

    `upload` is called with every finished file, which is then deleted; `meanwhile` once, when all is computed but the
    last file may still be on its way to the disk (see `execute`).

    Raises:
        DiskSpaceError: the disk has too little room; raised before anything is downloaded.
        MergeError: the merge could not be finished; finished files are kept for the next run.
        SourceError: a file from the Hub is not the one that it states.
        CocktailError: as `execute`.
    """
    shutil.rmtree(folder / PARTIAL_INPUTS, ignore_errors=True)  # of a run that was killed
    require_free_space(needed_space(plan, report, folder, options, upload=upload is not None))
    local = not options.low_disk and options.engine != "ray"
    run: Runner | None = None
    if options.engine == "ray":
        from cocktail_hub.merge.engine.on_ray import run_on_ray as run
    with (
        opened_models(plan, report, folder, options) as inputs,
        bar("publish" if upload else "merge", plan.output_bytes, delay=SHORT if local else 0.0) as advance,
        ExitStack() as stack,
    ):
        check = None
        if any(isinstance(place.files, HubFiles) for place in places(report.models)):
            from cocktail_hub.merge.materials import MaterialsCheck

            check = MaterialsCheck(report.models, report.recipe.materials, anew=options.force)
            stack.callback(check.close)
        made_from = check.state if check and not options.low_disk else ""
        earlier = None
        if check and isinstance(inputs, ShardInputs):
            earlier = Journal(folder, plan, made_from)
            inputs.check = None if earlier.finished else check  # parts of files passed before
        made = execute(
            plan,
            inputs,
            folder,
            run=run,
            threads=options.threads,
            max_memory=options.memory_bytes,
            device=options.device,
            upload=upload,
            on_progress=advance,
            meanwhile=meanwhile,
            keep_journal=True,
            made_from=made_from,
        )
        if earlier and earlier.materials and not earlier.missing:
            return replace(made, materials=earlier.materials)
        try:
            materials = check.wait() if check else {}
        except SourceError:
            (folder / JOURNAL).unlink(missing_ok=True)  # what it lists is made of damaged files
            raise
        if earlier:  # another run, which need not read any file, says the same
            Journal(folder, plan, made_from).conclude(materials)
        return replace(made, materials=materials)


@contextmanager
def opened_models(
    plan: MergePlan, report: CompatibilityReport, folder: Path, options: MixOptions
) -> Iterator[OpenModels | ShardInputs]:
    """Open the models whole, or shard by shard: on little disk, and on Ray, whose workers open them for themselves."""
    roots = None if options.low_disk else fetch(report.models, whole=False)
    with ExitStack() as stack:
        if roots is not None and options.engine != "ray":
            readers = []
            for index, model in enumerate(report.models):
                if isinstance(model.body.files, NestedFiles) and model.body.files.opened is not None:
                    roots[index] = replace(roots[index], nested=stack.enter_context(model.body.files.opened()))
            for component in report.components:
                readers.append(component.open(roots))
                for reader in readers[-1]:
                    stack.callback(reader.close)
            report.require_unchanged()
            yield OpenModels(readers)
            return
        inputs = ShardInputs(
            components=report.components,
            models=report.models,
            scratch=folder / PARTIAL_INPUTS,
            node_local=options.engine == "ray",
        )
        stack.callback(shutil.rmtree, inputs.scratch, ignore_errors=True)
        inputs.check_ties()
        if options.engine != "ray":
            with disk_errors(folder, plan.output_bytes):
                missing = Journal(folder, plan).missing
            total = sum(inputs.fetched_bytes(shard) for shard in missing)
            inputs.on_fetch = stack.enter_context(bar("fetch", total))
        yield inputs


def require_device(options: MixOptions) -> None:
    """Check that the engine and the device exist, before anything is downloaded or scored.

    Raises:
        MissingExtraError: the engine is Ray, which is not installed.
        MergeError: there is no such device here.
    """
    if options.engine == "ray":  # which finds a node that has the device
        from cocktail_hub.merge.engine.ray_cluster import import_ray

        import_ray()
    elif options.device != "cpu":
        import torch

        number = int(options.device.partition(":")[2] or 0)
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if number >= count:
            found = f"torch finds {count} CUDA devices here" if count else "torch finds no CUDA device here"
            other = "use a lower number" if count else "install a CUDA build of torch"
            raise MergeError(
                f"The merge cannot run on '{options.device}': {found}.\nNothing was downloaded or merged.\n"
                f"Use `cpu`, which gives the same bytes, or {other}."
            )


def needed_space(
    plan: MergePlan, report: CompatibilityReport, folder: Path | None, options: MixOptions, *, upload: bool = False
) -> list[tuple[Path, int, str]]:
    """Return the bytes that a mix still takes: for each folder how many, and what for.

    Part of the mix may be in `folder` already; `None`: the folder is not known yet. With `upload`, each file is deleted
    before the next one is written.
    """
    written = size_of(folder) if folder else 0
    folder = folder or Path()
    if not options.low_disk:
        mix = (folder, max(0, plan.output_bytes - written), "the mix")
        downloads = bytes_to_fetch(report.models)
        return [(options.hub.cache_folder, downloads, "the downloads"), mix] if downloads else [mix]
    cache = options.hub.cache_folder
    inputs = ShardInputs(components=report.components, models=report.models, scratch=folder)
    whole = sum(files.missing(paths) for files, paths in inputs.whole_files())
    partial = max((inputs.fetched_bytes(shard) for shard in plan.shards), default=0)
    largest = max((shard.nbytes for shard in plan.shards), default=0)
    result, purpose = (largest, "one file of the mix") if upload else (plan.output_bytes, "the mix")
    return [
        (cache, whole, "files that cannot be read in parts"),
        (folder, partial, "the parts of the models that one file is made from"),
        (folder, max(0, result - written), purpose),
    ]


def plan_mix(report: CompatibilityReport, max_shard_size: int | str = DEFAULT_SHARD_SIZE) -> MergePlan:
    """Decide every output file and how each tensor is computed, from headers alone."""
    recipe = report.recipe
    names = tuple(model.name for model in report.models)
    return plan_merge(
        [
            ComponentInput(
                folder=component.folder,
                specs=component.specs,
                models=names,
                stacked=recipe.stacked,
                first_only=frozenset(component.taken),
                by_token=component.mappings[report.first].by_token,
                apart=component.apart,
                rows=component.rows[0].size if component.rows else 0,
            )
            for component in report.components
        ],
        method=recipe.method,
        weights=normalized(recipe.weights or ()) if recipe.stacked else recipe.weights or (),
        parameters=recipe.parameters,
        own_parameters=[ingredient.parameters for ingredient in recipe.ingredients],
        seed=recipe.seed,
        layers=recipe.layers,
        keep=recipe.kept,
        normalize=recipe.normalize,
        dtype=None if recipe.dtype == "auto" else recipe.dtype,
        max_shard_size=parse_size(max_shard_size),
    )


def write_planned(plan: MergePlan, folder: Path) -> None:
    """Write the weight files of a plan as holes that have headers only: what checking a mix takes."""
    for shard in plan.shards:
        path = folder / shard.path
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(shard.header)
            file.truncate(shard.nbytes)
    for index, component in enumerate(plan.components):
        if component.index_path:
            (folder / component.index_path).write_text(json.dumps(plan.index(index)), encoding="utf-8")


def merge_modules(
    report: CompatibilityReport, components: Sequence[Component], folder: Path, options: MixOptions
) -> None:
    """Write the merged weights of some components only: the small modules (Dense) that a recipe repo contains."""
    require_device(options)
    wanted = replace(report, components=tuple(components))
    write_weights(plan_mix(wanted), wanted, folder, replace(options, engine="threads", low_disk=True))
    (folder / JOURNAL).unlink()


CARD = "README.md"
"""Downloaded, too, so that the card of the mix can name the licence without another request."""


def bytes_to_fetch(models: Sequence[Model]) -> int:
    """Return the bytes that the models need and that are not on this machine yet; what they share counts once."""
    wanted = {place.files: place.model_files.needed for place in places(models)}
    return sum(files.missing(paths) for files, paths in wanted.items() if isinstance(files, HubFiles))


def fetch(models: Sequence[Model], *, code: bool = False, whole: bool = True) -> list[Roots]:
    """Download the files that a mix needs, several at a time, unless they are on this machine already.

    Args:
        models: whose files.
        code: whether to download the models' own Python files, too.
        whole: whether recipes inside the recipe are mixed into folders.

    Returns:
        The folders of each model's files, in the same order.
    """
    wanted: dict[HubFiles, list[str]] = {}
    for place in (place for model in models for place in (model.located, model.body)):
        if isinstance(files := place.files, HubFiles):
            paths = [*place.model_files.needed, *(place.model_files.code if code else ())]
            if not files.hub.offline or files.cached(CARD) is not None:  # offline, a mix can do without a card
                paths.append(CARD)
            wanted[files] = [path for path in paths if path in files.sizes]
    folders = dict(zip(wanted, download_all(list(wanted.items())), strict=True)) if wanted else {}

    def root(place: ResolvedModel) -> Path:
        if whole and isinstance(place.files, NestedFiles):
            return place.files.whole()
        return folders[place.files] if isinstance(place.files, HubFiles) else place.root

    return [
        Roots(body=root(model.body), adapter=root(model.located) if model.adapted else None, home=root(model.home))
        for model in models
    ]

"""What a mix would take: bytes to download, disk, memory, licences. Known before any weights are downloaded."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from cocktail_hub.card import combine_licenses
from cocktail_hub.engine import needed_room
from cocktail_hub.fetching import bytes_to_fetch
from cocktail_hub.options import MixOptions
from cocktail_hub.origin import read_origin, require_own_folders
from cocktail_hub.pipeline import check_models, plan_mix
from cocktail_hub.provenance import gather_facts
from cocktail_hub.resolve import resolve

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cocktail_hub.card import LicenseInfo
    from cocktail_hub.checking import Model


@dataclass(frozen=True, kw_only=True)
class ModelPreview:
    """One model that goes in."""

    model: str
    """Hub id or folder."""
    revision: str | None
    """Commit; `None` for a local folder, whose content is not read for this."""
    weight: float | None
    """Share; `None` where it is still to be computed, or for the base of task vectors."""
    nbytes: int
    """Bytes of the files that the mix needs."""
    to_download: int
    """Bytes of them that are not on this machine yet."""
    license: str | None
    """Licence that its card names."""


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What a mix would take and give."""

    method: str
    """Merge method."""
    architecture: str
    """Class of the result."""
    task: str
    """Hub task of the result."""
    models: tuple[ModelPreview, ...]
    """Base first where there is one, then the ingredients in recipe order."""
    tensors: int
    """Number of tensors in the result."""
    output_bytes: int
    """Size of the result's weight files."""
    files: tuple[str, ...]
    """The result's weight files."""
    input_bytes: int
    """Bytes of weights that the merge reads, from all models together."""
    largest_file: int
    """Bytes of the largest of the result's weight files."""
    largest_input: int
    """Bytes of all models together that one weight file is made from, at most."""
    to_download: int
    """Bytes of the models, and of what adapters adapt, that are not on this machine yet."""
    peak_disk: int
    """Bytes that `mix` adds to the disk at most, as the options say: downloads and result; with `low_disk`, the result
    and what one of its files is made from. Publishing with `low_disk` has one file of the result at a time."""
    peak_memory: int
    """Bytes of the merge's buffers, whatever the size of the models."""
    license: str | None
    """Licence of the result, as far as it follows from the ingredients'."""
    license_note: str
    """What people should know of the licences."""
    notes: tuple[str, ...]
    """Differences between the ingredients that people should know of."""

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return asdict(self)


def check(
    source: Any, *, revision: str | None = None, subfolder: str = "", options: MixOptions | None = None, **hub: Any
) -> Preview:
    """Tell whether a recipe can be mixed, and what it would take, without downloading weights.

    Args:
        source: a recipe, as `mix` takes it.
        revision: of the recipe's repo, when `source` is a Hub id.
        subfolder: of the recipe's repo or folder.
        options: how the mix would be made.
        **hub: fields of `HubOptions` in short: `token`, `local_files_only`, `cache_dir`.

    Raises:
        CocktailError: the ingredients do not fit together, or cannot be read; says which tensor of which model.
    """
    options = options or MixOptions()
    options = replace(options, hub=replace(options.hub, **hub))
    origin = read_origin(source, options.hub, revision=revision, subfolder=subfolder)
    require_own_folders(origin)
    pinned = resolve(origin.recipe, options.hub, digests=False)
    checked = check_models(pinned, options)
    plan = plan_mix(checked, options.max_shard_size)
    facts = gather_facts(checked.recipe, checked.kind, options.hub)
    combined = combine_licenses(dict(facts.licenses))
    open_ = pinned.weights is None
    return Preview(
        method=pinned.method,
        architecture=checked.kind.architecture,
        task=checked.kind.task,
        models=tuple(_model(model, facts.licenses, weighed=not open_) for model in checked.models),
        tensors=sum(len(shard.tensors) for shard in plan.shards),
        output_bytes=plan.output_bytes,
        files=tuple(shard.path for shard in plan.shards),
        input_bytes=plan.input_bytes,
        largest_file=max((shard.nbytes for shard in plan.shards), default=0),
        largest_input=max((shard.input_bytes for shard in plan.shards), default=0),
        to_download=bytes_to_fetch(checked.models),
        peak_disk=sum(nbytes for _, nbytes, _ in needed_room(plan, checked, None, options)),
        peak_memory=plan.peak_memory(options.threads, options.memory_bytes, options.device),
        license=combined.license,
        license_note=combined.note,
        notes=checked.notes,
    )


def _model(model: Model, licenses: Mapping[str, LicenseInfo | None], *, weighed: bool) -> ModelPreview:
    located = model.located
    license_ = licenses.get(located.pin.model)
    return ModelPreview(
        model=located.pin.model,
        revision=located.pin.revision,
        weight=getattr(located.pin, "weight", None) if weighed else None,
        nbytes=sum(place.files.sizes[path] for place in {located, model.body} for path in place.contents.needed),
        to_download=bytes_to_fetch([model]),
        license=license_.label if license_ else None,
    )

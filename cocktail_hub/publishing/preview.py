"""What a mix would take and give, from its plan: sizes, disk, memory and licences."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from cocktail_hub.compat.preview import ModelPreview, Preview
from cocktail_hub.merge.run import bytes_to_fetch, needed_space
from cocktail_hub.publishing.card.facts import combine_licenses, gather_facts
from cocktail_hub.recipe import Ingredient
from cocktail_hub.recipe.validation import plain

if TYPE_CHECKING:
    from cocktail_hub.compat.check import CompatibilityReport, Model
    from cocktail_hub.merge.options import MixOptions
    from cocktail_hub.merge.plan import MergePlan


def preview_mix(report: CompatibilityReport, plan: MergePlan, options: MixOptions, *, weighed: bool) -> Preview:
    """Preview a mix that is checked and planned; `weighed` says whether the weights in its recipe are known."""
    recipe, shards = report.recipe, plan.shards
    licenses = gather_facts(recipe, report.kind, options.hub).licenses
    combined = combine_licenses(licenses)

    def preview(model: Model) -> ModelPreview:
        reference, license_info = model.located.reference, licenses.get(model.located.reference.model)
        return ModelPreview(
            model=reference.model,
            revision=reference.revision,
            weight=plain(reference.weight) if weighed and isinstance(reference, Ingredient) else None,
            nbytes=sum(
                place.files.sizes[path] for place in {model.located, model.body} for path in place.model_files.needed
            ),
            to_download=bytes_to_fetch([model]),
            license=license_info.label if license_info else None,
        )

    return Preview(
        method=recipe.method,
        architecture=report.kind.architecture,
        task=report.kind.task,
        models=tuple(map(preview, report.models)),
        tensors=sum(len(shard.tensors) for shard in shards),
        output_bytes=plan.output_bytes,
        files=tuple(shard.path for shard in shards),
        input_bytes=plan.input_bytes,
        largest_file=max((shard.nbytes for shard in shards), default=0),
        largest_input=max((shard.input_bytes for shard in shards), default=0),
        to_download=bytes_to_fetch(report.models),
        peak_disk=sum(nbytes for _, nbytes, _ in needed_space(plan, report, None, options)),
        peak_memory=plan.peak_memory(options.threads, options.memory_bytes, options.device),
        license=combined.license,
        license_note=combined.note,
        numbers=numbers_of(plan) if recipe.varies or recipe.rules else {},
        notes=report.notes,
    )


def numbers_of(plan: MergePlan) -> dict[str, dict[str, Any]]:
    """Return what each tensor is made from."""
    return {
        str(PurePosixPath(plan.components[shard.component].folder, tensor.name)): {
            "models": [plan.components[shard.component].models[model] for model in tensor.models],
            "weights": list(tensor.weights),
            "parameters": dict(tensor.parameters),
        }
        for shard in plan.shards
        for tensor in shard.tensors
    }

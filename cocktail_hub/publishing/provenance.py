"""What a card says besides the recipe: licences of the ingredients, size and versions of the result."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.checkpoint.weight_files import read_weight_files
from cocktail_hub.evaluation.loading import AUTO_CLASS_OF_TASK
from cocktail_hub.hub import HubFiles
from cocktail_hub.methods.dtypes import MIXABLE, TORCH_NAMES
from cocktail_hub.publishing.card import (
    CardFacts,
    languages_of,
    license_of,
    read_metadata,
    render_text,
)
from cocktail_hub.resolve.resolve import locate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from cocktail_hub.checkpoint.header import TensorSpec
    from cocktail_hub.compat import ModelKind
    from cocktail_hub.hub import Hub
    from cocktail_hub.merge.plan import MergePlan
    from cocktail_hub.recipe import ModelReference, Recipe, ResolvedRecipe

PACKAGES = ("cocktail-hub", "transformers", "sentence-transformers", "huggingface_hub", "safetensors", "torch")
"""Packages whose versions a card names."""
PROCESSOR_OF_TASK = {
    "image-classification": "AutoImageProcessor",
    "image-feature-extraction": "AutoImageProcessor",
    "audio-classification": "AutoFeatureExtractor",
    "automatic-speech-recognition": "AutoProcessor",
    "image-text-to-text": "AutoProcessor",
    "zero-shot-image-classification": "AutoProcessor",
}
"""Hub task -> the class of transformers that prepares the inputs; `AutoTokenizer` for the rest."""


def gather_facts(recipe: Recipe, kind: ModelKind, hub: Hub, specs: Iterable[TensorSpec] | None = None) -> CardFacts:
    """Read the ingredients' cards, and count the merged weights where there are weights.

    Args:
        recipe: pinned.
        kind: what the mix is.
        hub: the Hub to read from.
        specs: of the merged tensors; `None` for a recipe without weights.
    """
    references = recipe.all_references
    with ThreadPoolExecutor(max(1, len(references))) as pool:
        cards = dict(
            zip(
                [reference.model for reference in references],
                pool.map(lambda reference: _card(reference, hub), references),
                strict=True,
            )
        )
    return CardFacts(
        kind="recipe" if specs is None else "merged",
        library="sentence-transformers" if kind.sentence_transformers else "transformers",
        pipeline_tag=kind.task,
        architecture=kind.architecture or None,
        load_classes=_load_classes(kind),
        processor=PROCESSOR_OF_TASK.get(kind.task, "AutoTokenizer") if kind.model_type else None,
        licenses={} if None in cards.values() else {model: license_of(card or {}) for model, card in cards.items()},
        languages={model: languages_of(card or {}) for model, card in cards.items()},
        versions={package: version(package) for package in PACKAGES},
        **({} if specs is None else _weights_facts(specs)),
    )


def write_card(resolved: ResolvedRecipe, kind: ModelKind, plan: MergePlan, folder: Path, hub: Hub) -> None:
    """Write the card of a mix into its folder; its weights may still be on their way there."""
    card = render_text(resolved, gather_facts(resolved, kind, hub, planned_specs(plan)))
    (folder / "README.md").write_text(card, encoding="utf-8", newline="")


def _card(reference: ModelReference, hub: Hub) -> Mapping[str, Any] | None:
    """Metadata of a model's card; empty where it has none, `None` where that cannot be known offline."""
    if reference.digest is not None and not Path(reference.model).expanduser().is_dir():
        return {}  # a folder that is gone since it was mixed
    files = locate(replace(reference, digest=None), hub).files
    if isinstance(files, HubFiles) and hub.offline and files.cached("README.md") is None:
        return None
    return read_metadata(files.read("README.md").decode("utf-8", "replace")) if "README.md" in files.sizes else {}


def _load_classes(kind: ModelKind) -> tuple[str, ...]:
    """Classes that load the mix, best first. `AutoModel` would add a decoder to an encoder alone."""
    own = (kind.sentence_transformers,) if kind.sentence_transformers else ()
    if not kind.model_type:
        return own
    if kind.architecture.endswith("ForCTC"):
        return (*own, "AutoModelForCTC")
    alone = kind.architecture.endswith("EncoderModel")
    return (*own, kind.architecture if alone else AUTO_CLASS_OF_TASK.get(kind.task, "AutoModel"))


def planned_specs(plan: MergePlan) -> Iterator[TensorSpec]:
    """The tensors that a plan makes."""
    return (tensor.spec for shard in plan.shards for tensor in shard.tensors)


def stored_specs(folder: Path) -> Iterator[TensorSpec]:
    """The tensors in the weight files of a mix, from their headers."""
    files = LocalFiles(folder)
    weights = sorted({path.rpartition("/")[0] for path in files.sizes if path.endswith(".safetensors")})
    return (spec for part in weights for spec in read_weight_files(files, part).specs.values())


def _weights_facts(specs: Iterable[TensorSpec]) -> dict[str, Any]:
    """`parameters` of tensors, and `dtype`, the type that most of them have: fields of `CardFacts`."""
    counts = Counter[str]()
    for spec in specs:
        if spec.dtype in MIXABLE:
            counts[spec.dtype] += spec.numel
    return {"parameters": counts.total(), "dtype": TORCH_NAMES[counts.most_common(1)[0][0]] if counts else None}

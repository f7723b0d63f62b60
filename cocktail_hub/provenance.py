"""What a card says besides the recipe: licences of the ingredients, size and versions of the result."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cocktail_hub.card import CardFacts, languages_of, license_of, read_metadata, render_text
from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.checkpoint.layout import read_layout
from cocktail_hub.checkpoint.spec import MIXABLE, TORCH_NAMES
from cocktail_hub.hub import HubFiles
from cocktail_hub.loading import AUTO_CLASS_OF_TASK
from cocktail_hub.resolve import locate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from cocktail_hub.checking import Kind
    from cocktail_hub.checkpoint.spec import TensorSpec
    from cocktail_hub.hub import HubOptions
    from cocktail_hub.merge.plan import MergePlan
    from cocktail_hub.recipe import Pin, Recipe, ResolvedRecipe

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


def gather_facts(
    recipe: Recipe, kind: Kind, options: HubOptions, specs: Iterable[TensorSpec] | None = None
) -> CardFacts:
    """Read the ingredients' cards, and count the merged weights where there are weights.

    Args:
        recipe: pinned.
        kind: what the mix is.
        options: how to talk to the Hub.
        specs: of the merged tensors; `None` for a recipe without weights.
    """
    pins = recipe.all_pins
    with ThreadPoolExecutor(max(1, len(pins))) as pool:
        cards = dict(zip([pin.model for pin in pins], pool.map(lambda pin: _card(pin, options), pins), strict=True))
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


def write_card(resolved: ResolvedRecipe, kind: Kind, plan: MergePlan, folder: Path, options: HubOptions) -> None:
    """Write the card of a mix into its folder; its weights may still be on their way there."""
    card = render_text(resolved, gather_facts(resolved, kind, options, planned_specs(plan)))
    (folder / "README.md").write_text(card, encoding="utf-8", newline="")


def _card(pin: Pin, options: HubOptions) -> Mapping[str, Any] | None:
    """Metadata of a model's card; empty where it has none, `None` where that cannot be known offline."""
    if pin.digest is not None and not Path(pin.model).expanduser().is_dir():
        return {}  # a folder that is gone since it was mixed
    files = locate(replace(pin, digest=None), options).files
    if isinstance(files, HubFiles) and options.offline and files.cached("README.md") is None:
        return None
    return read_metadata(files.read("README.md").decode("utf-8", "replace")) if "README.md" in files.sizes else {}


def _load_classes(kind: Kind) -> tuple[str, ...]:
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
    return (spec for part in weights for spec in read_layout(files, part).specs.values())


def _weights_facts(specs: Iterable[TensorSpec]) -> dict[str, Any]:
    """`parameters` of tensors, and `dtype`, the type that most of them have: fields of `CardFacts`."""
    counts = Counter[str]()
    for spec in specs:
        if spec.dtype in MIXABLE:
            counts[spec.dtype] += spec.numel
    return {"parameters": counts.total(), "dtype": TORCH_NAMES[counts.most_common(1)[0][0]] if counts else None}

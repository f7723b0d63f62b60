"""What a card says besides the recipe: licences of the ingredients, size and versions of the result."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cocktail_hub.card import CardFacts, languages_of, license_of, read_metadata, render_card
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


def gather_facts(recipe: Recipe, kind: Kind, options: HubOptions, folder: Path | None = None) -> CardFacts:
    """Read the ingredients' cards, and the merged weights' headers where there are weights.

    Args:
        recipe: pinned.
        kind: what the mix is.
        options: how to talk to the Hub.
        folder: of the finished mix; `None` for a recipe without weights.
    """
    pins = recipe.all_pins
    with ThreadPoolExecutor(max(1, len(pins))) as pool:
        cards = dict(zip([pin.model for pin in pins], pool.map(lambda pin: _card(pin, options), pins), strict=True))
    return CardFacts(
        kind="recipe" if folder is None else "merged",
        library="sentence-transformers" if kind.sentence_transformers else "transformers",
        pipeline_tag=kind.task,
        architecture=kind.architecture or None,
        load_classes=_load_classes(kind),
        processor=PROCESSOR_OF_TASK.get(kind.task, "AutoTokenizer") if kind.model_type else None,
        licenses={} if None in cards.values() else {model: license_of(card or {}) for model, card in cards.items()},
        languages={model: languages_of(card or {}) for model, card in cards.items()},
        versions={package: version(package) for package in PACKAGES},
        **(weights_facts(_specs(folder)) if folder else {}),
    )


def write_card(resolved: ResolvedRecipe, kind: Kind, folder: Path, options: HubOptions) -> None:
    """Write the card of a finished mix into its folder."""
    card = render_card(resolved, gather_facts(resolved, kind, options, folder))
    (folder / "README.md").write_text(str(card), encoding="utf-8", newline="")


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


def _specs(folder: Path) -> Iterator[TensorSpec]:
    files = LocalFiles(folder)
    weights = sorted({path.rpartition("/")[0] for path in files.sizes if path.endswith(".safetensors")})
    return (spec for part in weights for spec in read_layout(files, part).specs.values())


def weights_facts(specs: Iterable[TensorSpec]) -> dict[str, Any]:
    """`parameters` of tensors, and `dtype`, the type that most of them have: fields of `CardFacts`."""
    counts = Counter[str]()
    for spec in specs:
        if spec.dtype in MIXABLE:
            counts[spec.dtype] += spec.numel
    return {"parameters": counts.total(), "dtype": TORCH_NAMES[counts.most_common(1)[0][0]] if counts else None}

"""What a card says besides the recipe: classes that load the mix, size, licences and versions."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.checkpoint.weight_files import read_weight_files
from cocktail_hub.hub import HubFiles
from cocktail_hub.methods.dtypes import MIXABLE, TORCH_NAMES
from cocktail_hub.publishing.card.header import read_metadata
from cocktail_hub.publishing.card.license import LicenseInfo, license_of
from cocktail_hub.recipe.task import TASKS
from cocktail_hub.resolve.resolve import open_model

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from cocktail_hub.checkpoint.header import TensorSpec
    from cocktail_hub.compat import ModelKind
    from cocktail_hub.hub import Hub
    from cocktail_hub.merge.plan import MergePlan
    from cocktail_hub.recipe import ModelReference, Recipe

Form = Literal["merged", "recipe", "both"]
"""`merged`: weights; `recipe`: no weights; `both`: weights whose `recipe.json` is offered as a recipe, too."""
PACKAGES = ("cocktail-hub", "transformers", "sentence-transformers", "huggingface_hub", "safetensors", "torch")
"""Packages whose versions a card names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFacts:
    """Everything a card needs besides the recipe. Models are named as in the recipe."""

    form: Form = "merged"
    """What is published."""
    repo_id: str | None = None
    """`org/name` on the Hub; `None` for a card in a local folder."""
    library: Literal["transformers", "sentence-transformers"] = "transformers"
    """The library that the mixed model is for."""
    pipeline_tag: str | None = None
    """Hub task, e.g. `text-generation`."""
    architecture: str | None = None
    """Class of the model in config.json, e.g. `BertModel`; `None` if transformers does not load it."""
    load_classes: tuple[str, ...] = ("AutoModel",)
    """Classes that load the mix, best first, e.g. `SentenceTransformer`, `AutoModel`."""
    processor: str | None = "AutoTokenizer"
    """Class that loads the preprocessing, e.g. `AutoProcessor`; `None` if there is none."""
    licenses: Mapping[str, LicenseInfo | None] = field(default_factory=dict)
    """Model -> licence, `None` if it declares none. Empty if the cards could not be read."""
    languages: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Model -> languages that its card names, in its order."""
    parameters: int | None = None
    """Number of parameters of the mix."""
    dtype: str | None = None
    """The dtype of most of its parameters, e.g. `bfloat16`."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Package -> version that made the mix."""


def gather_facts(
    recipe: Recipe,
    kind: ModelKind,
    hub: Hub,
    specs: Iterable[TensorSpec] | None = None,
    *,
    form: Form = "merged",
    repo_id: str | None = None,
) -> CardFacts:
    """Read the cards of pinned ingredients, and count the parameters in `specs`, the tensors of the mix."""
    references = recipe.all_references
    with ThreadPoolExecutor(max(1, len(references))) as pool:
        found = pool.map(lambda reference: _card_metadata(reference, hub), references)
        cards = {reference.model: metadata for reference, metadata in zip(references, found, strict=True)}
    counts = Counter[str]()
    for spec in specs or ():
        if spec.dtype in MIXABLE:
            counts[spec.dtype] += spec.numel
    return CardFacts(
        form=form,
        repo_id=repo_id,
        library="sentence-transformers" if kind.sentence_transformers else "transformers",
        pipeline_tag=kind.task,
        architecture=kind.architecture or None,
        load_classes=_load_classes(kind),
        processor=TASKS[kind.task].processor if kind.model_type else None,
        licenses={} if None in cards.values() else {model: license_of(card or {}) for model, card in cards.items()},
        languages={model: languages_of(card or {}) for model, card in cards.items()},
        parameters=None if specs is None else counts.total(),
        dtype=TORCH_NAMES[counts.most_common(1)[0][0]] if counts else None,
        versions={package: version(package) for package in PACKAGES},
    )


def _card_metadata(reference: ModelReference, hub: Hub) -> Mapping[str, Any] | None:
    """Return the metadata of a model's card; empty if it has no card, `None` if that cannot be known offline."""
    if reference.digest is not None and not Path(reference.model).expanduser().is_dir():
        return {}  # the folder was removed after it was mixed
    files = open_model(replace(reference, digest=None), hub).files
    if isinstance(files, HubFiles) and hub.offline and files.cached("README.md") is None:
        return None
    return read_metadata(files.read("README.md").decode("utf-8", "replace")) if "README.md" in files.sizes else {}


def _load_classes(kind: ModelKind) -> tuple[str, ...]:
    own = (kind.sentence_transformers,) if kind.sentence_transformers else ()
    if not kind.model_type:
        return own
    if kind.architecture.endswith("ForCTC"):
        return (*own, "AutoModelForCTC")
    if kind.architecture.endswith("EncoderModel"):
        return (*own, kind.architecture)  # `AutoModel` would add a decoder to an encoder alone
    return (*own, TASKS[kind.task].auto_class)


def languages_of(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the languages in the metadata of a card, in its order."""
    named = metadata.get("language")
    return tuple(one for one in (named if isinstance(named, list) else [named]) if isinstance(one, str) and one)


def planned_specs(plan: MergePlan) -> Iterator[TensorSpec]:
    """Return the tensors that a plan writes."""
    return (tensor.spec for shard in plan.shards for tensor in shard.tensors)


def stored_specs(folder: Path) -> Iterator[TensorSpec]:
    """Return the tensors in the weight files of a mix, from their headers."""
    files = LocalFiles(folder)
    weights = sorted({path.rpartition("/")[0] for path in files.sizes if path.endswith(".safetensors")})
    return (spec for component in weights for spec in read_weight_files(files, component).specs.values())

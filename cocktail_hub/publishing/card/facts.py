"""What a card says besides the recipe: classes that load the mix, size, licences and versions."""

from __future__ import annotations

import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.checkpoint.weight_files import read_weight_files
from cocktail_hub.compat.config import class_name
from cocktail_hub.hub import HubFiles
from cocktail_hub.methods.dtypes import MIXABLE, TORCH_NAMES
from cocktail_hub.publishing.card.header import read_metadata
from cocktail_hub.publishing.card.markdown import code, escape, listing
from cocktail_hub.recipe.task import TASKS
from cocktail_hub.resolve.resolve import open_model
from cocktail_hub.storage.disk import LARGEST_SETTINGS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

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
    tags: tuple[str, ...] = ()
    """The user's own tags."""
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
    chart: str | None = None
    """File beside the card that shows the evidence; `None` if there is none."""
    results: tuple[Mapping[str, Any], ...] = ()
    """What the mix achieves, as the Hub's `model-index` has it."""
    notes: tuple[str, ...] = ()
    """What the check found that does not spoil the mix, a sentence each, with public names."""


def gather_facts(
    recipe: Recipe,
    kind: ModelKind,
    hub: Hub,
    specs: Iterable[TensorSpec] | None = None,
    *,
    form: Form = "merged",
    repo_id: str | None = None,
    tags: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
    results: Mapping[str, Any] | None = None,
) -> CardFacts:
    """Read the cards of pinned ingredients, and count the parameters in `specs`, the tensors of the mix.

    `results` are the figures of an evaluation, as JSON values.
    """
    references = recipe.all_references
    with ThreadPoolExecutor(max(1, len(references))) as pool:
        found = pool.map(lambda reference: card_metadata(reference, hub), references)
        cards = {reference.model: metadata for reference, metadata in zip(references, found, strict=True)}
    counts = Counter[str]()
    for spec in specs or ():
        if spec.dtype in MIXABLE:
            counts[spec.dtype] += spec.numel
    shown: tuple[Mapping[str, Any], ...] = ()
    if results is not None:
        from cocktail_hub.publishing.card.results import hub_results  # most cards have none

        shown = tuple(hub_results(results, recipe, kind.task, repo_id or ""))
    own = (kind.sentence_transformers,) if kind.sentence_transformers else ()
    return CardFacts(
        form=form,
        repo_id=repo_id,
        tags=tags,
        notes=notes,
        results=shown,
        library="sentence-transformers" if kind.sentence_transformers else "transformers",
        pipeline_tag=kind.task,
        architecture=kind.architecture or None,
        load_classes=(*own, class_name(TASKS[kind.task].auto_class, kind.architecture)) if kind.model_type else own,
        processor=TASKS[kind.task].processor if kind.model_type else None,
        licenses={} if None in cards.values() else {model: license_of(card or {}) for model, card in cards.items()},
        languages={model: languages_of(card or {}) for model, card in cards.items()},
        parameters=None if specs is None else counts.total(),
        dtype=TORCH_NAMES[counts.most_common(1)[0][0]] if counts else None,
        versions={package: version(package) for package in PACKAGES},
    )


def card_metadata(reference: ModelReference, hub: Hub) -> Mapping[str, Any] | None:
    """Return the metadata of a model's card; empty if it has no card, `None` if that cannot be known offline."""
    if reference.digest is not None and not Path(reference.model).expanduser().is_dir():
        return {}  # the folder was removed after it was mixed
    files = open_model(replace(reference, digest=None), hub).files
    if isinstance(files, HubFiles) and hub.offline and files.cached("README.md") is None:
        return None
    if not 0 < files.sizes.get("README.md", 0) <= LARGEST_SETTINGS:
        return {}
    return read_metadata(files.read("README.md").decode("utf-8", "replace"))


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


# -- licences: never a guess --

NOTICE_ONLY = frozenset(
    {
        *("bsd", "bsd-2-clause", "bsd-3-clause", "bsl-1.0", "isc", "mit", "ncsa", "postgresql", "zlib"),
        *("cc0-1.0", "pddl", "unlicense", "wtfpl"),
    }
)
"""Licences that require no more than their notice, so a work that contains such a part may be under any other."""
_MAY_CONTAIN_APACHE = frozenset(("agpl-3.0", "gpl-3.0"))
"""Licences that may contain Apache-2.0 parts, according to the Apache and Free Software Foundations."""
_NO_DERIVATIVES = re.compile(r"(^|-)nd(-|$)|no-?deriv")
_NO_COMMERCE = re.compile(r"(^|-)nc(-|$)|non-?commercial|research")
_OWN_TERMS = re.compile(r"^(llama|gemma|grok|lfm|deepfloyd|falcon)|rail|community|terms|^other$")
_LLAMA_NAME = re.compile(r"^llama-?[3-9]")


@dataclass(frozen=True, slots=True, kw_only=True)
class LicenseInfo:
    """The licence that one model's card declares."""

    license: str
    """Hub licence id in lower case, e.g. `apache-2.0`, or `other`; several are joined by a comma."""
    name: str | None = None
    """`license_name` of an `other` licence."""
    link: str | None = None
    """`license_link`: an address, or a file in the model's repo."""

    @property
    def label(self) -> str:
        """Name for people: the id, or the name of an `other` licence."""
        return self.name if self.name and self.license == "other" else self.license

    @property
    def key(self) -> str:
        """Equal for equal licences. An `other` one without a name is identified by its link alone."""
        return self.link or "other" if self.label == "other" else self.label.casefold()

    @property
    def terms(self) -> str:
        """Id and name as one word with hyphens, in which terms such as `nc` can be recognised."""
        return f"{self.license} {self.name or ''}".lower().replace(" ", "-").replace(",-", "-")

    @property
    def restrictions(self) -> list[str]:
        """What it demands of whoever uses or shares the mix."""
        said = {
            "does not allow sharing adapted versions, and a mix is one": _NO_DERIVATIVES.search(self.terms),
            "limits commercial use": _NO_COMMERCE.search(self.terms),
            "has terms of its own that bind whoever uses or shares the mix": _OWN_TERMS.search(self.license),
            "requires that the name of a derived model begins with `Llama`": _LLAMA_NAME.search(self.label.lower()),
        }
        return [words for words, match in said.items() if match]


@dataclass(frozen=True, slots=True, kw_only=True)
class License:
    """What follows from the ingredients' licences for the mix."""

    license: str | None = None
    """Hub licence id; `None` if an ingredient has none, because then nobody may license the mix."""
    license_name: str | None = None
    """Name of an `other` licence: lower case, digits, dots and hyphens."""
    license_link: str | None = None
    """Address of an `other` licence."""
    note: str = ""
    """Markdown for the card: where the licence comes from and what it forbids."""
    conflict: bool = False
    """Whether no single licence covers the mix, or one of them forbids sharing it."""


def license_of(metadata: Mapping[str, Any]) -> LicenseInfo | None:
    """Read the licence in the metadata of a card; `None` if it names none, or says `unknown`."""
    named = metadata.get("license")
    ids = [one.strip().lower() for one in (named if isinstance(named, list) else [named]) if isinstance(one, str)]
    ids = [one for one in ids if one not in ("", "unknown")]
    name, link = (
        value.strip() or None if isinstance(value := metadata.get(f"license_{key}"), str) else None
        for key in ("name", "link")
    )
    return LicenseInfo(license=", ".join(ids), name=name, link=link) if ids else None


def combine_licenses(licenses: Mapping[str, LicenseInfo | None]) -> License:
    """Derive the licence of a mix.

    Args:
        licenses: model -> its licence, or `None` if it declares none; in recipe order.

    Returns:
        The one licence that all share, or that the others may be part of; else `other`, the names of all, and a
        note that says so. No licence if an ingredient has none. The note also names terms that forbid commercial use
        or adapted versions, and licences with terms of use of their own.
    """
    if not licenses:
        return License(note="The licences of the ingredients were not read.")
    models: dict[str, list[str]] = {}
    infos: dict[str, LicenseInfo] = {}  # the first of each, by its key
    for model, info in licenses.items():
        if info is not None:
            infos.setdefault(info.key, info)
            models.setdefault(info.key, []).append(model)
    without = [escape(model) for model, info in licenses.items() if info is None]
    if without:
        declares = "declares" if len(without) == 1 else "declare"
        result = License(
            note=f"{listing(without)} {declares} no licence, so this card declares none for the mix: without a "
            "licence, the authors have given nobody the right to share it. Ask them."
        )
    else:
        result = _combined(list(infos.values()))
    warnings = [
        f"{code(info.label)} ({listing([escape(model) for model in models[key]])}) {listing(found)}."
        for key, info in infos.items()
        if (found := info.restrictions)
    ]
    forbidden = any(_NO_DERIVATIVES.search(info.terms) for info in infos.values())
    note = " ".join(filter(None, [result.note, *warnings]))
    return replace(result, note=note, conflict=result.conflict or forbidden)


def _combined(infos: Sequence[LicenseInfo]) -> License:
    """Derive the licence of models that all declare one; each of `infos` differs from the others."""
    restrictive = [info for info in infos if info.license not in NOTICE_ONLY]
    if len(restrictive) == 2:  # noqa: PLR2004
        rest = [info for info in restrictive if info.license != "apache-2.0"]
        if len(rest) == 1 and rest[0].license in _MAY_CONTAIN_APACHE:
            restrictive = rest
    covering = restrictive[0] if len(restrictive) == 1 else infos[0] if len(infos) == 1 else None
    names = [] if covering is None else [covering.label]
    # A `license_name` has the form that the Hub wants, e.g. `llama2-and-gemma`.
    slug = "-and-".join(
        re.sub(r"[^a-z0-9.]+", "-", label.lower()).strip("-") or "unnamed"
        for label in names or [i.label for i in infos]
    )
    if covering is None:
        return License(
            license="other",
            license_name=slug,
            note=f"The ingredients are under different licences, {listing([code(info.label) for info in infos])}, and "
            "no single one of them covers the mix. All of them apply to it: check that they are compatible before you "
            "use or share it.",
            conflict=True,
        )
    note = f"All ingredients are under {code(covering.label)}."
    if len(infos) > 1:
        others = listing([code(info.label) for info in infos if info is not covering])
        note = (
            f"{others} may be part of a work under {code(covering.label)}, which is the licence of the mix; the "
            "notices of all of them have to be kept."
        )
    if covering.license == "other" or "," in covering.license:
        return License(license="other", license_name=slug, license_link=covering.link, note=note)
    return License(license=covering.license, note=note)

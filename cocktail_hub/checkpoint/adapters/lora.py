"""PEFT adapters (LoRA, rsLoRA, DoRA) as ingredients: what each tensor of the base becomes, from headers alone.

A module's weight becomes W + scale * B @ A (arXiv:2106.09685); with DoRA, magnitude * (W + scale * B @ A) / norm per
output (arXiv:2402.09353). Every tensor of the adapter must find its place, or the adapter is refused.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from cocktail_hub.checkpoint.adapters.config import AdapterConfig, read_adapter_config
from cocktail_hub.checkpoint.adapters.targets import Places
from cocktail_hub.checkpoint.conversion.name_patterns import unwrapped
from cocktail_hub.checkpoint.tensor_spec import TensorSpec, WeightFiles
from cocktail_hub.checkpoint.weight_files import read_weight_files
from cocktail_hub.errors import CheckpointError
from cocktail_hub.methods.dtypes import MIXABLE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cocktail_hub.checkpoint.files import RepoFiles

_PREFIX = "base_model.model."
_PART = re.compile(
    r"(?P<module>.+)\.(?:lora_(?P<side>[AB])(?:\.default)?\.(?P<leaf>weight|bias)"
    r"|lora_embedding_(?P<embedding>[AB])(?:\.default)?"
    r"|lora_(?P<magnitude>magnitude_vector)(?:\.default)?(?:\.weight)?)"
)


_PASSED = re.compile(r"\.(base_layer|modules_to_save(\.default)?)\.")
"""Parts of a name that PEFT's wrappers insert."""
_KEPT = re.compile(r"\.(original_module|modules_to_save)(\.default)?\.")
"""Parts of the names under which PEFT saves embeddings once more, where the vocabulary has grown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What an adapter does to one tensor. Names are those in the adapter's file."""

    replaced_by: str = ""
    """The tensor that takes the base's place; '' to keep the base's."""
    left: str = ""
    """Factor with a row per row of the tensor (B), or with a column per row where `transposed`."""
    right: str = ""
    """The other factor (A)."""
    bias: str = ""
    """Bias of B, which is added to the module's bias, times `scale`."""
    magnitude: str = ""
    """DoRA's norm of each output; '' for plain LoRA."""
    scale: float = 0.0
    """What the product is multiplied by."""
    transposed: bool = False
    """Whether the tensor is stored as (in, out): embeddings, and GPT-2's matrices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """A PEFT adapter, known from its config and headers."""

    config: AdapterConfig
    """How it is applied."""
    layout: WeightFiles
    """Its own tensors."""

    @property
    def name(self) -> str:
        """The ingredient, for messages."""
        return self.layout.name

    @property
    def base_model(self) -> str:
        """The model it was trained on: a Hub id or a folder; '' where the adapter does not say."""
        return self.config.base_model

    @property
    def base_revision(self) -> str | None:
        """The revision of it; `None` where the adapter does not say."""
        return self.config.base_revision


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptedWeights:
    """A base with an adapter, as if it were one checkpoint under the base's names."""

    base: WeightFiles
    """The base's files."""
    adapter: Adapter
    """The adapter's."""
    specs: Mapping[str, TensorSpec]
    """Tensor -> shape and dtype: the base's; float64 for those that the adapter changes, as they are computed."""
    changes: Mapping[str, Change]
    """Tensor -> what the adapter does to it."""
    config: Mapping[str, Any] = field(hash=False)
    """The base's config.json, with the architecture and number of labels that the adapter was trained with."""

    @property
    def name(self) -> str:
        """The ingredient, for messages."""
        return self.adapter.name


def read_adapter(files: RepoFiles) -> Adapter:
    """Read an adapter's config and headers.

    Raises:
        CheckpointError: it is damaged, or not a LoRA, rsLoRA or DoRA.
        SourceError: it has no weights.
    """
    config = read_adapter_config(files)
    return Adapter(config=config, layout=read_weight_files(files, stem="adapter_model"))


def adapt(base: WeightFiles, base_config: Mapping[str, Any], adapter: Adapter) -> AdaptedWeights:
    """Find the place of every tensor of an adapter in its base.

    Args:
        base: the base's layout.
        base_config: the base's config.json.
        adapter: what `read_adapter` gave.

    Raises:
        CheckpointError: a tensor of the adapter has no place in the base, or does not fit it.
        IncompatibleError: names differ and transformers does not know the model; or the base lacks a tensor that the
            adapter's class has, or ties one that the adapter changes.
    """
    places = Places(base, base_config, adapter.config, name=adapter.name)
    specs = dict(base.specs)
    changes: dict[str, Change] = {}
    for module, parts in _modules(adapter).items():
        if adapter.config.tied and places.is_second_name(f"{module}.weight"):
            continue
        for leaf, change in _changes(adapter, module, parts).items():
            name = places.find(module, leaf, new=bool(change.replaced_by))
            if change.left or not adapter.config.tied or not places.is_first_name(name):
                places.refuse_tied(name)
            changes[name], specs[name] = _fit(adapter, name, change, specs.get(name))
    _turn_square(base, adapter.config, places, changes, specs)
    for name in places.without_place():
        del specs[name]
    return AdaptedWeights(base=base, adapter=adapter, specs=specs, changes=changes, config=places.config_for(specs))


def _turn_square(
    base: WeightFiles,
    config: AdapterConfig,
    places: Places,
    changes: dict[str, Change],
    specs: Mapping[str, TensorSpec],
) -> None:
    """Ask the model's class how its square matrices are stored: neither their shape nor PEFT's one flag says it.

    PEFT writes `fan_in_fan_out` for all matrices together, as the last of them has it. A base without any sign of
    matrices that are stored as (in, out) is spared the question, which takes seconds: it loads transformers.
    """
    hint = config.transposed or any(change.transposed for change in changes.values())
    if not hint and not (_has_turned(base.specs) and places.known):
        return
    for name, change in changes.items():
        if change.left and not change.transposed and _is_square(specs[name]):
            changes[name] = replace(change, transposed=places.is_transposed(name))


def _has_turned(specs: Mapping[str, TensorSpec]) -> bool:
    """Tell whether some matrix that is not square has a bias as long as its rows: then they are columns.

    Models that store matrices so have at least one, the queries, keys and values of GPT-2 in one.
    """
    for name, spec in specs.items():
        bias = specs.get(f"{name.removesuffix('weight')}bias")
        if bias is not None and not _is_square(spec) and bias.shape == spec.shape[1:]:
            return True
    return False


def _modules(adapter: Adapter) -> dict[str, dict[str, str]]:
    """Module of the base -> part (`A`, `B`, `B.bias`, `embedding.A`, `magnitude`, `=weight`...) -> adapter tensor."""
    found: dict[str, dict[str, str]] = {}
    raw_of = unwrapped(adapter.layout.specs)
    for bare, key in raw_of.items():
        if _KEPT.search(bare) and _KEPT.sub(".", bare) in raw_of:
            continue
        _require_floats(adapter, key)
        if not bare.startswith(_PREFIX):
            raise _no_place(adapter, key, f"PEFT's names begin with '{_PREFIX}'")
        path = _PASSED.sub(".", bare.removeprefix(_PREFIX))
        match = _PART.fullmatch(path)
        if match is None:
            module, _, leaf = path.rpartition(".")
            part = f"={leaf}"
        else:
            module = match["module"]
            part = f"{match['side']}.{match['leaf']}" if match["side"] else f"embedding.{match['embedding']}"
            part = "magnitude" if match["magnitude"] else part.removesuffix(".weight")
        if part in found.setdefault(module, {}):
            raise _no_place(adapter, key, f"'{found[module][part]}' is in the same place")
        found[module][part] = key
    return found


def _require_floats(adapter: Adapter, key: str) -> None:
    """Raise CheckpointError if a tensor is of a type that sums are not taken in, such as float8."""
    dtype = adapter.layout.specs[key].dtype
    if dtype not in MIXABLE:
        raise CheckpointError(
            f"The adapter '{adapter.name}' stores '{key}' as {dtype}; {', '.join(sorted(MIXABLE))} are taken.\n"
            "Narrower types are too coarse to be added to a base, and others are no numbers to add.\n"
            "Use the adapter as it was trained, or load it with PEFT and save it again as float32.",
            model=adapter.name,
        )


def _changes(adapter: Adapter, module: str, parts: Mapping[str, str]) -> dict[str, Change]:
    """What the adapter does to each tensor of one module, by the tensor's last name (`weight`, `bias`)."""
    left = dict(parts)
    changes = {part[1:]: Change(replaced_by=left.pop(part)) for part in parts if part.startswith("=")}
    scale = adapter.config.scale(module)
    embedding = "embedding.A" in left
    a, b = left.pop("embedding.A" if embedding else "A", ""), left.pop("embedding.B" if embedding else "B", "")
    if a and b:
        changes["weight"] = replace(
            changes.get("weight", Change()),
            left=b,
            right=a,
            magnitude=left.pop("magnitude", ""),
            scale=scale,
            transposed=embedding,
        )
        _check_rank(adapter, module, a, b)
        if adapter.config.dora and not changes["weight"].magnitude:
            raise _without_magnitude(adapter, a)
        if "B.bias" in left:
            changes["bias"] = replace(changes.get("bias", Change()), bias=left.pop("B.bias"), scale=scale)
    elif a or b:
        raise _no_place(adapter, a or b, "its other factor is missing")
    if left:
        raise _no_place(adapter, next(iter(left.values())), "it belongs to no product of two matrices")
    return changes


def _check_rank(adapter: Adapter, module: str, a: str, b: str) -> None:
    rank = adapter.config.rank_of(module)
    found = adapter.layout.specs[a].shape, adapter.layout.specs[b].shape
    _refuse_groups(adapter, module, *found, rank)
    if any(len(shape) < 2 for shape in found) or found[0][0] != rank or found[1][1] != rank:  # noqa: PLR2004 - matrices
        raise _no_place(
            adapter, a, f"the factors have shapes {list(found[0])} and {list(found[1])}, the rank is {rank}"
        )


def _refuse_groups(adapter: Adapter, module: str, a: tuple[int, ...], b: tuple[int, ...], rank: int) -> None:
    """Raise CheckpointError for a convolution in groups, whose second factor has only the columns of one group."""
    convolution = len(a) > 2 and len(b) > 2  # noqa: PLR2004 - more than matrices
    if convolution and a[0] == rank and 0 < b[1] < rank and rank % b[1] == 0:
        raise CheckpointError(
            f"The adapter '{adapter.name}' changes '{module}', a convolution in {rank // b[1]} groups.\n"
            "That change is no product of two matrices that could be added to the base; PEFT cannot merge it either.\n"
            f"Train the adapter without '{module}' (`exclude_modules`), or fine-tune the whole model and mix that.",
            model=adapter.name,
        )


def _without_magnitude(adapter: Adapter, a: str) -> CheckpointError:
    missing = re.sub(r"lora_(embedding_)?A\b.*", "lora_magnitude_vector", a)
    return CheckpointError(
        f"The adapter '{adapter.name}' is a DoRA (`use_dora`), but lacks the tensor '{missing}'.\n"
        "Read as a plain LoRA, the module would not be what was trained.\n"
        "Download or save the adapter again with PEFT's `save_pretrained`.",
        model=adapter.name,
    )


def _fit(adapter: Adapter, name: str, change: Change, base: TensorSpec | None) -> tuple[Change, TensorSpec]:
    """Check shapes, and tell how the tensor is stored. `base` is `None` for a tensor that the base lacks."""
    theirs = adapter.layout.specs
    if change.replaced_by:
        new = theirs[change.replaced_by]
        base = TensorSpec(new.shape, base.dtype if base and base.dtype in MIXABLE else new.dtype)  # as PEFT loads it
    if base is None or base.dtype not in MIXABLE:
        raise _no_place(adapter, change.right or change.bias, f"the base has no '{name}' of floating-point numbers")
    if change.bias and theirs[change.bias].shape != base.shape:
        raise _no_place(adapter, change.bias, f"'{name}' has shape {list(base.shape)}")
    if change.left:
        rows, columns = theirs[change.left].shape[0], math.prod(theirs[change.right].shape[1:])
        straight = base.shape[:1] == (rows,) and math.prod(base.shape[1:]) == columns and not change.transposed
        if not straight and base.shape != (columns, rows):
            what = f"its product is {rows} x {columns}, but '{name}' has shape {list(base.shape)}"
            raise _no_place(adapter, change.right, what)
        change = replace(change, transposed=not straight)
        if change.magnitude and theirs[change.magnitude].numel != rows:
            raise _no_place(adapter, change.magnitude, f"'{name}' has {rows} outputs")
    return change, TensorSpec(base.shape, "F64", stored=base.dtype)  # rounded once, when the mix is


def _is_square(spec: TensorSpec) -> bool:
    return len(spec.shape) == 2 and spec.shape[0] == spec.shape[1]  # noqa: PLR2004 - a matrix


def _no_place(adapter: Adapter, key: str, why: str) -> CheckpointError:
    return CheckpointError(
        f"The adapter '{adapter.name}' has a tensor '{key}' that does not fit its base: {why}.\n"
        "Left out, the result would not be what was trained.\n"
        "Check that its base and revision are the right ones, or merge it with PEFT (`merge_and_unload`) and mix that.",
        model=adapter.name,
    )

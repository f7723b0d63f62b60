"""PEFT adapters (LoRA, rsLoRA, DoRA) as ingredients: what each tensor of the base becomes, from headers alone.

A module's weight becomes W + scale * B @ A (arXiv:2106.09685); with DoRA, magnitude * (W + scale * B @ A) / norm per
output (arXiv:2402.09353). An adapter with a tensor that cannot be applied to the base is refused.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from cocktail_hub.checkpoint.adapters.config import AdapterConfig, read_adapter_config
from cocktail_hub.checkpoint.adapters.targets import AdapterTargets
from cocktail_hub.checkpoint.header import TensorSpec
from cocktail_hub.checkpoint.weight_files import WeightFiles, read_weight_files, unwrapped
from cocktail_hub.errors import CheckpointError
from cocktail_hub.methods.dtypes import MIXABLE
from cocktail_hub.recipe.tensor_rules import split_layer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cocktail_hub.checkpoint.files import RepoFiles

_PREFIX = "base_model.model."
_PART = re.compile(
    r"(?P<module>.+)\.(?:lora_(?P<side>[AB])(?:\.default)?\.(?P<leaf>weight|bias)"
    r"|lora_embedding_(?P<embedding>[AB])(?:\.default)?"
    r"|lora_(?P<magnitude>magnitude_vector)(?:\.default)?(?:\.weight)?)"
)
_WRAPPERS = re.compile(r"\.(base_layer|modules_to_save(\.default)?)\.")
"""Parts of a name that PEFT's wrappers insert."""
_COPIES = re.compile(r"\.(original_module|modules_to_save)(\.default)?\.")
"""Parts of the names under which PEFT saves embeddings a second time, where the vocabulary has grown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What an adapter does to one tensor. Names are those in the adapter's file."""

    replaced_by: str = ""
    """The tensor that replaces the base's; '' to keep the base's."""
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
    weights: WeightFiles
    """Its own tensors."""

    @property
    def name(self) -> str:
        """The ingredient, for messages."""
        return self.weights.name


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
    equal: tuple[tuple[str, str], ...] = ()
    """Pairs of the adapter's tensors that must hold the same values, since they are one in the base."""

    @property
    def name(self) -> str:
        """The ingredient, for messages."""
        return self.adapter.name

    @property
    def notes(self) -> list[str]:
        """Sentences about layers without what the adapter has for others, and about a head that it brings along."""
        changed = {(layer[0], layer[2]) for layer in map(split_layer, self.changes) if layer}
        left = [layer for layer in map(split_layer, self.base.specs.keys() - self.changes.keys()) if layer]
        gaps = sorted((tower, rest, index) for tower, index, rest in left if (tower, rest) in changed)
        layers = ", ".join(map(str, sorted({index for _, _, index in gaps})))
        notes = [
            f"'{self.name}' leaves {len(gaps)} tensor(s) of layer(s) {layers} as in its base, and changes the same "
            f"ones of other layers (e.g. '{tower}{index}{rest}')."
            for tower, rest, index in gaps[:1]
        ]
        heads = sorted((self.specs[name].shape, name) for name in self.specs.keys() - self.base.specs.keys())
        if "Classification" in str(self.config.get("architectures")) and heads and heads[0][0][:1] > (1,):
            notes.append(
                f"'{self.name}' brings a head along ('{heads[0][1]}') but not the names of its labels: whether "
                "the same rows belong to the same labels in all models cannot be told."
            )
        return notes


def read_adapter(files: RepoFiles) -> Adapter:
    """Read an adapter's config and headers.

    Raises:
        CheckpointError: it is damaged, or not a LoRA, rsLoRA or DoRA.
        SourceError: it has no weights.
    """
    config, weights = read_adapter_config(files), read_weight_files(files, stem="adapter_model")
    if not weights.specs:
        raise CheckpointError(
            f"The adapter '{weights.name}' has no tensors.\nNothing of what was trained is in it.\n"
            "Save it again with PEFT's `save_pretrained`.",
            model=weights.name,
        )
    return Adapter(config=config, weights=weights)


def adapt(base: WeightFiles, base_config: Mapping[str, Any], adapter: Adapter) -> AdaptedWeights:
    """Find the target in the base of every tensor of an adapter.

    Args:
        base: headers of the base.
        base_config: the base's config.json.
        adapter: what `read_adapter` returned.

    Raises:
        CheckpointError: a tensor of the adapter has no target in the base, or does not fit it.
        IncompatibleError: names differ and transformers does not know the model; or the base lacks a tensor that the
            adapter's class has, or ties one that the adapter changes.
    """
    targets = AdapterTargets(base, base_config, adapter.config, name=adapter.name)
    specs = dict(base.specs)
    changes: dict[str, Change] = {}
    equal: list[tuple[str, str]] = []
    modules = _modules(adapter)
    whole = {f"{module}.weight": parts["=weight"] for module, parts in modules.items() if parts.keys() == {"=weight"}}
    for module, parts in modules.items():
        own = f"{module}.weight"
        tied = targets.tied_to(own) if own in whole and len(whole) > 1 else set()
        copied = bool(tied) and tied <= whole.keys()  # the adapter has the tensor under each of its names
        if (copied or adapter.config.tied) and targets.is_second_name(own):
            equal += [(whole[own], whole[other]) for other in sorted(tied) if copied]
            continue
        for leaf, change in _changes(adapter, module, parts).items():
            name = targets.find(module, leaf, new=bool(change.replaced_by))
            if not copied and (change.left or not adapter.config.tied or not targets.is_first_name(name)):
                targets.refuse_tied(name)
            changes[name], specs[name] = _fit(adapter, name, change, specs.get(name))
    # Neither its shape nor PEFT's one flag for all matrices says how a square matrix is stored: the model's class does.
    # Building it takes seconds, so only a model with a sign of matrices stored as (in, out) is built: all of them, such
    # as GPT-2, have a matrix that is not square and has a bias with an element per column.
    biased = ((spec, base.specs.get(f"{name.removesuffix('weight')}bias")) for name, spec in base.specs.items())
    turned = any(bias and not _is_square(spec) and bias.shape == spec.shape[1:] for spec, bias in biased)
    hint = adapter.config.transposed or any(change.transposed for change in changes.values())
    if hint or (turned and targets.known):
        for name, change in changes.items():
            if change.left and not change.transposed and _is_square(specs[name]):
                changes[name] = replace(change, transposed=targets.is_transposed(name))
    for name in targets.unused():
        del specs[name]
    return AdaptedWeights(
        base=base,
        adapter=adapter,
        specs=specs,
        changes=changes,
        config=targets.config_for(specs),
        equal=tuple(equal),
    )


def _modules(adapter: Adapter) -> dict[str, dict[str, str]]:
    """Module of the base -> part (`A`, `B`, `B.bias`, `embedding.A`, `magnitude`, `=weight`...) -> adapter tensor."""
    found: dict[str, dict[str, str]] = {}
    raw_of = unwrapped(adapter.weights.specs)
    for bare, key in raw_of.items():
        if _COPIES.search(bare) and _COPIES.sub(".", bare) in raw_of:
            continue
        dtype = adapter.weights.specs[key].dtype
        if dtype not in MIXABLE:
            raise CheckpointError(
                f"The adapter '{adapter.name}' stores '{key}' as {dtype}; supported are {', '.join(sorted(MIXABLE))}.\n"
                "8-bit types are too coarse to be added to a base, and integers and flags cannot be averaged.\n"
                "Use the adapter as it was trained, or load it with PEFT and save it again as float32.",
                model=adapter.name,
            )
        if not bare.startswith(_PREFIX):
            raise _misfit(adapter, key, f"PEFT's names begin with '{_PREFIX}'")
        path = _WRAPPERS.sub(".", bare.removeprefix(_PREFIX))
        match = _PART.fullmatch(path)
        if match is None:
            module, _, leaf = path.rpartition(".")
            part = f"={leaf}"
        else:
            module = match["module"]
            part = f"{match['side']}.{match['leaf']}" if match["side"] else f"embedding.{match['embedding']}"
            part = "magnitude" if match["magnitude"] else part.removesuffix(".weight")
        if part in found.setdefault(module, {}):
            raise _misfit(adapter, key, f"it duplicates '{found[module][part]}'")
        found[module][part] = key
    return found


def _changes(adapter: Adapter, module: str, parts: Mapping[str, str]) -> dict[str, Change]:
    """What the adapter does to each tensor of one module, by the tensor's last name (`weight`, `bias`)."""
    left = dict(parts)
    changes = {part[1:]: Change(replaced_by=left.pop(part)) for part in parts if part.startswith("=")}
    scale = adapter.config.scale(module)
    embedding = "embedding.A" in left
    a, b = left.pop("embedding.A" if embedding else "A", ""), left.pop("embedding.B" if embedding else "B", "")
    if a and b:
        magnitude = left.pop("magnitude", "")
        _check_factors(adapter, module, a, b)
        if adapter.config.dora and not magnitude:
            missing = re.sub(r"lora_(embedding_)?A\b.*", "lora_magnitude_vector", a)
            raise CheckpointError(
                f"The adapter '{adapter.name}' is a DoRA (`use_dora`), but lacks the tensor '{missing}'.\n"
                "Read as a plain LoRA, the module would not be what was trained.\n"
                "Download or save the adapter again with PEFT's `save_pretrained`.",
                model=adapter.name,
            )
        whole = changes.get("weight", Change())
        changes["weight"] = replace(whole, left=b, right=a, magnitude=magnitude, scale=scale, transposed=embedding)
        if "B.bias" in left:
            changes["bias"] = replace(changes.get("bias", Change()), bias=left.pop("B.bias"), scale=scale)
    elif a or b:
        raise _misfit(adapter, a or b, "its other factor is missing")
    if left:
        raise _misfit(adapter, next(iter(left.values())), "it belongs to no product of two matrices")
    return changes


def _check_factors(adapter: Adapter, module: str, a: str, b: str) -> None:
    """Raise CheckpointError unless A has as many rows, and B as many columns, as the rank."""
    rank = adapter.config.rank_of(module)
    rows, columns = (adapter.weights.specs[key].shape for key in (a, b))
    grouped = len(rows) > 2 and len(columns) > 2 and rows[0] == rank  # noqa: PLR2004 - more than matrices
    if grouped and 0 < columns[1] < rank and rank % columns[1] == 0:
        raise CheckpointError(
            f"The adapter '{adapter.name}' changes '{module}', a convolution in {rank // columns[1]} groups.\n"
            "That change is not a product of two matrices that could be added to the base; PEFT cannot merge it "
            "either.\n"
            f"Train the adapter without '{module}' (`exclude_modules`), or fine-tune the whole model and mix that.",
            model=adapter.name,
        )
    if min(len(rows), len(columns)) < 2 or rows[0] != rank or columns[1] != rank:  # noqa: PLR2004 - matrices
        raise _misfit(adapter, a, f"the factors have shapes {list(rows)} and {list(columns)}, the rank is {rank}")


def _fit(adapter: Adapter, name: str, change: Change, base: TensorSpec | None) -> tuple[Change, TensorSpec]:
    """Check shapes, and find out how the tensor is stored. `base` is `None` for a tensor that the base lacks."""
    theirs = adapter.weights.specs
    if change.replaced_by:
        new = theirs[change.replaced_by]
        base = TensorSpec(new.shape, base.dtype if base and base.dtype in MIXABLE else new.dtype)  # as PEFT loads it
    if base is None or base.dtype not in MIXABLE:
        raise _misfit(adapter, change.right or change.bias, f"the base has no '{name}' of floating-point numbers")
    if change.bias and theirs[change.bias].shape != base.shape:
        raise _misfit(adapter, change.bias, f"'{name}' has shape {list(base.shape)}")
    if change.left:
        rows, columns = theirs[change.left].shape[0], math.prod(theirs[change.right].shape[1:])
        straight = base.shape[:1] == (rows,) and math.prod(base.shape[1:]) == columns and not change.transposed
        if not straight and base.shape != (columns, rows):
            what = f"its product is {rows} x {columns}, but '{name}' has shape {list(base.shape)}"
            raise _misfit(adapter, change.right, what)
        change = replace(change, transposed=not straight)
        if change.magnitude and theirs[change.magnitude].numel != rows:
            raise _misfit(adapter, change.magnitude, f"'{name}' has {rows} outputs")
    return change, TensorSpec(base.shape, "F64", stored=base.dtype)  # rounded once, when the mix is


def _is_square(spec: TensorSpec) -> bool:
    return len(spec.shape) == 2 and spec.shape[0] == spec.shape[1]  # noqa: PLR2004 - a matrix


def _misfit(adapter: Adapter, key: str, why: str) -> CheckpointError:
    return CheckpointError(
        f"The adapter '{adapter.name}' has a tensor '{key}' that does not fit its base: {why}.\n"
        "Left out, the result would not be what was trained.\n"
        "Check that its base and revision are the right ones, or merge it with PEFT (`merge_and_unload`) and mix that.",
        model=adapter.name,
    )

"""Decide every output file and every tensor's weights before one weight is read. Pure: header specs in, plan out."""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

import huggingface_hub

from cocktail_hub.checkpoint.header import TensorSpec, render_header
from cocktail_hub.errors import CheckpointError, IncompatibleError, RecipeError, did_you_mean
from cocktail_hub.merge.engine.budget import Budget
from cocktail_hub.methods.dtypes import EXACT, MIXABLE, itemsize, mixable_dtype
from cocktail_hub.methods.spec import METHOD_TABLE, arithmetic_weights, linear_weights

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from cocktail_hub.methods.spec import MethodSpec
    from cocktail_hub.recipe import LayerRule

FORMAT_VERSION = 2
"""Raised whenever the same plan would give other bytes. Part of a plan's digest, which the journals of merges and of
uploads that were interrupted note: what another version has finished is then made anew, not gone on with. Finished
mixes have a number of their own, `recipe.MERGE_FORMAT`."""
WEIGHT_SUM_TOLERANCE = 1e-6 + 1e-12
"""How far weights that must sum to 1 may miss it."""
METADATA = {"format": "pt"}
"""What transformers writes, and asks for, in the header of its files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentInput:
    """A folder of the checkpoint that has weights: the model itself, or a module of sentence-transformers."""

    folder: str = ""
    """Posix path in the checkpoint, '' for its root."""
    file_stem: str = "model"
    """Name of the output files without number and suffix."""
    specs: tuple[Mapping[str, TensorSpec], ...]
    """What each model has. For methods on task vectors the base comes first; then the ingredients in recipe order."""
    models: tuple[str, ...]
    """Names for messages, in the order of `specs`."""
    first_only: frozenset[str] = frozenset()
    """Tensors that are the first ingredient's as they are, whatever the method; others may lack them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorPlan:
    """How one tensor of the mix comes about."""

    name: str
    """Name in the output."""
    shape: tuple[int, ...]
    """Shape of every input and of the output."""
    dtype: str
    """safetensors name of the output's dtype."""
    rule: Literal["mix", "same"]
    """`mix`: by the method. `same`: integers and flags, equal in every model that has them."""
    models: tuple[int, ...]
    """Indices of the models that are read, in the order in which they are added up."""
    weights: tuple[float, ...]
    """One per entry of `models`: the coefficient of a combination. A method with an order statistic has its base
    first, with weight 1. Empty for `same`."""
    dtypes: tuple[str, ...]
    """One per entry of `models`: its dtype in the file."""

    @property
    def spec(self) -> TensorSpec:
        """Shape and dtype of the output."""
        return TensorSpec(self.shape, self.dtype)

    @property
    def is_copy(self) -> bool:
        """Whether the result is one model's tensor, bit for bit."""
        return self.rule == "mix" and self.weights == (1.0,) and self.dtypes == (self.dtype,)

    @property
    def input_bytes(self) -> int:
        """Bytes read from all models together, once."""
        return math.prod(self.shape) * sum(itemsize(dtype) for dtype in self.dtypes)


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """One output file: pure input of the task that makes it."""

    path: str
    """Posix path in the checkpoint, with its final name."""
    component: int
    """Index of its component."""
    tensors: tuple[TensorPlan, ...]
    """In the order of the data."""

    @property
    def header(self) -> bytes:
        """The first bytes of the file."""
        return render_header({tensor.name: tensor.spec for tensor in self.tensors}, METADATA)

    @property
    def data_bytes(self) -> int:
        """Bytes of the tensors."""
        return sum(tensor.spec.nbytes for tensor in self.tensors)

    @cached_property
    def nbytes(self) -> int:
        """Size of the file."""
        return len(self.header) + self.data_bytes

    @property
    def input_bytes(self) -> int:
        """Bytes read from all models together, once."""
        return sum(tensor.input_bytes for tensor in self.tensors)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentPlan:
    """The output files of one component."""

    folder: str
    """Posix path in the checkpoint, '' for its root."""
    models: tuple[str, ...]
    """The models that `TensorPlan.models` points at."""
    index_path: str | None
    """Where the index of the shards goes; `None` when one file holds everything."""
    total_size: int
    """Bytes of all tensors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MergePlan:
    """Everything that the mix will be, known before the first weight is read."""

    version: int = FORMAT_VERSION
    """Version of the arithmetic, and of how a file is laid out, that the plan counts on."""
    method: str
    """A key of `METHOD_TABLE`."""
    parameters: Mapping[str, float]
    """Every parameter of the method."""
    components: tuple[ComponentPlan, ...]
    """In the order given."""
    shards: tuple[ShardPlan, ...]
    """Every output file, component by component."""

    @property
    def output_bytes(self) -> int:
        """Size of all weight files together."""
        return sum(shard.nbytes for shard in self.shards)

    @property
    def input_bytes(self) -> int:
        """Bytes of weights that go in, each read once."""
        return sum(shard.input_bytes for shard in self.shards)

    @property
    def digest(self) -> str:
        """sha256 of the plan as canonical JSON: equal plans make equal bytes from equal models."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain JSON values."""
        shards = [
            {"path": shard.path, "component": shard.component, "tensors": [_plain(tensor) for tensor in shard.tensors]}
            for shard in self.shards
        ]
        parts = [asdict(component) for component in self.components]
        head = {"version": self.version, "method": self.method, "parameters": dict(self.parameters)}
        return head | {"components": parts, "shards": shards}

    def index(self, component: int) -> dict[str, Any]:
        """Return the index of a sharded component, as transformers writes it."""
        plan = self.components[component]
        shards = [shard for shard in self.shards if shard.component == component]
        places = {tensor.name: PurePosixPath(shard.path).name for shard in shards for tensor in shard.tensors}
        return {"metadata": {"total_size": plan.total_size}, "weight_map": dict(sorted(places.items()))}

    def budget(self, threads: int | None = None, max_memory: int | None = None, device: str = "cpu") -> Budget:
        """Return how many threads with which buffers would run this plan."""
        kind = METHOD_TABLE[self.method].kind
        models = max((len(tensor.weights) for shard in self.shards for tensor in shard.tensors), default=1)
        searches = models - 1 if kind == "order" else 0  # the base needs none
        return Budget.of(threads=threads, max_memory=max_memory, searches=searches, remote=device != "cpu")

    def peak_memory(self, threads: int | None = None, max_memory: int | None = None, device: str = "cpu") -> int:
        """Return the most bytes that the merge's buffers take, whatever the size of the model.

        On another device that is what they take there, and as much again on this machine.
        """
        return self.budget(threads, max_memory, device).nbytes * (1 if device == "cpu" else 2)


def _plain(tensor: TensorPlan) -> dict[str, Any]:
    """Return a tensor's plan as JSON values; `asdict` would copy each of them, which takes long for many tensors."""
    return {name: getattr(tensor, name) for name in TensorPlan.__slots__}


def plan_merge(
    components: Sequence[ComponentInput],
    *,
    method: str = "linear",
    weights: Sequence[float],
    parameters: Mapping[str, Any] | None = None,
    layers: Sequence[LayerRule] = (),
    dtype: str | None = None,
    max_shard_size: int | str = "5GB",
) -> MergePlan:
    """Plan a mix.

    Args:
        components: the folders with weights, each with the header specs of every model.
        method: a key of `METHOD_TABLE`.
        weights: one per ingredient (not for the base), in recipe order.
        parameters: of the method; what is left out has its default.
        layers: other weights for tensors whose whole name matches; the first rule that matches wins.
        dtype: of the floating-point tensors of the mix; `None` or 'auto': the first ingredient's, tensor by tensor.
        max_shard_size: bytes, or text such as '5GB' (powers of 1000).

    Raises:
        RecipeError: an argument is out of range.
        IncompatibleError: the models differ in a tensor; `model` and `tensor` say where.
        CheckpointError: a tensor has a dtype that cannot be mixed.
    """
    if method not in METHOD_TABLE:
        raise RecipeError(f"Unknown `method` '{method}'. {did_you_mean(method, METHOD_TABLE)}")
    spec = METHOD_TABLE[method]
    planner = _Planner(
        spec=spec,
        parameters=spec.with_defaults(parameters or {}),
        weights=_checked_weights(weights, spec, "weights"),
        rules=tuple((re.compile(rule.match), _checked_weights(rule.weights, spec, rule.match)) for rule in layers),
        dtype=None if dtype in (None, "auto") else mixable_dtype(str(dtype)),
    )
    plans: list[ComponentPlan] = []
    shards: list[ShardPlan] = []
    for index, component in enumerate(components):
        plan, files = _plan_component(index, component, planner.tensors(component), max_shard_size)
        plans.append(plan)
        shards.extend(files)
    return MergePlan(method=method, parameters=planner.parameters, components=tuple(plans), shards=tuple(shards))


def _checked_weights(weights: Sequence[float], spec: MethodSpec, where: str) -> tuple[float, ...]:
    for weight in weights:
        if not math.isfinite(weight) or (weight < 0 and not spec.negative):
            kind = "finite numbers" if spec.negative else "finite numbers from 0 up"
            raise RecipeError(f"The weights of '{where}' must be {kind}, got {weight!r}.")
    total = math.fsum(weights)
    if spec.convex and abs(total - 1.0) > WEIGHT_SUM_TOLERANCE:
        raise RecipeError(f"The weights of '{where}' sum to {total:g}, not to 1. Divide each by their sum.")
    return tuple(float(weight) for weight in weights)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Planner:
    """What is the same for every tensor."""

    spec: MethodSpec
    parameters: dict[str, float]
    weights: tuple[float, ...]
    rules: tuple[tuple[re.Pattern[str], tuple[float, ...]], ...]
    dtype: str | None

    def tensors(self, component: ComponentInput) -> list[TensorPlan]:
        """Plan every tensor of a component: in the order of the first ingredient, then what only others have."""
        given = len(component.specs) - self.spec.needs_base
        for weights in (self.weights, *(weights for _, weights in self.rules)):
            if len(weights) != given or len(component.models) != len(component.specs):
                raise RecipeError(f"{len(weights)} weights for {given} ingredients. Give one per ingredient.")
        first = component.specs[int(self.spec.needs_base)]
        names = dict.fromkeys(name for specs in (first, *component.specs) for name in specs)
        planned = (self._tensor(name, component, first) for name in names)
        return [tensor for tensor in planned if tensor is not None]

    def _tensor(self, name: str, component: ComponentInput, first: Mapping[str, TensorSpec]) -> TensorPlan | None:
        holders = tuple(index for index, specs in enumerate(component.specs) if name in specs)
        specs = [component.specs[index][name] for index in holders]
        kinds = {"mix" if spec.dtype in MIXABLE else "same" for spec in specs}
        for index, spec in zip(holders, specs, strict=True):
            if spec.dtype not in MIXABLE | EXACT:
                raise _not_mixable(name, component.models[index], spec.dtype)
        if kinds == {"same"}:
            _require_equal(name, component, holders, "dtype")
            _require_equal(name, component, holders, "shape")
            return self._same(name, specs[0], holders) if name in first else None
        coefficients = self._coefficients(name, component.first_only)
        used = tuple(index for index, weight in enumerate(coefficients) if weight != 0.0)
        for index in used:
            if index not in holders:
                raise _missing(name, component, index, holders)
        if kinds != {"mix"}:
            _require_equal(name, component, holders, "dtype")
        _require_equal(name, component, used, "shape")
        dtypes = tuple(component.specs[index][name].dtype for index in used)
        own = first[name].dtype if name in first else dtypes[0]
        return TensorPlan(
            name=name,
            shape=component.specs[used[0]][name].shape,
            dtype=self.dtype or own,
            rule="mix",
            models=used,
            weights=tuple(coefficients[index] for index in used),
            dtypes=dtypes,
        )

    def _same(self, name: str, spec: TensorSpec, holders: tuple[int, ...]) -> TensorPlan:
        dtypes = (spec.dtype,) * len(holders)
        return TensorPlan(
            name=name, shape=spec.shape, dtype=spec.dtype, rule="same", models=holders, weights=(), dtypes=dtypes
        )

    def _coefficients(self, name: str, first_only: Collection[str]) -> tuple[float, ...]:
        """One per model, base first where there is one; 0 for a model that is not read."""
        if name in first_only:
            first = int(self.spec.needs_base)
            return tuple(float(index == first) for index in range(first + len(self.weights)))
        weights = next((given for pattern, given in self.rules if pattern.fullmatch(name)), self.weights)
        if self.spec.convex:
            return linear_weights(weights)
        if self.spec.kind == "combination":
            return arithmetic_weights(weights, self.parameters["lambda"])
        return (1.0, *weights)


def _not_mixable(name: str, model: str, dtype: str) -> CheckpointError:
    return CheckpointError(
        f"'{name}' of '{model}' is stored as {dtype}, which cannot be mixed.\n"
        "Its numbers are codes of a quantised or complex tensor, and an average of codes means nothing.\n"
        "Name the unquantised model instead.",
        model=model,
    )


def _missing(name: str, component: ComponentInput, index: int, holders: Iterable[int]) -> IncompatibleError:
    model, other = component.models[index], component.models[next(iter(holders))]
    return IncompatibleError(
        f"Cannot mix '{model}': it has no tensor '{name}', which '{other}' has.\n"
        "A tensor is mixed from every ingredient; one that is missing would be taken for zeros.\n"
        f"Remove '{model}', or give it the weight 0 for this tensor under `layers`.",
        model=model,
        tensor=name,
    )


def _require_equal(
    name: str, component: ComponentInput, holders: Sequence[int], what: Literal["shape", "dtype"]
) -> None:
    other = holders[0]
    expected = getattr(component.specs[other][name], what)
    for index in holders[1:]:
        found = getattr(component.specs[index][name], what)
        if found != expected:
            model = component.models[index]
            shown = (list(found), list(expected)) if what == "shape" else (found, expected)
            raise IncompatibleError(
                f"Cannot mix '{model}': '{name}' has the {what} {shown[0]}, but {shown[1]} in "
                f"'{component.models[other]}'.\nTensors are mixed element by element, so every ingredient must share "
                "one architecture and vocabulary.\n"
                f"Remove '{model}', or choose models fine-tuned from the same base.",
                model=model,
                tensor=name,
            )


def _plan_component(
    index: int, component: ComponentInput, tensors: Sequence[TensorPlan], max_shard_size: int | str
) -> tuple[ComponentPlan, list[ShardPlan]]:
    by_name = {tensor.name: tensor for tensor in tensors}
    try:
        split = huggingface_hub.split_state_dict_into_shards_factory(
            by_name,
            get_storage_size=lambda tensor: tensor.spec.nbytes,
            filename_pattern=f"{component.file_stem}{{suffix}}.safetensors",
            max_shard_size=max_shard_size,
        )
    except ValueError as error:
        raise RecipeError(f"`max_shard_size` must be bytes or text such as '5GB', got {max_shard_size!r}.") from error
    folder = PurePosixPath(component.folder)
    shards = [
        ShardPlan(path=str(folder / file), component=index, tensors=_aligned(by_name[name] for name in names))
        for file, names in split.filename_to_tensors.items()
    ]
    index_path = str(folder / f"{component.file_stem}.safetensors.index.json") if split.is_sharded else None
    total = int(split.metadata["total_size"])
    plan = ComponentPlan(folder=component.folder, models=component.models, index_path=index_path, total_size=total)
    return plan, shards


def _aligned(tensors: Iterable[TensorPlan]) -> tuple[TensorPlan, ...]:
    """Wider dtypes first: each tensor then begins at a multiple of its item size, which readers in place rely on."""
    return tuple(sorted(tensors, key=lambda tensor: -itemsize(tensor.dtype)))

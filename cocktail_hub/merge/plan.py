"""Decide every output file and every tensor's weights before one weight is read. Pure: header specs in, plan out."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property, partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

import huggingface_hub

from cocktail_hub.checkpoint.header import TensorSpec, render_header
from cocktail_hub.errors import CheckpointError, IncompatibleError, RecipeError, did_you_mean
from cocktail_hub.merge.options import Budget
from cocktail_hub.methods.contract import with_base
from cocktail_hub.methods.dtypes import EXACT, MIXABLE, accumulator_dtype, itemsize, mixable_dtype
from cocktail_hub.methods.registry import METHODS
from cocktail_hub.recipe.tensor_rules import Expression, PerTensor, as_parameters, compiled, depths

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cocktail_hub.methods.contract import Method, Round
    from cocktail_hub.recipe import LayerRule
    from cocktail_hub.recipe.tensor_rules import Number

_Rule = Literal["same", "sum", "models", "task_vectors"]
FORMAT_VERSION = 3
"""Raised whenever the same plan would give other bytes. Part of a plan's digest, which the journals of merges and of
uploads that were interrupted note: what another version has finished is then made anew, not gone on with. Finished
mixes have a number of their own, `recipe.MERGE_FORMAT`."""
BYTES_PER_VECTOR = 1 << 12
"""Room for 64 numbers of a model and for what methods compute of them: with less, no chunk of many models would fit."""


SCRATCH = 6
"""Arrays of the accumulator's dtype that a method may hold at once, beside its vectors and one for each of them."""
ALIGNMENT = 64
"""Elements that buffers are cut in multiples of, and bytes that memory is aligned to: a cache line."""


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
    rule: _Rule
    """`same`: integers and flags, equal in every model that has them. `sum`: the weighted sum of the models. Otherwise
    by the method, from the models, or from their differences to the first one, the base."""
    models: tuple[int, ...]
    """Indices of the models that are read, in the order in which they are added up."""
    weights: tuple[float, ...]
    """For `sum` one factor per entry of `models`. For the method one weight per ingredient, none for the base. Empty
    for `same`."""
    dtypes: tuple[str, ...]
    """One per entry of `models`: its dtype in the file."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """For the method, every parameter: a tuple, with one per ingredient, where there is one per model; and `seed`
    where it draws at random."""

    @property
    def rows(self) -> int:
        """How many rows the tensor has for methods that work on rows: the size of the first of several dimensions."""
        return self.shape[0] if len(self.shape) > 1 else 1

    @property
    def spec(self) -> TensorSpec:
        """Shape and dtype of the output."""
        return TensorSpec(self.shape, self.dtype)

    @property
    def is_copy(self) -> bool:
        """Whether the result is one model's tensor, bit for bit."""
        return self.rule == "sum" and self.weights == (1.0,) and self.dtypes == (self.dtype,)

    @property
    def numel(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)

    @property
    def input_bytes(self) -> int:
        """Bytes read from all models together, once."""
        return self.numel * sum(itemsize(dtype) for dtype in self.dtypes)


def vector_layout(tensor: TensorPlan) -> list[tuple[str, int]]:
    """Return the buffers for a method's chunk: input, output, the models, and room for what the method allocates."""
    wide, models = accumulator_dtype((*tensor.dtypes, tensor.dtype)), len(tensor.models)
    return [(max(tensor.dtypes, key=itemsize), 1), (tensor.dtype, 1), (wide, models), (wide, models + SCRATCH)]


def row_bytes(tensor: TensorPlan) -> int:
    """Return the bytes of buffers that one row of a tensor takes."""
    each = sum(itemsize(dtype) * times for dtype, times in vector_layout(tensor))
    return each * (tensor.numel // max(tensor.rows, 1) + ALIGNMENT)


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
        return render_header({tensor.name: tensor.spec for tensor in self.tensors}, {"format": "pt"})  # as transformers

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
    """A key of `METHODS`."""
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
            {
                "path": shard.path,
                "component": shard.component,
                # `asdict` would copy each value, which takes long for many tensors
                "tensors": [{name: getattr(t, name) for name in TensorPlan.__slots__} for t in shard.tensors],
            }
            for shard in self.shards
        ]
        head = {"version": self.version, "method": self.method}
        return head | {"components": [asdict(component) for component in self.components], "shards": shards}

    def index(self, component: int) -> dict[str, Any]:
        """Return the index of a sharded component, as transformers writes it."""
        plan = self.components[component]
        shards = [shard for shard in self.shards if shard.component == component]
        places = {tensor.name: PurePosixPath(shard.path).name for shard in shards for tensor in shard.tensors}
        return {"metadata": {"total_size": plan.total_size}, "weight_map": dict(sorted(places.items()))}

    def budget(self, threads: int | None = None, max_memory: int | None = None, device: str = "cpu") -> Budget:
        """Return how many threads with which buffers would run this plan."""
        method = METHODS[self.method]
        tensors = [tensor for shard in self.shards for tensor in shard.tensors if tensor.rule not in ("same", "sum")]
        vectors = max((len(tensor.models) for tensor in tensors), default=0)
        rows = [row_bytes(tensor) for tensor in tensors] if method.rows else []
        return Budget.of(
            threads=threads,
            max_memory=max_memory,
            searches=max((method.searches(t.numel, t.parameters, len(t.weights)) for t in tensors), default=0),
            remote=device != "cpu",
            smallest=max(BYTES_PER_VECTOR * (vectors + 1), *rows, 0),
        )

    def peak_memory(self, threads: int | None = None, max_memory: int | None = None, device: str = "cpu") -> int:
        """Return the most bytes that the merge's buffers take, whatever the size of the model.

        On another device that is what they take there, and as much again on this machine.
        """
        return self.budget(threads, max_memory, device).nbytes * (1 if device == "cpu" else 2)


def plan_merge(
    components: Sequence[ComponentInput],
    *,
    method: str = "linear",
    weights: Sequence[Number],
    parameters: Mapping[str, Any] | None = None,
    own_parameters: Sequence[Mapping[str, Any]] = (),
    seed: int = 0,
    layers: Sequence[LayerRule] = (),
    keep: Sequence[tuple[str, int]] = (),
    normalize: bool = False,
    dtype: str | None = None,
    max_shard_size: int | str = "5GB",
) -> MergePlan:
    """Plan a mix.

    Args:
        components: the folders with weights, each with the header specs of every model.
        method: a key of `METHODS`.
        weights: one per ingredient (not for the base), in recipe order.
        parameters: of the method; what is left out has its default.
        own_parameters: those of each ingredient, in place of `parameters`.
        seed: of methods that draw at random.
        layers: other weights for tensors whose whole name matches; the first rule that matches wins.
        keep: pattern of tensor names, and the index of the model that they come from as they are; the first that
            matches wins.
        normalize: divide the weights by their sum, and so those of each layer rule.
        dtype: of the floating-point tensors of the mix; `None` or 'auto': the first ingredient's, tensor by tensor.
        max_shard_size: bytes, or text such as '5GB' (powers of 1000).

    Raises:
        RecipeError: an argument is out of range.
        IncompatibleError: the models differ in a tensor; `model` and `tensor` say where.
        CheckpointError: a tensor has a dtype that cannot be mixed.
    """
    if method not in METHODS:
        raise RecipeError(f"Unknown `method` '{method}'. {did_you_mean(method, METHODS)}")
    spec = METHODS[method]
    planner = _Planner(
        spec=spec,
        numbers=_Numbers(
            spec=spec,
            weights=weights,
            parameters=parameters or {},
            own_parameters=own_parameters,
            seed=seed,
            layers=layers,
            normalize=normalize,
        ),
        keep=tuple((compiled(pattern), model) for pattern, model in keep),
        dtype=None if dtype in (None, "auto") else mixable_dtype(str(dtype)),
    )
    for step in spec.measure:
        if step.scope != "tensor":
            planner.numbers.require_alike(step)
    plans: list[ComponentPlan] = []
    shards: list[ShardPlan] = []
    for index, component in enumerate(components):
        plan, files = _plan_component(index, component, planner.tensors(component), max_shard_size)
        plans.append(plan)
        shards.extend(files)
    return MergePlan(method=method, components=tuple(plans), shards=tuple(shards))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Planner:
    """What is the same for every tensor."""

    spec: Method
    numbers: _Numbers
    keep: tuple[tuple[Expression, int], ...]
    dtype: str | None

    def tensors(self, component: ComponentInput) -> list[TensorPlan]:
        """Plan every tensor of a component: in the order of the first ingredient, then what only others have."""
        based = self._based(component)
        given = len(component.specs) - based
        for count in self.numbers.counts:
            if count != given or len(component.models) != len(component.specs):
                raise RecipeError(f"{count} weights for {given} ingredients. Give one per ingredient.")
        first = component.specs[based]
        depth = depths(name for specs in (first, *component.specs) for name in specs)
        planned = (self._tensor(name, component, first, depth[name]) for name in depth)
        return [tensor for tensor in planned if tensor is not None]

    def _based(self, component: ComponentInput) -> bool:
        """Tell whether the first model of a component is a base."""
        return self.spec.base == "needed" or (
            self.spec.base == "optional" and len(component.specs) > self.numbers.counts[0]
        )

    def _tensor(
        self, name: str, component: ComponentInput, first: Mapping[str, TensorSpec], depth: float
    ) -> TensorPlan | None:
        holders = tuple(index for index, specs in enumerate(component.specs) if name in specs)
        specs = [component.specs[index][name] for index in holders]
        kinds = {"mix" if spec.dtype in MIXABLE else "same" for spec in specs}
        for index, spec in zip(holders, specs, strict=True):
            if spec.dtype not in MIXABLE | EXACT:
                model = component.models[index]
                raise CheckpointError(
                    f"'{name}' of '{model}' is stored as {spec.dtype}, which cannot be mixed.\n"
                    "Its numbers are codes of a quantised or complex tensor, and an average of codes means nothing.\n"
                    "Name the unquantised model instead.",
                    model=model,
                )
        if kinds == {"same"}:
            _require_equal(name, component, holders, "dtype")
            _require_equal(name, component, holders, "shape")
            if name not in first:
                return None
            return TensorPlan(
                name=name,
                shape=specs[0].shape,
                dtype=specs[0].dtype,
                rule="same",
                models=holders,
                weights=(),
                dtypes=tuple(spec.dtype for spec in specs),
            )
        rule, weights, parameters = self._rule(name, component, depth)
        given = (1.0, *weights) if len(weights) < len(component.specs) else weights
        used = tuple(index for index, weight in enumerate(given) if weight != 0.0)
        for index in used:
            if index not in holders:
                model = component.models[index]
                raise IncompatibleError(
                    f"Cannot mix '{model}': it has no tensor '{name}', which '{component.models[holders[0]]}' has.\n"
                    "A tensor is mixed from every ingredient; one that is missing would count as zeros.\n"
                    f"Remove '{model}', or give it the weight 0 for this tensor under `layers`.",
                    model=model,
                    tensor=name,
                )
        if kinds != {"mix"}:
            _require_equal(name, component, holders, "dtype")
        _require_equal(name, component, used, "shape")
        own = first.get(name) or component.specs[used[0]][name]
        return TensorPlan(
            name=name,
            shape=component.specs[used[0]][name].shape,
            dtype=self.dtype or own.stored or own.dtype,
            rule=rule,
            models=used,
            weights=tuple(weight for weight in weights if weight != 0.0),
            dtypes=tuple(component.specs[index][name].dtype for index in used),
            parameters=parameters,
        )

    def _rule(
        self, name: str, component: ComponentInput, depth: float
    ) -> tuple[_Rule, tuple[float, ...], Mapping[str, Any]]:
        """How a tensor is made; the factors of the models, or the weights of the ingredients; the method's parameters.

        A model of weight 0 is not read.
        """
        based = self._based(component)
        kept = (model for pattern, model in self.keep if pattern.fullmatch(name))
        donor = based if name in component.first_only else next(kept, None)
        if donor is not None:
            return "sum", tuple(float(index == donor) for index in range(len(component.specs))), {}
        weights = self.numbers.weights(name, depth)
        given = tuple(weight for weight in weights if weight != 0.0)
        if not given and not based:
            raise RecipeError(
                f"All weights of '{name}' are 0, and there is no base that it could be taken from.\n"
                "Nothing would be mixed.\nRaise one of them."
            )
        parameters = self.numbers.parameters(name, depth, weights)
        found: Sequence[float] | None = () if based and not given else None  # with every weight 0: the base
        if given and self.spec.coefficients and (self.spec.combine or not self.spec.measure):
            found = self.spec.coefficients(given, parameters)
        if found is None:
            return ("task_vectors" if based and not self.spec.whole_models else "models"), weights, parameters
        each = iter(found)
        coefficients = tuple(next(each) if weight != 0.0 else 0.0 for weight in weights)
        return "sum", with_base(coefficients) if based else coefficients, {}


class _Numbers:
    """The weights and parameters of every tensor."""

    def __init__(
        self,
        *,
        spec: Method,
        weights: Sequence[Number],
        parameters: Mapping[str, Any],
        own_parameters: Sequence[Mapping[str, Any]],
        seed: int,
        layers: Sequence[LayerRule],
        normalize: bool,
    ) -> None:
        self._spec, self._given, self._seed = spec, weights, seed
        self._checked = cache(partial(spec.used_weights, normalize=normalize))
        self._rules = [
            (Expression(rule.match), self._checked(rule.weights, f"the weights of '{rule.match}'")) for rule in layers
        ]
        self._parameters = as_parameters(parameters, "parameters")
        own = [as_parameters(each, "parameters") for each in own_parameters] or [{}] * len(weights)
        self._own = [{**self._parameters, **each} for each in own]
        self._same: dict[str, Mapping[str, Any]] = {}
        self.counts = [len(weights), *(len(given) for _, given in self._rules)]
        """How many weights there are, in the recipe and in each rule of `layers`."""
        if not any(isinstance(weight, PerTensor) for weight in weights):
            self._checked(tuple(weights), "the weights")

    def require_alike(self, step: Round) -> None:
        """Raise RecipeError if what is measured of the whole model would differ from tensor to tensor."""
        numbers = [value for given in self._own for value in given.values()]
        plain = {key: value for key, value in self._parameters.items() if not isinstance(value, PerTensor)}
        every = self._spec.with_defaults(plain)
        varies = any(isinstance(value, PerTensor) for value in numbers)
        if step.over_model(every) and (varies or every.get(step.exact)):
            raise RecipeError(
                "A threshold over the whole model goes with numbers that are the same for all tensors, "
                f"and without `{step.exact}`.\n"
                "It is one number for each model, and a tensor has no k of its own then.\n"
                "Give plain numbers under `parameters`, or leave the threshold to each tensor."
            )

    def weights(self, name: str, depth: float) -> tuple[float, ...]:
        """Return one weight per ingredient."""
        for pattern, given in self._rules:
            if pattern.fullmatch(name):
                return given
        varies = any(isinstance(weight, PerTensor) for weight in self._given)
        found = tuple(_at(weight, name, depth) for weight in self._given)
        return self._checked(found, f"the weights of '{name}'" if varies else "the weights")

    def parameters(self, name: str, depth: float, weights: Sequence[float]) -> Mapping[str, Any]:
        """Return every parameter of the method: where there is one per model, those of weights that are not 0."""

        def complete(given: Mapping[str, Any]) -> dict[str, Any]:
            return self._spec.with_defaults({key: _at(value, name, depth) for key, value in given.items()})

        found = complete(self._parameters)
        if any(parameter.per_model for parameter in self._spec.parameters.values()):
            own = [complete(given) for given, weight in zip(self._own, weights, strict=True) if weight != 0.0]
            for key, parameter in self._spec.parameters.items():
                if parameter.per_model:
                    found[key] = tuple(each[key] for each in own)
        if self._spec.random:
            found["seed"] = self._seed
        return self._same.setdefault(repr(found), found)  # equal ones are one, which is quickly compared


def _at(value: Any, name: str, depth: float) -> Any:
    return value.at(name, depth) if isinstance(value, PerTensor) else value


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
    shards = []
    for file, names in split.filename_to_tensors.items():
        # wider dtypes first: each tensor then begins at a multiple of its item size, which memory maps rely on
        ordered = sorted((by_name[name] for name in names), key=lambda tensor: -itemsize(tensor.dtype))
        shards.append(ShardPlan(path=str(folder / file), component=index, tensors=tuple(ordered)))
    index_path = str(folder / f"{component.file_stem}.safetensors.index.json") if split.is_sharded else None
    total = int(split.metadata["total_size"])
    plan = ComponentPlan(folder=component.folder, models=component.models, index_path=index_path, total_size=total)
    return plan, shards

"""Small checkpoints on disk, and one call that mixes them."""

from __future__ import annotations

import hashlib
import math
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.checkpoint.header import TensorSpec
from cocktail_hub.checkpoint.reader import open_weights
from cocktail_hub.checkpoint.weight_files import read_weight_files
from cocktail_hub.merge.engine.execute import execute
from cocktail_hub.merge.kernels.buffers import ShardJob
from cocktail_hub.merge.kernels.dispatch import cut_chunks, make_chunks, run_capacity
from cocktail_hub.merge.kernels.torch_buffers import TorchBuffers
from cocktail_hub.merge.plan import (
    ComponentInput,
    ComponentPlan,
    MergePlan,
    ShardPlan,
    TensorPlan,
    plan_merge,
    row_bytes,
)
from cocktail_hub.methods.dtypes import safetensors_dtype, torch_dtype
from cocktail_hub.methods.registry import METHODS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cocktail_hub.checkpoint.reader import SafetensorsReader
    from cocktail_hub.merge.engine.execute import MergeReport
    from cocktail_hub.merge.kernels.buffers import Buffers

Tensors = dict[str, torch.Tensor]
EXECUTE = {"threads", "max_memory", "device", "on_progress", "meanwhile"}


def save(folder: Path, tensors: Mapping[str, torch.Tensor]) -> Path:
    """Write a checkpoint of one file."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def save_all(root: Path, models: Sequence[Mapping[str, torch.Tensor]]) -> list[Path]:
    """Write several checkpoints: m0, m1, ..."""
    return [save(root / f"m{index}", tensors) for index, tensors in enumerate(models)]


def model(seed: int, dtype: torch.dtype = torch.bfloat16, scale: float = 1.0) -> Tensors:
    """A little of everything: several sizes, a scalar, an empty tensor, integers and flags."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return (torch.randn(shape, generator=generator) * scale).to(dtype)

    tensors = {f"layer.{i}.norm": random(7) for i in range(20)}
    tensors |= {"embed": random(300, 40), "layer.0.dense": random(33, 65), "scale": random(), "none": random(0, 4)}
    return tensors | {"position_ids": torch.arange(12), "mask": torch.tensor([True, False])}


def mixed_by_every_method(folder: Path, dtype: torch.dtype) -> tuple[list[Path], dict[str, dict[str, Any]]]:
    """Three models with numbers of every kind, and for each method a way to mix them."""
    models = [model(seed, dtype) | {"wide": torch.randn(500, 500).to(dtype)} for seed in range(3)]
    odd, none = torch.tensor([3e38, 0.0, -0.0, 1e-40]), torch.tensor([math.nan, math.inf, -math.inf])
    for index, tensors in enumerate(models):
        tensors["embed"][index, : len(odd)] = odd.roll(index)
        tensors["embed"][7, : len(none)] = none
    models[2]["embed"][8, 0] = math.inf
    ways = {name: {"method": name, "weights": weights_for(name)} for name in METHODS}
    for name, method in METHODS.items():
        if "rescale" in method.parameters:  # 3e38 cannot be divided by a chance
            ways[name]["parameters"] = {"rescale": "none"}
    return save_all(folder, models), ways


def weights_for(method: str) -> list[float]:
    """Weights of three models, or of as many as a method takes, one of which may be the base."""
    if METHODS[method].most == 1:
        return [1.0]
    return [0.2, 0.3, 0.5] if METHODS[method].base == "none" else [0.6, 0.4]


def component(folders: Sequence[Path], folder: str = "") -> ComponentInput:
    layouts = [read_weight_files(LocalFiles(path, name=path.name), folder) for path in folders]
    return ComponentInput(folder=folder, specs=tuple(layout.specs for layout in layouts), models=names(folders))


def names(folders: Sequence[Path]) -> tuple[str, ...]:
    return tuple(path.name for path in folders)


def opened(stack: ExitStack, folders: Sequence[Path], folder: str = "") -> list[SafetensorsReader]:
    layouts = [(read_weight_files(LocalFiles(path, name=path.name), folder), path) for path in folders]
    return [stack.enter_context(closing(open_weights(layout, path))) for layout, path in layouts]


def plan(folders: Sequence[Path], **options: Any) -> MergePlan:
    return plan_merge([component(used(folders, options))], **options)


def used(folders: Sequence[Path], options: Mapping[str, Any]) -> Sequence[Path]:
    """As many of the models as a method takes."""
    spec = METHODS[options.get("method", "linear")]
    return folders if spec.most is None else folders[: spec.most + (spec.base != "none")]


def mix(folders: Sequence[Path], out: Path, **options: Any) -> MergeReport:
    """Plan and execute; options of either."""
    running = {key: options.pop(key) for key in EXECUTE & options.keys()}
    with ExitStack() as stack:
        return execute(plan(folders, **options), [opened(stack, used(folders, options))], out, **running)


def load(folder: Path) -> Tensors:
    """All tensors of a folder's shards."""
    tensors: Tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(path)
    return tensors


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def tensor_digests(folder: Path) -> dict[str, bytes]:
    """Name -> bytes, whatever the shards."""
    return {name: tensor.flatten().view(torch.uint8).numpy().tobytes() for name, tensor in load(folder).items()}


class Memory:
    """A model whose tensors are in memory, and a file that is: what the engine reads from and writes to."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], size: int = 0) -> None:
        self.name = "model"
        self.tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        self.specs = {
            name: TensorSpec(tuple(tensor.shape), safetensors_dtype(tensor.dtype)) for name, tensor in tensors.items()
        }
        self.path = Path("nowhere")
        self.data = bytearray(size)

    def read(self, tensor: str, start: int, stop: int, out: torch.Tensor) -> None:
        out.copy_(self.tensors[tensor].flatten()[start:stop])

    def write(self, offset: int, data: memoryview) -> None:
        self.data[offset : offset + len(data)] = bytes(data)

    def note(self, offset: int, count: int) -> None:
        raise AssertionError("there is no other process")


def merged(
    tensors: Sequence[torch.Tensor],
    weights: Sequence[float],
    method: str = "linear",
    *,
    dtype: torch.dtype | None = None,
    library: type[Buffers] = TorchBuffers,
    arena: int = 1 << 24,
    seed: int = 0,
    own: Sequence[Mapping[str, Any]] = (),
    **parameters: Any,
) -> torch.Tensor:
    """Merge tensors in memory, the base first where there is one; `lam` is lambda, `own` are those of each model."""
    sources = [Memory({"x": tensor}) for tensor in tensors]
    given = ComponentInput(
        specs=tuple(source.specs for source in sources), models=tuple(f"m{i}" for i in range(len(sources)))
    )
    named = {"lambda" if name == "lam" else name: value for name, value in parameters.items()}
    out_dtype = None if dtype is None else str(dtype).removeprefix("torch.")
    made = plan_merge(
        [given], method=method, weights=weights, parameters=named, own_parameters=own, seed=seed, dtype=out_dtype
    )
    return computed(made, sources, library, arena)["x"]


def added(
    tensors: Sequence[torch.Tensor],
    weights: Sequence[float],
    *,
    dtype: torch.dtype | None = None,
    library: type[Buffers] = TorchBuffers,
) -> torch.Tensor:
    """Add up tensors by any factors."""
    sources = [Memory({"x": tensor}) for tensor in tensors]
    spec, used = sources[0].specs["x"], [i for i, weight in enumerate(weights) if weight != 0.0]
    tensor = TensorPlan(
        name="x",
        shape=spec.shape,
        dtype=spec.dtype if dtype is None else safetensors_dtype(dtype),
        rule="sum",
        models=tuple(used),
        weights=tuple(weights[i] for i in used),
        dtypes=tuple(sources[i].specs["x"].dtype for i in used),
    )
    component = ComponentPlan(folder="", models=tuple("abcdefghij"[: len(tensors)]), index_path=None, total_size=0)
    shard = ShardPlan(path="x", component=0, tensors=(tensor,))
    made = MergePlan(method="linear", components=(component,), shards=(shard,))
    return computed(made, sources, library, 1 << 24)["x"]


def computed(made: MergePlan, sources: Sequence[Memory], library: type[Buffers], arena: int) -> dict[str, torch.Tensor]:
    """Compute the one shard of a plan in memory."""
    (shard,) = made.shards
    rows = max(map(row_bytes, shard.tensors)) if METHODS[made.method].rows else 0
    buffers = library(max(arena, rows))
    out = Memory({}, shard.data_bytes)
    job = ShardJob(method=made.method, models=made.components[0].models, sources=sources, output=out)
    with buffers.at_work():
        make_chunks(buffers, job, list(cut_chunks(shard, 0, partial(run_capacity, buffers, made.method))))
    found, start = {}, 0
    for tensor in shard.tensors:
        data = out.data[start : start + tensor.spec.nbytes]
        raw = torch.frombuffer(data, dtype=torch_dtype(tensor.dtype)) if data else torch.empty(0)
        found[tensor.name] = raw.to(torch_dtype(tensor.dtype)).reshape(tensor.shape)
        start += tensor.spec.nbytes
    return found


def near(got: torch.Tensor, want: torch.Tensor) -> bool:
    """Tell whether results are the floats nearest to float64 numbers, or neighbours of them, at most 1 in 1000."""
    nearest = want.to(got.dtype)
    step = torch.nextafter(nearest.abs(), torch.full_like(nearest, math.inf)) - nearest.abs()
    close = (got.double() - nearest.double()).abs() <= step.double()
    return bool(close.all()) and (got != nearest).double().mean().item() <= 1e-3

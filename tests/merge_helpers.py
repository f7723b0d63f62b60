"""Small checkpoints on disk, and one call that mixes them."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.checkpoint.reader import open_weights
from cocktail_hub.checkpoint.weight_files import read_weight_files
from cocktail_hub.merge.engine.execute import execute
from cocktail_hub.merge.plan import ComponentInput, plan_merge

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from cocktail_hub.checkpoint.reader import SafetensorsReader
    from cocktail_hub.merge.engine.execute import MergeReport
    from cocktail_hub.merge.plan import MergePlan

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


def component(folders: Sequence[Path], folder: str = "") -> ComponentInput:
    layouts = [read_weight_files(LocalFiles(path, name=path.name), folder) for path in folders]
    return ComponentInput(folder=folder, specs=tuple(layout.specs for layout in layouts), models=names(folders))


def names(folders: Sequence[Path]) -> tuple[str, ...]:
    return tuple(path.name for path in folders)


def opened(stack: ExitStack, folders: Sequence[Path], folder: str = "") -> list[SafetensorsReader]:
    layouts = [(read_weight_files(LocalFiles(path, name=path.name), folder), path) for path in folders]
    return [stack.enter_context(closing(open_weights(layout, path))) for layout, path in layouts]


def plan(folders: Sequence[Path], **options: Any) -> MergePlan:
    return plan_merge([component(folders)], **options)


def mix(folders: Sequence[Path], out: Path, **options: Any) -> MergeReport:
    """Plan and execute; options of either."""
    running = {key: options.pop(key) for key in EXECUTE & options.keys()}
    with ExitStack() as stack:
        return execute(plan(folders, **options), [opened(stack, folders)], out, **running)


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

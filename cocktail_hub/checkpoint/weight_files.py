"""Which files of a folder hold its weights, and what is in them: known from headers alone."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from cocktail_hub.checkpoint.header import read_header
from cocktail_hub.checkpoint.tensor_spec import Format, WeightFiles, WeightPaths
from cocktail_hub.errors import CheckpointError, SourceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cocktail_hub.checkpoint.files import RepoFiles
    from cocktail_hub.checkpoint.tensor_spec import TensorSpec

HEADER_READERS = 16
"""Headers read side by side: over the network each is a round trip."""
_POINTER = b"version https://git-lfs.github.com/spec/"
_POINTER_BYTES = 1024
"""A file of Git LFS that stands for another one is shorter than this."""
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".gguf", ".onnx", ".msgpack", ".h5", ".pt", ".pth", ".ckpt")


def find_weights(files: RepoFiles, folder: str = "", *, stem: str = "model") -> WeightPaths:
    """Pick one weight format as transformers does: safetensors before `.bin`, a single file before shards.

    Args:
        files: the repository.
        folder: posix path of a folder in it, '' for the root.
        stem: name of the file without suffix: 'model', or 'adapter_model' for PEFT.

    Raises:
        SourceError: the folder has no weights in either format, or lacks a shard.
        CheckpointError: the index is damaged.
    """
    pickled = "pytorch_model" if stem == "model" else stem
    candidates: tuple[tuple[Format, str], ...] = (("safetensors", f"{stem}.safetensors"), ("pickle", f"{pickled}.bin"))
    for kind, name in candidates:
        path = str(PurePosixPath(folder, name))
        if path in files.sizes:
            return WeightPaths(format=kind, paths=(path,), weight_map=None)
        if f"{path}.index.json" in files.sizes:
            weight_map = _read_index(files, folder, f"{path}.index.json")
            return WeightPaths(format=kind, paths=tuple(sorted(set(weight_map.values()))), weight_map=weight_map)
    place = f"'{files.name}'" if not folder else f"'{folder}' of '{files.name}'"
    inside = [path for path in files.sizes if str(PurePosixPath(path).parent) == (folder or ".")]
    found = ", ".join(path for path in inside if path.endswith(_WEIGHT_SUFFIXES)) or "no weight files"
    raise SourceError(
        f"{place} has neither {candidates[0][1]} nor {candidates[1][1]}, nor their shards; it has {found}.\n"
        "Only weights that transformers loads into PyTorch can be mixed.\n"
        "Name a repository, revision or subfolder with such weights, or save the model with `save_pretrained`."
    )


def read_weight_files(files: RepoFiles, folder: str = "", *, stem: str = "model") -> WeightFiles:
    """Read what a folder's weights look like, from headers alone.

    Args:
        files: the repository.
        folder: posix path of a folder in it, '' for the root.
        stem: name of the weight file without suffix: 'model', or 'adapter_model' for PEFT.

    Raises:
        SourceError: the folder has no weights, or a file cannot be read.
        CheckpointError: a file is damaged, or index and shards disagree.
    """
    weights = find_weights(files, folder, stem=stem)
    _refuse_pointers(files, weights.paths)
    read_specs = _pickle_specs if weights.format == "pickle" else _safetensors_specs
    with ThreadPoolExecutor(min(HEADER_READERS, len(weights.paths))) as pool:
        specs_of = list(pool.map(lambda path: read_specs(files, path), weights.paths))
    specs: dict[str, TensorSpec] = {}
    file_of: dict[str, str] = {}
    for path, found in zip(weights.paths, specs_of, strict=True):
        for tensor, spec in found.items():
            if tensor in specs:
                raise _disagrees(files.name, f"'{tensor}' is in both '{file_of[tensor]}' and '{path}'")
            specs[tensor] = spec
            file_of[tensor] = path
    for tensor, path in (weights.weight_map or {}).items():
        if file_of.get(tensor) != path:
            raise _disagrees(files.name, f"the index has '{tensor}' in '{path}', where it is not")
    _refuse_half_characters(files.name, specs)
    return WeightFiles(
        name=files.name,
        folder=folder,
        format=weights.format,
        weight_files=weights.paths,
        specs=specs,
        file_of=file_of,
    )


def _refuse_pointers(files: RepoFiles, paths: Sequence[str]) -> None:
    for path in paths:
        if files.sizes[path] < _POINTER_BYTES and files.read(path).startswith(_POINTER):
            raise CheckpointError(
                f"'{path}' of '{files.name}' is a pointer of Git LFS, not the weights themselves.\n"
                "The repo was cloned without its large files.\n"
                "Run `git lfs pull` in it, or name the model by its Hub id.",
                model=files.name,
            )


def _refuse_half_characters(model: str, names: Iterable[str]) -> None:
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise CheckpointError(
                f"The name {name!a} of a tensor of '{model}' is not valid text.\nNo weight file could hold it.\n"
                "Download or save the model again.",
                model=model,
            ) from error


def _safetensors_specs(files: RepoFiles, path: str) -> dict[str, TensorSpec]:
    return {tensor: slot.spec for tensor, slot in read_header(files, path).tensors.items()}


def _pickle_specs(files: RepoFiles, path: str) -> dict[str, TensorSpec]:
    from cocktail_hub.checkpoint.pickled import read_pickle_specs  # loads torch

    return read_pickle_specs(files, path)


def _disagrees(model: str, what: str) -> CheckpointError:
    return CheckpointError(
        f"The weight files of '{model}' disagree: {what}.\n"
        "Which tensor is meant cannot be known, so nothing was mixed.\n"
        "Download or save the model again.",
        model=model,
    )


def _read_index(files: RepoFiles, folder: str, path: str) -> dict[str, str]:
    """Return tensor -> path of its shard from the root, for shards that exist inside `folder`."""
    try:
        weight_map = json.loads(files.read(path))["weight_map"]
        shards = {name: PurePosixPath(name) for name in set(weight_map.values())}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _disagrees(files.name, f"'{path}' is no index with a `weight_map` of tensors to files") from error
    for shard in sorted(shards.values()):
        if shard.is_absolute() or ".." in shard.parts or "\\" in str(shard):
            raise _disagrees(files.name, f"'{path}' names '{shard}', outside of its folder")
        if str(PurePosixPath(folder, shard)) not in files.sizes:
            raise SourceError(
                f"'{files.name}' lacks the shard '{PurePosixPath(folder, shard)}' that '{path}' names.\n"
                "Part of the model would be missing from the mix.\n"
                "Download or save the model again, with all of its shards."
            )
    if not shards:
        raise _disagrees(files.name, f"'{path}' names no tensor")
    paths = {name: str(PurePosixPath(folder, shard)) for name, shard in shards.items()}
    return {tensor: paths[name] for tensor, name in weight_map.items()}

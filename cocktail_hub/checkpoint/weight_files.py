"""Which files of a folder hold its weights, and which tensors are in them: known from headers alone."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Literal

from cocktail_hub.checkpoint.files import read_settings
from cocktail_hub.checkpoint.header import read_header
from cocktail_hub.errors import CheckpointError, SourceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cocktail_hub.checkpoint.files import RepoFiles
    from cocktail_hub.checkpoint.header import TensorSpec

HEADER_READERS = 16
"""Headers read in parallel: over the network each is a round trip."""
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_LFS_POINTER_BYTES = 1024
"""Every pointer file of Git LFS is shorter than this."""
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".gguf", ".onnx", ".msgpack", ".h5", ".pt", ".pth", ".ckpt")

Format = Literal["safetensors", "pickle"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightPaths:
    """The one set of weight files that a loader would pick from a folder."""

    format: Format
    """Of all of the files."""
    paths: tuple[str, ...]
    """Posix paths from the root of the repository, sorted."""
    sharded: bool
    """Whether an index lists them."""
    index: str | None = None
    """Path from the root of the repository of an index that config.json names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFiles:
    """The tensors of one folder of an ingredient, and the files that hold them."""

    name: str
    """The ingredient, for messages."""
    folder: str
    """Folder of the repository, posix, '' for its root."""
    format: Format
    """Of all of the files."""
    weight_files: tuple[str, ...]
    """Paths from the root of the repository."""
    specs: Mapping[str, TensorSpec]
    """Tensor -> shape and dtype, in the order of files and of the data in them."""
    file_of: Mapping[str, str]
    """Tensor -> path from the root of the repository."""


def find_weights(files: RepoFiles, folder: str = "", *, stem: str = "model") -> WeightPaths:
    """Pick one weight format as transformers does: safetensors before `.bin`, a single file before shards.

    A file that config.json names (`transformers_weights`) comes before all of them.

    Args:
        files: the repository.
        folder: posix path of a folder in it, '' for the root.
        stem: file name without suffix: 'model', or 'adapter_model' for PEFT.

    Raises:
        SourceError: the folder has no weights in either format, or lacks a shard.
        CheckpointError: the index is damaged, or config.json names a file that is not there.
    """
    if stem == "model" and (named := _named_by_config(files, folder)):
        return named
    candidates: tuple[tuple[Format, str], ...] = (
        ("safetensors", f"{stem}.safetensors"),
        ("pickle", "pytorch_model.bin" if stem == "model" else f"{stem}.bin"),
    )
    for kind, name in candidates:
        path = str(PurePosixPath(folder, name))
        if path in files.sizes:
            return WeightPaths(format=kind, paths=(path,), sharded=False)
        if f"{path}.index.json" in files.sizes:
            return WeightPaths(format=kind, paths=_read_index(files, folder, f"{path}.index.json"), sharded=True)
    place = f"'{folder}' of '{files.name}'" if folder else f"'{files.name}'"
    inside = [path for path in files.sizes if str(PurePosixPath(path).parent) == (folder or ".")]
    found = ", ".join(path for path in inside if path.endswith(_WEIGHT_SUFFIXES)) or "no weight files"
    raise SourceError(
        f"{place} has neither {candidates[0][1]} nor {candidates[1][1]}, nor their shards; it has {found}.\n"
        "Only weights that transformers loads into PyTorch can be mixed.\n"
        "Name a repository, revision or subfolder with such weights, or save the model with `save_pretrained`."
    )


def _named_by_config(files: RepoFiles, folder: str) -> WeightPaths | None:
    """The weights that config.json names, if it does."""
    path = str(PurePosixPath(folder, "config.json"))
    content = read_settings(files, path) if path in files.sizes else b"null"
    try:
        config = json.loads(content)
    except (ValueError, RecursionError):
        return None  # `read_config` says so
    name = config.get("transformers_weights") if isinstance(config, dict) else None
    if not name:
        return None
    inside, found = PurePosixPath(str(name)), str(PurePosixPath(folder, str(name)))
    if inside.is_absolute() or ".." in inside.parts or found not in files.sizes:
        raise CheckpointError(
            f"'{path}' of '{files.name}' names the weights '{name}' (`transformers_weights`), which its folder lacks.\n"
            "transformers would load that file and no other.\n"
            "Add the file, or remove `transformers_weights` from the config.",
            model=files.name,
        )
    if found.endswith(".safetensors.index.json"):
        paths = _read_index(files, folder, found)
        return WeightPaths(format="safetensors", paths=paths, sharded=True, index=found)
    kind: Format = "safetensors" if found.endswith(".safetensors") else "pickle"
    return WeightPaths(format=kind, paths=(found,), sharded=False)


def read_weight_files(files: RepoFiles, folder: str = "", *, stem: str = "model") -> WeightFiles:
    """Read the headers of a folder's weight files.

    As in transformers, an index only says which files there are: a tensor that none of them holds is not there, and of
    one that two hold, the last counts.

    Args:
        files: the repository.
        folder: posix path of a folder in it, '' for the root.
        stem: file name without suffix: 'model', or 'adapter_model' for PEFT.

    Raises:
        SourceError: the folder has no weights, or a file cannot be read.
        CheckpointError: a file is damaged or holds empty parameters, or two shards hold different tensors of one name.
    """
    weights = find_weights(files, folder, stem=stem)
    with ThreadPoolExecutor(min(HEADER_READERS, len(weights.paths))) as pool:
        specs_of = list(pool.map(lambda path: _read_specs(files, path, weights.format), weights.paths))
    specs: dict[str, TensorSpec] = {}
    file_of: dict[str, str] = {}
    for path, found in zip(weights.paths, specs_of, strict=True):
        for tensor in specs.keys() & found.keys():
            if specs[tensor] != found[tensor]:
                raise _disagree(files.name, f"'{tensor}' is another one in '{file_of[tensor]}' than in '{path}'")
        specs |= found
        file_of |= dict.fromkeys(found, path)
    _refuse_empty(files.name, specs)
    return WeightFiles(
        name=files.name,
        folder=folder,
        format=weights.format,
        weight_files=weights.paths,
        specs=specs,
        file_of=file_of,
    )


def _refuse_empty(name: str, specs: Mapping[str, TensorSpec]) -> None:
    empty = [tensor for tensor, spec in specs.items() if spec.shape == (0,) and tensor.endswith((".weight", ".bias"))]
    if empty:
        raise CheckpointError(
            f"{len(empty)} of {len(specs)} tensors of '{name}' are empty: '{empty[0]}' has the shape [0].\n"
            "Under DeepSpeed ZeRO-3 each process holds a part, and what was saved is only a place for it.\n"
            "Gather the weights and save again (`stage3_gather_16bit_weights_on_model_save`, `zero_to_fp32.py`).",
            model=name,
        )


def _read_specs(files: RepoFiles, path: str, kind: Format) -> dict[str, TensorSpec]:
    """Shapes and dtypes in one file, which a clone without Git LFS may have left as a pointer."""
    if files.sizes[path] < _LFS_POINTER_BYTES and files.read(path).startswith(_LFS_POINTER):
        raise CheckpointError(
            f"'{path}' of '{files.name}' is a pointer of Git LFS, not the weights themselves.\n"
            "The repo was cloned without its large files.\nRun `git lfs pull` in it, or name the model by its Hub id.",
            model=files.name,
        )
    if kind == "pickle":
        from cocktail_hub.checkpoint.pickled import read_pickle_specs  # loads torch

        specs = read_pickle_specs(files, path)
    else:
        specs = {tensor: slot.spec for tensor, slot in read_header(files, path).tensors.items()}
    for tensor in specs:
        try:
            tensor.encode()
        except UnicodeEncodeError as error:
            raise CheckpointError(
                f"The name {tensor!a} of a tensor of '{files.name}' is not valid text.\nNo weight file could hold it.\n"
                "Download or save the model again.",
                model=files.name,
            ) from error
    return specs


def _disagree(model: str, what: str) -> CheckpointError:
    return CheckpointError(
        f"The weight files of '{model}' disagree: {what}.\n"
        "Which tensor is meant is ambiguous, so nothing was mixed.\n"
        "Download or save the model again.",
        model=model,
    )


def _read_index(files: RepoFiles, folder: str, path: str) -> tuple[str, ...]:
    """Return the shards that an index lists, sorted, as paths from the root; they exist inside `folder`."""
    content = read_settings(files, path)
    try:
        weight_map = json.loads(content)["weight_map"]
        shards = {name: PurePosixPath(name) for name in set(weight_map.values())}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _disagree(files.name, f"'{path}' is not an index with a `weight_map` of tensors to files") from error
    for shard in sorted(shards.values()):
        if shard.is_absolute() or ".." in shard.parts or "\\" in str(shard):
            raise _disagree(files.name, f"'{path}' names '{shard}', which is outside of its folder")
        if str(PurePosixPath(folder, shard)) not in files.sizes:
            raise SourceError(
                f"'{files.name}' lacks the shard '{PurePosixPath(folder, shard)}' that '{path}' names.\n"
                "Part of the model would be missing from the mix.\n"
                "Download or save the model again, with all of its shards."
            )
    if not shards:
        raise _disagree(files.name, f"'{path}' names no tensor")
    return tuple(sorted(str(PurePosixPath(folder, shard)) for shard in shards.values()))


_WRAPPERS = re.compile(r"(?:(?<=\.)|^)(_orig_mod|_forward_module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_DATA_PARALLEL = "module."


def unwrapped(names: Iterable[str]) -> dict[str, str]:
    """Map names without the parts that torch.compile, FSDP, DataParallel and Lightning add -> names in the file.

    transformers does not know these parts: it would ignore such tensors and initialise the parameters at random.
    """
    names = list(names)
    bare = {_WRAPPERS.sub("", name): name for name in names}
    while bare and all(name.startswith(_DATA_PARALLEL) for name in bare):
        bare = {name.removeprefix(_DATA_PARALLEL): raw for name, raw in bare.items()}
    return bare if len(bare) == len(names) else {name: name for name in names}


_BUFFERS = re.compile(
    r"(^|\.)(position_ids|token_type_ids|masked_bias|inv_freq|original_inv_freq|cos_cached|sin_cached"
    r"|relative_position_index|num_batches_tracked)$"
)
_ZEROS = re.compile(r"(^|\.)final_logits_bias$")
_MASKS = re.compile(r"(^|\.)(attn|attention|crossattention)\.(bias|causal_mask)$")


def is_rebuilt(name: str) -> bool:
    """Whether every model computes a buffer of this name itself, so that a checkpoint may have it or not."""
    return _BUFFERS.search(name) is not None


def starts_at_zero(name: str) -> bool:
    """Whether the models that have a tensor of this name start it at zeros, if a checkpoint lacks it."""
    return _ZEROS.search(name) is not None


def is_mask(name: str) -> bool:
    """Whether old versions of transformers saved a causal mask under this name, if the model has no such parameter."""
    return _MASKS.search(name) is not None


def is_counter(name: str) -> bool:
    """Whether a tensor only counts training steps, so that it has no average and may differ between ingredients."""
    return name.endswith("num_batches_tracked")

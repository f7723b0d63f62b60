"""Which files of a repository make up the model: weights to mix, small files to carry over. Names and JSON only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from cocktail_hub.checkpoint.weight_files import find_weights
from cocktail_hub.errors import CheckpointError, SourceError

if TYPE_CHECKING:
    from cocktail_hub.checkpoint.files import RepoFiles

ADAPTER_CONFIG = "adapter_config.json"
MODULES = "modules.json"
ROUTER = "router_config.json"
"""In a module that sends queries and documents through modules of their own."""
WEIGHT_STEMS = ("model", "pytorch_model")
ADAPTER_STEMS = ("adapter_model",)
NOTICES = ("LICENSE*", "NOTICE*", "USE_POLICY*")
"""Files that say what a model may be used for."""
_CARRIED = (
    *("*.json", "*.txt", "*.jinja", "*.model", "*.spm", "*.tiktoken", "*.vocab", "*.bpe", "*.codes", "*.tokenizer"),
    *NOTICES,
)
_NOT_CARRIED = (
    "*.index.json",
    "adapter_config.json",
    "recipe.json",
    "trainer_state.json",
    "*_results*",
    "*predictions*",
    "training_args*",
    "train.*",
    "eval*",
    "test.*",
    "dev.*",
    "valid*",
    "notes*",
    "log_history*",
    "wandb*",
    "optimizer*",
    "scheduler*",
    "openvino_*",
    "tf_model*",
    "flax_model*",
    "requirements*.txt",
    "quantize_config.json",
)
_TEMPLATE_FOLDERS = ("chat_templates", "additional_chat_templates")
CODE = "*.py"
"""Code of models that transformers does not know; carried only where the caller trusts it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """What a mix takes from one repository."""

    name: str
    """The ingredient, for messages."""
    main: str
    """Folder of the transformer's config and weights: '' but for old sentence-transformers layouts."""
    weight_folders: tuple[str, ...]
    """Folders with weights, `main` first: the transformer, then the modules of sentence-transformers."""
    weight_files: tuple[str, ...]
    """The weight files in them, of one format each, with their indexes."""
    carried: tuple[str, ...]
    """Config, tokenizer, processor, pooling and licence files."""
    code: tuple[str, ...]
    """Python files that the model's own loader would run."""
    adapter: bool = False
    """Whether the repo holds a PEFT adapter instead of a whole model."""

    @property
    def needed(self) -> tuple[str, ...]:
        """Everything that a mix needs from this repository."""
        return tuple(dict.fromkeys((*self.carried, *self.weight_files)))


def read_model_files(files: RepoFiles) -> ModelFiles:
    """Tell weights from the rest, and leave out every other format (onnx, openvino, gguf, flax, `original/`).

    Raises:
        SourceError: there are no weights that can be mixed.
        CheckpointError: `modules.json` is damaged, or a folder holds both a whole model and an adapter.
    """
    if _is_adapter(files):
        return _adapter_contents(files)
    modules = read_modules(files)
    folders = _model_folders(files, modules)
    main = folders[0]
    weighted = tuple(folder for folder in folders if folder == main or _has_weights(files, folder))
    for folder in weighted:
        _refuse_adapter_beside(files, folder)
    return ModelFiles(
        name=files.name,
        main=main,
        weight_folders=weighted,
        weight_files=tuple(path for folder in weighted for path in _weight_paths(files, folder)),
        carried=tuple(path for path in files.sizes if _carries(path, ("", *folders, *_TEMPLATE_FOLDERS))),
        code=tuple(path for path in files.sizes if fnmatchcase(path, CODE) and "/" not in path),
    )


def _adapter_contents(files: RepoFiles) -> ModelFiles:
    """What a mix takes from an adapter: the modules of sentence-transformers, too, where it lists some."""
    folders = _model_folders(files, read_modules(files))
    if folders[0] != "":
        raise CheckpointError(
            f"'{MODULES}' of '{files.name}' has the transformer in '{folders[0]}', but its adapter lies in the root.\n"
            "sentence-transformers would load another model than the adapter's.\n"
            f"Move the adapter's files to where '{MODULES}' says, or save the model again.",
            model=files.name,
        )
    inner = tuple(folder for folder in folders[1:] if _has_weights(files, folder))
    for folder in inner:
        _refuse_adapter_beside(files, folder)
    own = (ADAPTER_CONFIG, *find_weights(files, stem="adapter_model").paths)
    return ModelFiles(
        name=files.name,
        main="",
        weight_folders=("", *inner),
        weight_files=(*own, *(path for folder in inner for path in _weight_paths(files, folder))),
        carried=tuple(path for path in files.sizes if _carries(path, folders)),
        code=(),
        adapter=True,
    )


def read_modules(files: RepoFiles) -> list[dict[str, Any]]:
    """The modules of a sentence-transformers model in order, each with `path` and `type`; empty where there are none.

    Raises:
        CheckpointError: `modules.json` is damaged, or a path in it leaves the repository.
    """
    if MODULES not in files.sizes:
        return []
    modules = read_json(files, MODULES)
    if not isinstance(modules, list) or not all(isinstance(m, dict) and {"path", "type"} <= m.keys() for m in modules):
        raise CheckpointError(
            f"'{MODULES}' of '{files.name}' is not a list of modules with `path` and `type`.\n"
            "Without it the embeddings would be pooled in some other way.\nSave the model again.",
            model=files.name,
        )
    for module in modules:
        _require_inside(files, MODULES, str(module["path"]))
    return modules


def read_json(files: RepoFiles, path: str) -> Any:
    """A JSON file of the repository.

    Raises:
        SourceError: there is no such file.
        CheckpointError: it is not JSON, or holds what cannot be written as text again.
    """
    try:
        value = json.loads(files.read(path))
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise CheckpointError(
            f"'{path}' of '{files.name}' is not valid text: it has {error.object[error.start]!a}, half a character.\n"
            "No file of the mix could hold that.\nDownload or save the model again.",
            model=files.name,
        ) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"'{path}' of '{files.name}' is not JSON: {error}.\nWhat the model is cannot be known without it.\n"
            "Download or save the model again.",
            model=files.name,
        ) from error
    return value


def read_config(files: RepoFiles, folder: str = "") -> Mapping[str, Any]:
    """`config.json` of a folder, empty where there is none (static embeddings have none).

    Raises:
        CheckpointError: it is not a JSON mapping.
    """
    path = str(PurePosixPath(folder, "config.json"))
    if path not in files.sizes:
        return {}
    config = read_json(files, path)
    if not isinstance(config, Mapping):
        raise CheckpointError(
            f"'{path}' of '{files.name}' is not a JSON mapping.\nWhat the model is cannot be known without it.\n"
            "Download or save the model again.",
            model=files.name,
        )
    return config


def _is_adapter(files: RepoFiles) -> bool:
    return ADAPTER_CONFIG in files.sizes and not _has_weights(files, "")


def _model_folders(files: RepoFiles, modules: list[dict[str, Any]]) -> tuple[str, ...]:
    """Folders that belong to the model, the transformer's first; those below a module's folder are its parts."""
    if not modules:
        return ("",)
    tops = [folder for module in modules for folder in _routes(files, str(module["path"]).strip("/"))]
    inside = {str(PurePosixPath(path).parent) for path in files.sizes}
    nested = sorted(
        folder for folder in inside if folder != "." and any(top and folder.startswith(f"{top}/") for top in tops)
    )
    return tuple(dict.fromkeys((*tops, *nested)))


def _routes(files: RepoFiles, folder: str) -> tuple[str, ...]:
    """The folder of a module itself; for a Router, which has no weights, after those of the modules it chooses from.

    Raises:
        CheckpointError: a path leaves the repository.
    """
    path = str(PurePosixPath(folder, ROUTER))
    if path not in files.sizes:
        return (folder,)
    routes = read_json(files, path)
    types = routes.get("types") if isinstance(routes, Mapping) else None
    if not isinstance(types, Mapping) or not types:
        raise CheckpointError(
            f"'{path}' of '{files.name}' names no modules under `types`.\n"
            "Without them the model has no weights.\nSave the model again.",
            model=files.name,
        )
    for name in types:
        _require_inside(files, path, str(name))
    return (*(str(PurePosixPath(folder, str(name))) for name in types), folder)


def _require_inside(files: RepoFiles, source: str, path: str) -> None:
    posix = PurePosixPath(path)
    if posix.is_absolute() or ".." in posix.parts or "\\" in path or PureWindowsPath(path).drive:
        raise CheckpointError(
            f"'{source}' of '{files.name}' names '{path}', outside of the repo.\n"
            "A model must not reach out of its own folder.\nSave the model again.",
            model=files.name,
        )


def _refuse_adapter_beside(files: RepoFiles, folder: str) -> None:
    """Raise CheckpointError if a folder with a whole model holds an adapter, too: config and weights."""
    found = _weights_there(files, folder, ADAPTER_STEMS)
    if str(PurePosixPath(folder, ADAPTER_CONFIG)) not in files.sizes or not found:
        return
    raise CheckpointError(
        f"{_place(files, folder)} holds the weights of a whole model and those of an adapter on it ('{found[0]}').\n"
        "transformers would load both, with the adapter active; whether the mix is to have the adapter's change cannot "
        "be known.\n"
        f"Move '{ADAPTER_CONFIG}' and '{found[0]}' to a folder of their own and name that one, with the model as its "
        "`base`; or merge them with PEFT (`merge_and_unload`) and save the result; or remove the adapter's files.",
        model=files.name,
    )


def _place(files: RepoFiles, folder: str) -> str:
    return f"'{folder}' of '{files.name}'" if folder else f"'{files.name}'"


def _has_weights(files: RepoFiles, folder: str) -> bool:
    return bool(_weights_there(files, folder, WEIGHT_STEMS))


def _weights_there(files: RepoFiles, folder: str, stems: tuple[str, ...]) -> list[str]:
    """Weight files of these stems in a folder, or their indexes."""
    paths = [str(PurePosixPath(folder, f"{stem}{end}")) for stem in stems for end in (".safetensors", ".bin")]
    return [path for name in paths for path in (name, f"{name}.index.json") if path in files.sizes]


def _weight_paths(files: RepoFiles, folder: str) -> tuple[str, ...]:
    try:
        weights = find_weights(files, folder)
    except SourceError as error:
        if folder == "" and any(path.endswith(".gguf") for path in files.sizes):
            raise SourceError(
                f"'{files.name}' holds GGUF files only.\nThey are quantised, and a mix of rounded weights is worse "
                "than its parts.\nName the repo with the original safetensors weights."
            ) from error
        raise
    index = [f"{path}.index.json" for path in _index_stems(folder) if f"{path}.index.json" in files.sizes]
    return (*weights.paths, *(index if weights.weight_map is not None else ()))


def _index_stems(folder: str) -> tuple[str, ...]:
    return tuple(str(PurePosixPath(folder, name)) for name in ("model.safetensors", "pytorch_model.bin"))


def _carries(path: str, folders: tuple[str, ...]) -> bool:
    parent = str(PurePosixPath(path).parent)
    name = PurePosixPath(path).name
    return (
        ("" if parent == "." else parent) in folders
        and not name.startswith(".")
        and any(fnmatchcase(name, pattern) for pattern in _CARRIED)
        and not any(fnmatchcase(name, pattern) for pattern in _NOT_CARRIED)
    )

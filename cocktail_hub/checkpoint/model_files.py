"""Which files of a repository make up the model: weights to mix, small files to copy. From names and JSON only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from cocktail_hub.checkpoint.files import read_settings
from cocktail_hub.checkpoint.weight_files import find_weights
from cocktail_hub.errors import CheckpointError, SourceError
from cocktail_hub.recipe.validation import require_shallow

if TYPE_CHECKING:
    from cocktail_hub.checkpoint.files import RepoFiles

ADAPTER_CONFIG = "adapter_config.json"
_SHOWN = 100
"""Characters of a value in a message."""
MODULES = "modules.json"
ROUTER = "router_config.json"
"""In a module that routes queries and documents to different modules."""
MOST_LAYERS = 10_000
_LAYERS = frozenset(
    {"num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers", "num_decoder_layers"}
)
"""Keys of a config with the number of layers."""
NOTICES = ("LICENSE*", "NOTICE*", "USE_POLICY*")
"""Files that say what a model may be used for."""
_WEIGHT_STEMS = ("model", "pytorch_model")
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_CARRIED = (
    *("*.json", "*.txt", "*.jinja", "*.model", "*.spm", "*.tiktoken", "*.vocab", "*.bpe", "*.codes", "*.tokenizer"),
    *NOTICES,
)
_NOT_CARRIED = (
    *("*.index.json", "adapter_config.json", "recipe.json", "quantize_config.json", "requirements*.txt"),
    *("trainer_state.json", "training_args*", "log_history*", "wandb*", "optimizer*", "scheduler*", "notes*"),
    *("*_results*", "*predictions*", "train.*", "eval*", "test.*", "dev.*", "valid*"),
    *("openvino_*", "tf_model*", "flax_model*"),
)
_WEIGHTS = (
    *("*.safetensors", "*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt", "*.h5", "*.msgpack", "*.joblib"),
)
"""What looks like weights."""
_NOT_WEIGHTS = (
    *("optimizer*", "*_optim_states.pt", "scheduler*", "scaler.pt", "rng_state*", "random_states*", "training_args*"),
    *("*_model_states.pt", "trainer_state*", "*results*", "*predictions*"),
    *("tf_model*", "flax_model*", "rust_model*", "consolidated*", "*.onnx*", "openvino_*"),
)
"""What training keeps for itself, and other formats."""
_COPIES = ("model.*", "model-*", "pytorch_model*", "adapter_model.*", "adapter_model-*")
"""Copies of the weights that are mixed, if they lie in the same folder."""
_NOT_WEIGHT_FOLDERS = (
    *("onnx*", "openvino*", "gguf*", "original", "coreml*", "tf*", "flax*", "saved_model*", "mlx*", "variables"),
    *("checkpoint-*", "global_step*", "runs", "wandb", "logs", ".*"),
)
_TRAINED_BESIDE = (
    *("non_lora_trainables.*", "trainable_params.*", "new_embeddings.*", "*projector.*", "*_linear.*"),
    *("*_head.*", "adapter.*.safetensors", "adapter.*.bin"),  # of TRL, SetFit; adapters for languages
)
"""What some trainers save beside the adapter that they train along with it."""
_NAMED = 4
"""Files named in a note, at most."""
_TEMPLATE_FOLDERS = ("chat_templates", "additional_chat_templates")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """What a mix takes from one repository."""

    name: str
    """The ingredient, for messages."""
    main: str
    """Folder of the transformer's config and weights: '' except in old sentence-transformers models."""
    weight_folders: tuple[str, ...]
    """Folders with weights, `main` first: the transformer, then the modules of sentence-transformers."""
    weight_files: tuple[str, ...]
    """The weight files in them, of one format each, with their indexes."""
    carried: tuple[str, ...]
    """Config, tokenizer, processor, pooling and licence files."""
    code: tuple[str, ...]
    """Python files of a model that transformers does not know; copied only where the caller trusts them."""
    beside: tuple[str, ...] = ()
    """Other files with weights, such as heads; they are not mixed."""
    adapter: bool = False
    """Whether the repo holds a PEFT adapter instead of a whole model."""

    @property
    def needed(self) -> tuple[str, ...]:
        """Everything that a mix needs from this repository."""
        return tuple(dict.fromkeys((*self.carried, *self.weight_files)))

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence about the files with weights that are not mixed, if there are any."""
        if not self.beside:
            return ()
        more = len(self.beside) - _NAMED
        named = ", ".join(f"'{path}'" for path in self.beside[:_NAMED]) + (f" and {more} more" if more > 0 else "")
        return (f"'{self.name}' also has weights in {named}, which are not mixed and not in the mix.",)


def read_model_files(files: RepoFiles) -> ModelFiles:
    """Select the weights and small files; leave out every other format (onnx, openvino, gguf, flax, `original/`).

    Raises:
        SourceError: there are no weights that can be mixed.
        CheckpointError: `modules.json` is damaged, a folder holds both a whole model and an adapter, or an adapter has
            trained weights beside it.
    """
    adapter = ADAPTER_CONFIG in files.sizes and not _weights_in(files, "", _WEIGHT_STEMS)
    main, *modules = _model_folders(files)
    if adapter and main:
        raise CheckpointError(
            f"'{MODULES}' of '{files.name}' has the transformer in '{main}', but its adapter is in the root.\n"
            "sentence-transformers would load another model than the adapter's.\n"
            f"Move the adapter's files to where '{MODULES}' says, or save the model again.",
            model=files.name,
        )
    weighted = [main, *(folder for folder in modules if _weights_in(files, folder, _WEIGHT_STEMS))]
    weight_files: list[str] = []
    if adapter:
        weight_files += [ADAPTER_CONFIG, *find_weights(files, stem="adapter_model").paths]
    for folder in weighted[1:] if adapter else weighted:
        weight_files += _whole_weights(files, folder)
    sources = {"", main, *modules, *(() if adapter else _TEMPLATE_FOLDERS)}
    carried: list[str] = []
    for path in files.sizes:
        folder, _, name = path.rpartition("/")
        wanted = any(fnmatchcase(name, pattern) for pattern in _CARRIED) and not name.startswith(".")
        if folder in sources and wanted and not any(fnmatchcase(name, pattern) for pattern in _NOT_CARRIED):
            carried.append(path)
    beside = tuple(path for path in files.sizes if path not in weight_files and _holds_weights(path, weighted))
    if adapter:
        _refuse_trained_beside(files.name, beside)
    return ModelFiles(
        name=files.name,
        main=main,
        weight_folders=tuple(weighted),
        weight_files=tuple(weight_files),
        carried=tuple(carried),
        code=() if adapter else tuple(path for path in files.sizes if path.endswith(".py") and "/" not in path),
        beside=beside,
        adapter=adapter,
    )


def read_modules(files: RepoFiles) -> list[dict[str, Any]]:
    """The modules of a sentence-transformers model in order, each with `path` and `type`; empty for other models.

    Raises:
        CheckpointError: `modules.json` is damaged, or a path in it leaves the repository.
    """
    if MODULES not in files.sizes:
        return []
    modules = read_json(files, MODULES)
    if not isinstance(modules, list) or not all(isinstance(m, dict) and {"path", "type"} <= m.keys() for m in modules):
        raise CheckpointError(
            f"'{MODULES}' of '{files.name}' is not a list of modules with `path` and `type`.\n"
            "Without it the embeddings would be pooled in another way.\nSave the model again.",
            model=files.name,
        )
    for module in modules:
        _require_inside(files, MODULES, str(module["path"]))
    return modules


def read_chain(files: RepoFiles) -> list[dict[str, Any]]:
    """The modules of a sentence-transformers model, each Router followed by the modules that it leads to.

    Raises:
        CheckpointError: a file that lists modules is damaged, or a path in it leaves the repository.
    """
    chain = []
    for module in read_modules(files):
        folder = str(module["path"]).strip("/")
        inner = {str(PurePosixPath(folder, name)): kind for name, kind in _routes(files, folder).items()}
        chain += [module, *({"path": path, "type": kind} for path, kind in inner.items())]
    return chain


def read_json(files: RepoFiles, path: str) -> Any:
    """Parse a JSON file of the repository.

    Raises:
        SourceError: there is no such file.
        CheckpointError: it is not JSON, or has half a surrogate pair, which cannot be written as text again.
    """
    content = read_settings(files, path)
    try:
        value = json.loads(content)
        require_shallow(value)
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise CheckpointError(
            f"'{path}' of '{files.name}' is not valid text: it has {error.object[error.start]!a}, half a character.\n"
            "No file of the mix could hold it.\nDownload or save the model again.",
            model=files.name,
        ) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"'{path}' of '{files.name}' is not JSON: {error}.\nWithout it the kind of model is unknown.\n"
            "Download or save the model again.",
            model=files.name,
        ) from error
    return value


def read_config(files: RepoFiles, folder: str = "") -> Mapping[str, Any]:
    """Parse `config.json` of a folder; empty where there is none, as for static embeddings.

    Raises:
        CheckpointError: it is not a JSON mapping, or `architectures` are no names of classes.
    """
    path = str(PurePosixPath(folder, "config.json"))
    if path not in files.sizes:
        return {}
    config = read_json(files, path)
    if not isinstance(config, Mapping):
        raise CheckpointError(
            f"'{path}' of '{files.name}' is not a JSON mapping.\nWithout it the kind of model is unknown.\n"
            "Download or save the model again.",
            model=files.name,
        )
    named = config.get("architectures") or []
    if not isinstance(named, list) or not all(isinstance(name, str) and name.isidentifier() for name in named):
        raise CheckpointError(
            f"`architectures` in '{path}' of '{files.name}' is {str(named)[:_SHOWN]!r}, not a list of class names.\n"
            'Programs look such names up, and cards show them as code.\nWrite the class, such as ["BertModel"].',
            model=files.name,
        )
    parts = [part for part in (config, *config.values()) if isinstance(part, dict)]
    for key, count in ((key, part[key]) for part in parts for key in _LAYERS & part.keys()):
        if isinstance(count, int) and count > MOST_LAYERS:
            raise CheckpointError(
                f"`{key}` in '{path}' of '{files.name}' is {str(count)[:_SHOWN]}, more than {MOST_LAYERS:,}.\n"
                "Whoever loads it would build so many layers, which no model has.\nDownload or save the model again.",
                model=files.name,
            )
    return config


def _model_folders(files: RepoFiles) -> tuple[str, ...]:
    """Folders of the model, the first transformer's first; one inside of a module's folder is part of the module."""
    chain = read_chain(files)
    if not chain:
        return ("",)
    tops = [str(module["path"]).strip("/") for module in chain]
    inside = {str(PurePosixPath(path).parent) for path in files.sizes}
    nested = sorted(
        folder for folder in inside if folder != "." and any(top and folder.startswith(f"{top}/") for top in tops)
    )
    folders = dict.fromkeys((*tops, *nested))
    adapter = "" in folders and ADAPTER_CONFIG in files.sizes
    transformers = (folder for folder in folders if "model_type" in read_config(files, folder))
    weighted = (folder for folder in folders if _weights_in(files, folder, _WEIGHT_STEMS))
    main = "" if adapter else next(transformers, None) or next(weighted, tops[0])
    return (main, *(folder for folder in folders if folder != main))


def _routes(files: RepoFiles, folder: str) -> Mapping[str, Any]:
    """The folders inside of a Router's and the types of the modules there; empty for another module."""
    path = str(PurePosixPath(folder, ROUTER))
    if path in files.sizes:
        routes = read_json(files, path)
    else:  # `Asym`, as a Router was called until sentence-transformers 5
        path, routes = str(PurePosixPath(folder, "config.json")), read_config(files, folder)
        if "structure" not in routes:
            return {}
    types = routes.get("types") if isinstance(routes, Mapping) else None
    if not isinstance(types, Mapping) or not types:
        raise CheckpointError(
            f"'{path}' of '{files.name}' names no modules under `types`.\n"
            "Without them the model has no weights.\nSave the model again.",
            model=files.name,
        )
    for name in types:
        _require_inside(files, path, str(name))
    return types


def _require_inside(files: RepoFiles, source: str, path: str) -> None:
    posix = PurePosixPath(path)
    if posix.is_absolute() or ".." in posix.parts or "\\" in path or PureWindowsPath(path).drive:
        raise CheckpointError(
            f"'{source}' of '{files.name}' names '{path}', outside of the repo.\n"
            "A model must not read files outside of its own folder.\nSave the model again.",
            model=files.name,
        )


def _weights_in(files: RepoFiles, folder: str, stems: tuple[str, ...]) -> list[str]:
    """Weight files of these stems in a folder, or their indexes."""
    paths = [str(PurePosixPath(folder, f"{stem}{end}")) for stem in stems for end in (".safetensors", ".bin")]
    return [path for name in paths for path in (name, f"{name}.index.json") if path in files.sizes]


def _holds_weights(path: str, mixed: list[str]) -> bool:
    """Whether a file looks like weights, but neither a state of training nor a copy of those in the folders `mixed`."""
    *folders, name = path.lower().split("/")
    not_weights = (*_NOT_WEIGHTS, *(_COPIES if path.rpartition("/")[0] in mixed else ()))
    return (
        any(fnmatchcase(name, pattern) for pattern in _WEIGHTS)
        and not any(fnmatchcase(folder, pattern) for folder in folders for pattern in _NOT_WEIGHT_FOLDERS)
        and not any(fnmatchcase(name, pattern) for pattern in not_weights)
    )


def _refuse_trained_beside(name: str, beside: tuple[str, ...]) -> None:
    for path in beside:
        if "/" not in path and any(fnmatchcase(path, pattern) for pattern in _TRAINED_BESIDE):
            raise CheckpointError(
                f"The adapter '{name}' has more trained weights in '{path}', which PEFT does not load.\n"
                "Without them, base and adapter are another model than the one that was trained.\n"
                "Load all of it with the trainer's own code, merge it (`merge_and_unload`), save the result, and mix "
                "that.",
                model=name,
            )


def _whole_weights(files: RepoFiles, folder: str) -> tuple[str, ...]:
    """The weight files of a whole model or module, with their indexes; an adapter beside them is refused."""
    beside = _weights_in(files, folder, ("adapter_model",))
    if beside and str(PurePosixPath(folder, ADAPTER_CONFIG)) in files.sizes:
        place = f"'{folder}' of '{files.name}'" if folder else f"'{files.name}'"
        raise CheckpointError(
            f"{place} holds the weights of a whole model and those of an adapter on it ('{beside[0]}').\n"
            "transformers would load both, with the adapter active; whether the mix should include the adapter's "
            "change is ambiguous.\n"
            f"Move '{ADAPTER_CONFIG}' and '{beside[0]}' to a folder of their own and name that one, with the model as "
            "its `base`; or merge them with PEFT (`merge_and_unload`) and save the result; or remove the adapter's "
            "files.",
            model=files.name,
        )
    try:
        weights = find_weights(files, folder)
    except SourceError as error:
        if folder == "" and any(path.endswith(".gguf") for path in files.sizes):
            raise SourceError(
                f"'{files.name}' holds GGUF files only.\nThey are quantised, and a mix of rounded weights is worse "
                "than its ingredients.\nName the repo with the original safetensors weights."
            ) from error
        raise
    indexes = [str(PurePosixPath(folder, name)) for name in _INDEXES if weights.sharded]
    indexes += [weights.index] if weights.index and weights.index not in indexes else []
    return (*weights.paths, *(path for path in indexes if path in files.sizes))

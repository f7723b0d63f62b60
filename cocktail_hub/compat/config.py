"""Configs: what kind of model they describe, whether it is the same network, and which differences matter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cocktail_hub.checkpoint.model_files import read_json, read_modules
from cocktail_hub.errors import IncompatibleError
from cocktail_hub.recipe.task import TASKS

if TYPE_CHECKING:
    from cocktail_hub.checkpoint.files import RepoFiles

EMBEDDER_CONFIG = "config_sentence_transformers.json"
# fmt: off
MATTERS = frozenset({
    "activation_function", "attention_bias", "attention_multiplier", "embedding_multiplier", "feed_forward_proj",
    "head_dim", "hidden_act", "hidden_activation", "layer_norm_eps", "layer_norm_epsilon", "logits_scaling",
    "num_attention_heads", "num_experts_per_tok", "num_key_value_heads", "partial_rotary_factor",
    "position_embedding_type", "problem_type", "residual_multiplier", "rms_norm_eps", "rope_parameters",
    "rope_scaling", "rope_theta", "scale_embedding", "sliding_window", "tie_word_embeddings",
})
"""Keys that change what the same weights compute; the mix follows the ingredient that gives the config."""
_HEADS = (
    "num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads", "decoder_attention_heads",
)
"""Keys with the number of attention heads. Tensor shapes do not reveal it; together they determine all other counts."""
# fmt: on
_NESTED = ("_config", "encoder", "decoder")
"""Ends of the keys that hold the config of a submodel."""
_SHOWN = 5
"""Labels in a sentence."""


@dataclass(frozen=True, kw_only=True)
class ModelKind:
    """What a model is, according to its small files."""

    architecture: str
    """Class name, e.g. `BertModel`; empty without a transformers config."""
    model_type: str
    """Name of the family in transformers, e.g. `bert`; empty without a transformers config."""
    task: str
    """Hub task, e.g. `sentence-similarity`."""
    sentence_transformers: str
    """Class of sentence-transformers that loads it: `SentenceTransformer`, `CrossEncoder`, ...; empty for none."""


def model_kind(files: RepoFiles, config: Mapping[str, Any], task: str | None = None) -> ModelKind:
    """Tell what a model is.

    Args:
        files: the repository or folder, with its sentence-transformers files if it has any.
        config: config.json of its transformer.
        task: set by the recipe; `None`: inferred.
    """
    names = config.get("architectures") or [""]
    architecture, model_type = str(names[0]), str(config.get("model_type", ""))
    embedder = read_json(files, EMBEDDER_CONFIG) if EMBEDDER_CONFIG in files.sizes else None
    loader = embedder.get("model_type") if isinstance(embedder, dict) else None
    if not loader and read_modules(files):
        loader = "SentenceTransformer"
    if not loader and architecture.endswith("ForSequenceClassification"):
        labels = config.get("id2label")
        count = len(labels) if isinstance(labels, Mapping) else config.get("num_labels", 2)
        # newer cross-encoders have a key of their own in the config, older ones only their single label
        loader = "CrossEncoder" if count == 1 or "sentence_transformers" in config else None
    if not task and loader:
        task = "text-ranking" if loader == "CrossEncoder" else "sentence-similarity"
    return ModelKind(
        architecture=architecture,
        model_type=model_type,
        task=task or task_of(architecture, model_type),
        sentence_transformers=str(loader or ""),
    )


def require_same_family(names: Sequence[str], configs: Sequence[Mapping[str, Any]]) -> None:
    """Refuse ingredients of different model types. Different heads are found later, when tensors are compared.

    Raises:
        IncompatibleError: names both architectures and both models.
    """
    for name, config in zip(names[1:], configs[1:], strict=True):
        mine, theirs = configs[0].get("model_type"), config.get("model_type")
        if mine and theirs and mine != theirs:
            raise IncompatibleError(
                f"Cannot mix '{name}' with '{names[0]}': it is a {_architecture(config)} (model type '{theirs}'), not "
                f"a {_architecture(configs[0])} ('{mine}').\n"
                "Weights are averaged tensor by tensor, so every ingredient must be the same network.\n"
                f"Remove '{name}' from `ingredients`, or choose a model fine-tuned from the same base.",
                model=name,
            )


def require_same_rows(names: Sequence[str], configs: Sequence[Mapping[str, Any]]) -> None:
    """Refuse ingredients whose tensors have equal shapes, but whose rows belong to different heads or labels.

    Raises:
        IncompatibleError: names the key with both numbers of attention heads, or a label with both of its positions.
    """
    heads, labels = _heads(configs[0]), _labels(configs[0])
    for name, config in zip(names[1:], configs[1:], strict=True):
        for key, count in _heads(config).items():
            if heads.get(key, count) != count:
                raise IncompatibleError(
                    f"Cannot mix '{name}' with '{names[0]}': `{key}` is {count!r}, but {heads[key]!r} "
                    f"in '{names[0]}'.\n"
                    "The same rows of a weight belong to different heads, so their average is meaningless.\n"
                    f"Remove '{name}' from `ingredients`, or choose a model fine-tuned from the same base.",
                    model=name,
                )
        found = _labels(config)
        moved = next((label for label in labels if found.get(label, labels[label]) != labels[label]), None)
        if moved is not None and found.keys() == labels.keys():
            raise IncompatibleError(
                f"Cannot mix '{name}' with '{names[0]}': `id2label` has {moved!r} as {found[moved]}, but as "
                f"{labels[moved]} in '{names[0]}'.\n"
                "The same row of the head belongs to different labels, so their average is meaningless.\n"
                f"Remove '{name}' from `ingredients`, or save it again with its labels and head in the same order.",
                model=name,
            )


def differences(names: Sequence[str], configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """One sentence for each difference from the first config that changes what the weights compute."""
    notes = []
    for name, config in zip(names[1:], configs[1:], strict=True):
        if _architecture(configs[0]) != _architecture(config):
            notes.append(f"'{name}' is a {_architecture(config)}, '{names[0]}' a {_architecture(configs[0])}.")
        notes += [
            f"`{key}` is {configs[0][key]!r} in '{names[0]}' and {config[key]!r} in '{name}'."
            for key in sorted(MATTERS & configs[0].keys() & config.keys())
            if configs[0][key] != config[key]
        ]
        mine, theirs = _labels(configs[0]), _labels(config)
        if mine and theirs and mine != theirs:
            shown = [
                ", ".join([*list(labels)[:_SHOWN], *["..."] * (len(labels) > _SHOWN)]) for labels in (theirs, mine)
            ]
            notes.append(f"The labels of '{name}' ({shown[0]}) differ from those of '{names[0]}' ({shown[1]}).")
    return notes


def module_differences(names: Sequence[str], modules: Sequence[Sequence[Mapping[str, Any]]]) -> list[str]:
    """One sentence for each model whose sentence-transformers modules differ from the first ingredient's."""
    chains = [[str(module["type"]).rsplit(".", 1)[-1] for module in chain] for chain in modules]
    return [
        f"The modules of '{name}' ({' > '.join(chain) or 'none'}) differ from those of '{names[0]}' "
        f"({' > '.join(chains[0]) or 'none'}), which the mix has."
        for name, chain in zip(names[1:], chains[1:], strict=True)
        if chain != chains[0]
    ]


def _architecture(config: Mapping[str, Any]) -> str:
    names = config.get("architectures")
    return " / ".join(map(str, names)) if isinstance(names, list) and names else "model"


def _labels(config: Mapping[str, Any]) -> dict[str, str]:
    """Label -> its position, as the config's text."""
    labels = config.get("id2label")
    return {str(label): str(position) for position, label in labels.items()} if isinstance(labels, Mapping) else {}


def _heads(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Key -> number of heads, in a config and its nested configs; defaults that are not written out are left out."""
    found = {f"{prefix}{key}": config[key] for key in _HEADS if config.get(key) is not None}
    for key, nested in config.items():
        if isinstance(nested, Mapping) and key.endswith(_NESTED):
            found |= _heads(nested, f"{prefix}{key}.")
    return found


def task_of(architecture: str, model_type: str) -> str:
    """Name of the task that a class of transformers is for.

    The end of the class name decides. Several tasks share the ends of sequence-to-sequence models and none has that of
    a plain `...Model`: there the model type decides, and what it leaves open is `image-text-to-text` or
    `feature-extraction`.
    """
    tasks = [task for task in TASKS.values() if architecture.endswith(task.endings)]
    if len(tasks) == 1:
        return tasks[0].name
    tasks = tasks or [task for task in TASKS.values() if not task.endings]
    fits = (task.name for task in tasks if model_type in task.model_types)
    return next(fits, "image-text-to-text" if tasks[0].endings else "feature-extraction")

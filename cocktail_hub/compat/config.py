"""Configs: what kind of model they describe, whether it is the same network, and which differences matter."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from cocktail_hub.checkpoint.model_files import read_config, read_json, read_modules
from cocktail_hub.errors import IncompatibleError
from cocktail_hub.recipe.task import TASKS

if TYPE_CHECKING:
    from cocktail_hub.checkpoint.files import RepoFiles

EMBEDDER_CONFIG = "config_sentence_transformers.json"
_GENERATION = "generation_config.json"
_IGNORED = re.compile(
    r"architectures|auto_map|id2label|label2id|num_labels|_?name_or_path|transformers_version|version|tokenizer_class"
    r"|torch_dtype|dtype|torchscript|use_bfloat16|use_cache|return_dict|use_return_dict|_?attn_implementation.*"
    r"|.*gradient_checkpointing|finetuning_task|task_specific_params|quantization_config|chunk_size_feed_forward"
    r"|(?!.*token_dropout$).*(dropout|drop_path|pdrop|layerdrop).*|.*initializer_.*|init_std|.*_loss_.*"
    r"|output_(.*attentions|.*logits|hidden_states|past|retrieved|scores|segmentation)|apply_spec_augment"
    r"|mask_(time|feature)_.*|min_length|max_length|max_new_tokens|do_sample|temperature|top_[kp]|typical_p"
    r"|num_beams|num_beam_groups|num_return_sequences|early_stopping|.*_penalty|.*no_repeat_ngram_size|bad_words_ids"
    r"|remove_invalid_values|exponential_decay_length_penalty|begin_suppress_tokens|suppress_tokens|reorder_and_upcast_attn"
)
"""Keys that do not change what a trained model computes, or that are compared elsewhere: labels, classes, dtypes."""
_HEADS = re.compile(r"(encoder_|decoder_|num_|n_)(attention_|key_value_)?heads?")
"""Keys with the number of attention heads. Tensor shapes do not reveal it."""
_REFUSED = re.compile(
    r"(.*_)?(act|activation|act_fn|activation_fn|activation_function)|feed_forward_proj|.*norm_?(eps|epsilon)"
    r"|.*rope_theta|rotary_emb_base|rope_local_base_freq|rotary_pct|rotary_dim|partial_rotary_factor"
    r"|head_dim|qk_layernorm|position_embedding_type|alibi|model_type"
    r"|.*logit_soft_?cap(ping)?|(moe_)?token_dropout|output_(multiplier|gate_type)"
    r"|query_pre_attn_scalar|logits?_scal(e|ing)|scale_embedding|scale_attn_.*"
    r"|(attention|embedding|residual)_multiplier|(use_)?sliding_window|layer_types|.*sliding_window_pattern"
    r"|attention_window|vision_feature_.*|do_stable_layer_norm|feat_extract_norm|classifier_pooling|pos_att_type"
    r"|rope_interleave|mrope_section|apply_residual_connection_post_layernorm|attn_type"
    r"|is_causal|is_decoder|use_bidirectional_attention|use_parallel_residual|parallel_attn|do_layer_norm_before"
    r"|num_experts_per_tok|norm_topk_prob|routed_scaling_factor|scoring_func|topk_method|n_group|topk_group"
)
"""Keys that change what the same weights compute, so that weights trained with one value do not suit another."""
_UNRELATED = r"_.*|.*name_or_path|.*_version|(tokenizer|processor)_class|.*_type|auto_map|added_tokens.*|chat_template"
_SETTINGS: Mapping[str, re.Pattern[str]] = {
    EMBEDDER_CONFIG: re.compile(_UNRELATED),
    _GENERATION: re.compile(r"_.*|transformers_version"),
    "sentence_bert_config.json": re.compile(r"transformer_task|modality_config|module_output_name|model_args"),
    "tokenizer_config.json": re.compile(
        rf"{_UNRELATED}|(?!split).*special_tokens.*|backend|is_local|max_length|padding|truncation|stride"
        r"|return_.*|verbose|never_split|do_basic_tokenize|from_slow|trust_remote_code"
    ),
    "special_tokens_map.json": re.compile(_UNRELATED),
    "preprocessor_config.json": re.compile(rf"{_UNRELATED}|data_format|device|return_.*"),
    "processor_config.json": re.compile(rf"{_UNRELATED}|data_format|device|return_.*"),
    "video_preprocessor_config.json": re.compile(rf"{_UNRELATED}|data_format|device|return_.*"),
}
"""Small file that the mix takes from one model -> its keys that change no result, or that are compared elsewhere."""
_LEFT_OUT: Mapping[str, Mapping[str, Any]] = {
    "sentence_bert_config.json": {"max_seq_length": None, "do_lower_case": False, "config_args": None},
    "tokenizer_config.json": {
        **dict.fromkeys(("add_bos_token", "add_eos_token", "add_prefix_space", "clean_up_tokenization_spaces")),
        **dict.fromkeys(("strip_accents", "model_max_length")),
        **dict.fromkeys(("split_special_tokens", "keep_accents", "remove_space", "fix_mistral_regex"), False),
        **dict.fromkeys(("padding_side", "truncation_side"), "right"),
        **dict.fromkeys(("do_lower_case", "tokenize_chinese_chars"), True),
    },
}
"""File -> its settings that count even where only one model has them -> what leaving it out means, if that is known."""
_NO_LIMIT = 10**20
"""The longest text from which on a tokenizer cuts nothing; files have 10**30 for it."""
_SAME_ACTIVATION = {"swish": "silu", "gelu_fast": "gelu_new", "gelu_pytorch_tanh": "gelu_new", "gelu_python": "gelu"}
"""Other names of activation functions."""
_CROSS_ENCODER = ("sentence_transformers.", "sbert_ce_")
"""Starts of the keys of a CrossEncoder. Its activation function comes after the score: no weight depends on it."""
_POOLING = "pooling_mode_"
"""Start of the flags by which older versions of sentence-transformers say how they pool."""
_SHOWN = 5
"""Labels in a sentence."""
_LONG = 120
"""Characters of a value in a sentence."""


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


def require_same_rows(
    names: Sequence[str], configs: Sequence[Mapping[str, Any]], *, config_chosen: bool = False
) -> None:
    """Refuse ingredients whose tensors have equal shapes, but which compute something else from them.

    `config_chosen`: the recipe says whose config the mix has, so that only other rows of weights are refused.

    Raises:
        IncompatibleError: names the key with both values, or a label with both of its positions.
    """
    labels = _labels(configs[0])
    for name, config in zip(names[1:], configs[1:], strict=True):
        changes = _changes(configs[0], config)
        changed = [change for change in changes if change.refused and (change.heads or not config_chosen)]
        if changed:
            worst = max(changed, key=lambda change: change.heads)
            raise IncompatibleError(
                f"Cannot mix '{name}' with '{names[0]}': `{worst.key}` is {_text(worst.theirs)}, but "
                f"{_text(worst.mine)} in '{names[0]}'.\n"
                + (
                    "The same rows of a weight belong to different heads, so their average is meaningless.\n"
                    f"Remove '{name}' from `ingredients`, or choose a model fine-tuned from the same base."
                    if worst.heads
                    else "The same weights compute something else there, so their average suits neither model.\n"
                    f"Remove '{name}' from `ingredients`, or name the model whose config the mix takes under `config`."
                ),
                model=name,
            )
        found = {label.casefold(): place for label, place in _labels(config).items()}
        moved = next((label for label, place in labels.items() if found.get(label.casefold(), place) != place), "")
        if moved and len(found) == len(labels):
            raise IncompatibleError(
                f"Cannot mix '{name}' with '{names[0]}': `id2label` has {moved!r} as {found[moved.casefold()]}, but as "
                f"{labels[moved]} in '{names[0]}'.\n"
                "The same row of the head belongs to different labels, so their average is meaningless.\n"
                f"Remove '{name}' from `ingredients`, or save it again with its labels and head in the same order.",
                model=name,
            )


def differences(
    names: Sequence[str], configs: Sequence[Mapping[str, Any]], *, config_chosen: bool = False
) -> list[str]:
    """One sentence for each difference from the first config that may matter and is not refused."""
    notes = []
    for name, config in zip(names[1:], configs[1:], strict=True):
        if _architecture(configs[0]) != _architecture(config):
            notes.append(f"'{name}' is a {_architecture(config)}, '{names[0]}' a {_architecture(configs[0])}.")
        notes += [
            f"`{change.key}` is {_text(change.mine)} in '{names[0]}' and {_text(change.theirs)} in '{name}'."
            for change in _changes(configs[0], config)
            if config_chosen or not change.refused
        ]
        ours, theirs = _labels(configs[0]), _labels(config)
        if bool(ours) != bool(theirs) and "Classification" in _architecture(configs[0]) == _architecture(config):
            named, bare = (names[0], name) if ours else (name, names[0])
            notes.append(
                f"'{bare}' does not name its labels, as '{named}' does ({_first(ours or theirs)}): whether the same "
                "rows of the head belong to the same labels cannot be told."
            )
        if ours and theirs and ours != theirs:
            notes.append(
                f"The labels of '{name}' ({_first(theirs)}) differ from those of '{names[0]}' ({_first(ours)})."
            )
    return notes


def module_differences(names: Sequence[str], modules: Sequence[Sequence[Mapping[str, Any]]]) -> list[str]:
    """One sentence for each model whose sentence-transformers modules differ from the first ingredient's.

    Raises:
        IncompatibleError: they differ only in that one normalises its embeddings.
    """
    chains = [_types(chain) for chain in modules]
    for name, chain in zip(names[1:], chains[1:], strict=True):
        rest, first_rest = ([kind for kind in kinds if kind != "Normalize"] for kinds in (chain, chains[0]))
        if chain != chains[0] and rest and rest == first_rest:
            raise IncompatibleError(
                f"Cannot mix '{name}' with '{names[0]}': its modules are {' > '.join(chain)}, but "
                f"{' > '.join(chains[0])} in '{names[0]}'.\n"
                "One normalises its embeddings and the other does not, so they were trained for different scores.\n"
                f"Remove '{name}' from `ingredients`, or give both the same `modules.json`.",
                model=name,
            )
    return [
        f"The modules of '{name}' ({' > '.join(chain) or 'none'}) differ from those of '{names[0]}' "
        f"({' > '.join(chains[0]) or 'none'}), which the mix has."
        for name, chain in zip(names[1:], chains[1:], strict=True)
        if chain != chains[0]
    ]


def module_setting_differences(
    names: Sequence[str], modules: Sequence[Sequence[Mapping[str, Any]]], files: Sequence[RepoFiles]
) -> list[str]:
    """One sentence for each setting that differs from the first model's, of the modules that are no transformers.

    Raises:
        IncompatibleError: it pools in another way, or has another activation function or other words.
    """
    notes = [
        f"'{name}' has no '{path}', without which sentence-transformers cannot load its {kind}."
        for name, chain, opened in zip(names, modules, files, strict=True)
        for kind, module in zip(_types(chain), chain, strict=True)
        if kind in ("Pooling", "Dense")
        and (path := str(PurePosixPath(str(module["path"]), "config.json"))) not in opened.sizes
    ]
    for name, chain, opened in zip(names[1:], modules[1:], files[1:], strict=True):
        if _types(chain) != _types(modules[0]):
            continue
        for kind, first, other in zip(_types(chain), modules[0], chain, strict=True):
            if first.get("kwargs") != other.get("kwargs"):
                notes.append(
                    f"`kwargs` of {kind} in 'modules.json' is {first.get('kwargs')} in '{names[0]}' and "
                    f"{other.get('kwargs')} in '{name}'."
                )
        for kind, first, other in zip(_types(chain), modules[0], chain, strict=True):
            configs = [read_config(repo, str(m["path"])) for repo, m in ((files[0], first), (opened, other))]
            if any("model_type" in config for config in configs):
                continue  # a transformer, which is compared as one
            mine, theirs = map(_module_settings, configs)
            for change in _compare(mine, theirs):
                if change.unset:  # every version of sentence-transformers writes other keys
                    continue
                if change.refused or change.key in ("pooling_mode", "pooling_strategy", "vocab"):
                    raise IncompatibleError(
                        f"`{change.key}` of {kind} is {_text(change.theirs)} in '{name}', but {_text(change.mine)} in "
                        f"'{names[0]}': they cannot be mixed.\n"
                        "The same weights give other embeddings there, so their average suits neither model.\n"
                        f"Remove '{name}' from `ingredients`, or choose a model fine-tuned from the same base.",
                        model=name,
                    )
                notes.append(
                    f"`{change.key}` of {kind} is {_text(change.mine)} in '{names[0]}' and "
                    f"{_text(change.theirs)} in '{name}'."
                )
    return notes


def file_differences(names: Sequence[str], files: Sequence[Sequence[RepoFiles]], folders: Sequence[str]) -> list[str]:
    """One sentence for each small file that says otherwise than the first model's how inputs are prepared or compared.

    Prompts, the longest text, the size and mean of images, the end of generated text: no weight depends on them, but
    every result does.

    Args:
        names: of the models.
        files: where to look for those of each model: an adapter's own, then its base's.
        folders: with the transformer of each, where its tokenizer is, too.
    """
    notes = []
    for name, opened, folder in zip(names[1:], files[1:], folders[1:], strict=True):
        for file, unrelated in _SETTINGS.items():
            usual = _LEFT_OUT.get(file, {})
            mine, theirs = (
                _settings(repos, (str(PurePosixPath(at, file)), file), unrelated)
                for repos, at in ((files[0], folders[0]), (opened, folder))
            )
            changes = [
                change
                for change in _compare(mine, theirs)
                if file in (EMBEDDER_CONFIG, _GENERATION)
                or not change.unset
                or (change.key in usual and usual[change.key] not in (change.mine, change.theirs))
            ]
            if changes and (file == _GENERATION or (mine and theirs)):
                shown = "; ".join(f"{change.key} {_text(change.mine)} / {_text(change.theirs)}" for change in changes)
                notes.append(f"'{file}' says otherwise in '{names[0]}' than in '{name}': {shown}.")
    return notes


class _Unset:
    """What a config leaves out."""

    def __repr__(self) -> str:
        return "not set"


_UNSET = _Unset()


@dataclass(frozen=True, kw_only=True)
class _Change:
    """A key that two configs give different values."""

    key: str
    """With the keys of the configs around it, e.g. `text_config.rope_theta`."""
    mine: Any
    """The first model's, or `_UNSET`."""
    theirs: Any
    """The other's, or `_UNSET`."""

    @property
    def unset(self) -> bool:
        """Whether one of them leaves it out."""
        return _UNSET in (self.mine, self.theirs)

    @property
    def heads(self) -> bool:
        """Whether it is a number of attention heads."""
        return bool(_HEADS.fullmatch(_leaf(self.key)))

    @property
    def refused(self) -> bool:
        """Whether models that differ so cannot be mixed."""
        if self.unset or self.key.startswith(_CROSS_ENCODER) or (self.heads and None in (self.mine, self.theirs)):
            return False
        return self.heads or bool(_REFUSED.fullmatch(_leaf(self.key)))


def _changes(first: Mapping[str, Any], other: Mapping[str, Any]) -> list[_Change]:
    """Keys that may matter and differ. Where only one config has a key, transformers says what the other's value is."""
    mine, theirs = _flat(first), _flat(other)
    if mine.keys() != theirs.keys() and first.get("model_type") and other.get("model_type"):
        resolved = _resolved(first), _resolved(other)
        if all(resolved):
            mine, theirs = map(_flat, resolved)
    return _compare(mine, theirs)


def _compare(first: Mapping[str, Any], other: Mapping[str, Any]) -> list[_Change]:
    keys = sorted(first.keys() | other.keys())
    changes = [_Change(key=key, mine=first.get(key, _UNSET), theirs=other.get(key, _UNSET)) for key in keys]
    return [change for change in changes if change.mine != change.theirs]


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Each key that may matter, with those of the configs around it -> its value."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if _IGNORED.fullmatch(str(key)) or (not prefix and key == "model_type"):
            continue
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = _SAME_ACTIVATION.get(value, value) if isinstance(value, str) else value
    return found


def _resolved(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config with its defaults, as transformers reads it; empty where transformers cannot."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES  # loads torch

    if config["model_type"] not in CONFIG_MAPPING_NAMES:
        return {}
    try:
        resolved = CONFIG_MAPPING[config["model_type"]].from_dict(deepcopy(dict(config))).to_dict()
    except Exception:  # noqa: BLE001 - each class checks its own values and raises what it likes
        return {}
    return dict(_without_old_spelling(resolved))


def _without_old_spelling(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Leave out the `type` that transformers keeps beside the `rope_type` it makes of it."""
    return {
        key: _without_old_spelling(value) if isinstance(value, Mapping) else value
        for key, value in config.items()
        if not (key == "type" and "rope_type" in config)
    }


def _module_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a module that shapes do not reveal, with the flags of older versions as `pooling_mode`."""
    flags = [key for key in config if key.startswith(_POOLING)]
    modes = [key for key in flags if config[key]] or (flags and [f"{_POOLING}mean_tokens"])
    settings = {key: value for key, value in _flat(config).items() if not key.startswith(_POOLING)}
    if modes and "pooling_mode" not in settings:
        short = [mode.removeprefix(_POOLING).removesuffix("_token") for mode in modes]
        short = [mode if "sqrt" in mode else mode.removesuffix("_tokens") for mode in short]
        settings["pooling_mode"] = short[0] if len(short) == 1 else short
    sizes = ("word_embedding_dimension", "embedding_dimension", "in_features", "out_features")
    return {key: value for key, value in settings.items() if key not in sizes}


def _settings(repos: Sequence[RepoFiles], paths: Sequence[str], unrelated: re.Pattern[str]) -> dict[str, Any]:
    """Keys of a small JSON file that may matter -> values that say something; empty where it is missing or damaged.

    It is the first of `paths` in the first of `repos` that has one of them.
    """
    found: Any = next((read_json(repo, path) for repo in repos for path in paths if path in repo.sizes), {})
    values = (
        {key: value for key, value in found.items() if not unrelated.fullmatch(key)} if isinstance(found, dict) else {}
    )
    # a special token is its text, or a mapping that also says what is stripped beside it
    texts = {key: v.get("content", v) if isinstance(v, dict) else v for key, v in values.items()}
    said = {key: value for key, value in texts.items() if value not in (None, "", [], {})}
    return {key: value for key, value in said.items() if not (isinstance(value, int | float) and value >= _NO_LIMIT)}


def _types(chain: Sequence[Mapping[str, Any]]) -> list[str]:
    return [str(module["type"]).rsplit(".", 1)[-1] for module in chain]


def _text(value: Any) -> str:
    """The value for a message, without the middle of a long list."""
    text = repr(value)
    return text if len(text) <= _LONG else f"{text[: _LONG // 2]} ... {text[-_LONG // 4 :]}"


def _leaf(key: str) -> str:
    return key.rpartition(".")[2]


def _architecture(config: Mapping[str, Any]) -> str:
    names = config.get("architectures")
    return " / ".join(map(str, names)) if isinstance(names, list) and names else "model"


def _labels(config: Mapping[str, Any]) -> dict[str, str]:
    """Label -> its position, as the config's text."""
    labels = config.get("id2label")
    return {str(label): str(position) for position, label in labels.items()} if isinstance(labels, Mapping) else {}


def _first(labels: Mapping[str, str]) -> str:
    """The first labels, for a sentence."""
    return ", ".join([*list(labels)[:_SHOWN], *["..."] * (len(labels) > _SHOWN)])


def class_name(auto_class: str, architecture: str) -> str:
    """Name of the class for an architecture that an auto class would load wrongly; else that of the auto class.

    `AutoModel` would add a decoder of random weights to an encoder of T5; speech models may have a CTC head.
    """
    if auto_class == "AutoModelForSpeechSeq2Seq" and architecture.endswith("ForCTC"):
        return "AutoModelForCTC"
    return architecture if auto_class == "AutoModel" and architecture.endswith("EncoderModel") else auto_class


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

"""Do the ingredients' configs describe the same network? What differs, and does it matter?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cocktail_hub.errors import IncompatibleError

MATTERS = frozenset(
    {
        "activation_function",
        "attention_multiplier",
        "embedding_multiplier",
        "hidden_act",
        "hidden_activation",
        "layer_norm_eps",
        "layer_norm_epsilon",
        "rms_norm_eps",
        "rope_theta",
        "rope_scaling",
        "rope_parameters",
        "partial_rotary_factor",
        "sliding_window",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "position_embedding_type",
        "problem_type",
        "residual_multiplier",
        "tie_word_embeddings",
        "attention_bias",
        "scale_embedding",
        "logits_scaling",
        "feed_forward_proj",
        "num_experts_per_tok",
    }
)
"""Keys that change what the same weights compute; the result follows the ingredient that gives the config."""
_HEADS = (
    "num_attention_heads",
    "n_head",
    "n_heads",
    "num_heads",
    "encoder_attention_heads",
    "decoder_attention_heads",
)
"""Keys that say among how many heads the rows of attention's matrices are shared out. The shapes alone do not; together
with them, these decide every other number of heads."""
_SHOWN = 5
"""Labels that a sentence names."""
_PARTS = ("_config", "encoder", "decoder")
"""Ends of the keys under which a config holds the configs of its parts."""


def require_same_family(names: Sequence[str], configs: Sequence[Mapping[str, Any]]) -> None:
    """Refuse ingredients of another model type. Other heads show in the tensors, which are compared later.

    Raises:
        IncompatibleError: says both architectures and who has them.
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


def require_same_heads(names: Sequence[str], configs: Sequence[Mapping[str, Any]]) -> None:
    """Refuse ingredients whose tensors have the same shapes, but belong to another number of attention heads.

    Raises:
        IncompatibleError: says the key and both numbers.
    """
    expected = _heads(configs[0])
    for name, config in zip(names[1:], configs[1:], strict=True):
        for key, count in _heads(config).items():
            if expected.get(key, count) != count:
                raise IncompatibleError(
                    f"Cannot mix '{name}' with '{names[0]}': `{key}` is {count!r}, but {expected[key]!r} in "
                    f"'{names[0]}'.\n"
                    "The same rows of a weight belong to other heads there, so their average means nothing.\n"
                    f"Remove '{name}' from `ingredients`, or choose a model fine-tuned from the same base.",
                    model=name,
                )


def require_same_labels(names: Sequence[str], configs: Sequence[Mapping[str, Any]]) -> None:
    """Refuse classifiers that give the same labels in another order.

    Raises:
        IncompatibleError: says the label and both of its places.
    """
    expected = _labels(configs[0])
    for name, config in zip(names[1:], configs[1:], strict=True):
        found = _labels(config)
        moved = [label for label in expected if found.get(label, expected[label]) != expected[label]]
        if moved and found.keys() == expected.keys():
            label = moved[0]
            raise IncompatibleError(
                f"Cannot mix '{name}' with '{names[0]}': `id2label` has {label!r} as {found[label]}, but as "
                f"{expected[label]} in '{names[0]}'.\n"
                "The same row of the head stands for another label there, so their average means nothing.\n"
                f"Remove '{name}' from `ingredients`, or save it again with its labels and head in the same order.",
                model=name,
            )


def _labels(config: Mapping[str, Any]) -> dict[str, str]:
    """Label -> its place, as it stands in the config."""
    labels = config.get("id2label")
    return {str(label): str(place) for place, label in labels.items()} if isinstance(labels, Mapping) else {}


def _heads(config: Mapping[str, Any], place: str = "") -> dict[str, Any]:
    """Numbers of heads in a config and in those of its parts, by key; without what is left to a default."""
    found = {f"{place}{key}": config[key] for key in _HEADS if config.get(key) is not None}
    for key, part in config.items():
        if isinstance(part, Mapping) and key.endswith(_PARTS):
            found |= _heads(part, f"{place}{key}.")
    return found


def differences(names: Sequence[str], configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """What differs between the configs and changes what the weights compute, a sentence each."""
    notes = []
    for name, config in zip(names[1:], configs[1:], strict=True):
        if _architecture(configs[0]) != _architecture(config):
            notes.append(f"'{name}' is a {_architecture(config)}, '{names[0]}' a {_architecture(configs[0])}.")
        notes += [
            f"`{key}` is {configs[0][key]!r} in '{names[0]}' and {config[key]!r} in '{name}'."
            for key in sorted(MATTERS & configs[0].keys() & config.keys())
            if configs[0][key] != config[key]
        ]
        if (mine := _labels(configs[0])) and (theirs := _labels(config)) and mine != theirs:
            notes.append(f"The labels of '{name}' ({_listed(theirs)}) are not those of '{names[0]}' ({_listed(mine)}).")
    return notes


def _listed(labels: Mapping[str, str]) -> str:
    shown = list(labels)[:_SHOWN]
    return ", ".join(shown) + (", ..." if len(labels) > len(shown) else "")


def module_differences(names: Sequence[str], modules: Sequence[Sequence[Mapping[str, Any]]]) -> list[str]:
    """How the sentence-transformers modules differ from the first ingredient's, a sentence each."""
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

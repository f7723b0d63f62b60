"""The tensors of a base that an adapter changes: PEFT names them as the model's class does, files may differ."""

from __future__ import annotations

import re
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cocktail_hub.checkpoint.conversion.model_names import CanonicalModel
from cocktail_hub.checkpoint.weight_files import unwrapped
from cocktail_hub.errors import CheckpointError, IncompatibleError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cocktail_hub.checkpoint.adapters.config import AdapterConfig
    from cocktail_hub.checkpoint.conversion.model_names import NameMap
    from cocktail_hub.checkpoint.header import TensorSpec
    from cocktail_hub.checkpoint.weight_files import WeightFiles

_CLASSES_OF_TASK = {
    "CAUSAL_LM": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "FEATURE_EXTRACTION": "MODEL_MAPPING_NAMES",
    "QUESTION_ANS": "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES",
    "SEQ_2_SEQ_LM": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "SEQ_CLS": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "TOKEN_CLS": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
}
"""PEFT's task -> transformers' table of the classes for it, by model type."""
_OFTEN_TIED = re.compile(r"embed|wte|shared|head|decoder\.|output|predictions|vocab_projector")
_TWO_LABELS = ("LABEL_0", "LABEL_1")
"""The labels of a config that names none."""
_LABELS = re.compile(r"(^|\.)(classifier|score|out_proj|qa_outputs)\.weight$")


class AdapterTargets:
    """Finds tensors of a base by their names in the class that the adapter was trained on."""

    def __init__(self, base: WeightFiles, config: Mapping[str, Any], adapter: AdapterConfig, *, name: str) -> None:
        self._base, self._config, self._adapter, self._name = base, config, adapter, name
        self._raw_of = unwrapped(base.specs)
        self._added: set[str] = set()
        self._own_class = next(iter(config.get("architectures") or ()), None)
        self._uses_class = False

    def find(self, module: str, leaf: str, *, new: bool) -> str:
        """Name of a module's tensor in the base's files.

        Args:
            module: the module's name in the class that the adapter was trained on.
            leaf: `weight` or `bias`.
            new: whether the adapter holds the whole tensor, so that the base may lack it (a head).

        Raises:
            CheckpointError: there is no such tensor in the base.
            IncompatibleError: names differ and transformers does not know the model.
        """
        name = f"{module}.{leaf}"
        if name in self._raw_of:
            return self._raw_of[name]
        self._uses_class = True
        # by its current name or that of older versions of transformers
        for target in (name, *self._model.name_map({name: name}).renamed):
            if target in self._map.renamed:
                return self._map.renamed[target]
        if new and name in self._model.names and name not in self._map.groups:
            self._added.add(name)
            return name
        raise CheckpointError(
            f"The adapter '{self._name}' changes '{name}', which its base '{self._base.name}' does not have as one "
            "tensor.\nLeft out, the result would not be what was trained.\n"
            "Check that its base and revision are the right ones, or merge it with PEFT (`merge_and_unload`) and mix "
            "that.",
            model=self._name,
        )

    def is_second_name(self, name: str) -> bool:
        """Whether the base saves this tensor only under another name, such as a head that is tied to the embeddings."""
        return name not in self._raw_of and self._model.is_second_name(name)

    def is_first_name(self, name: str) -> bool:
        """Whether the base saves this tensor under no other name."""
        return not self._model.tied(self._target_of.get(name, name)) & self._map.renamed.keys()

    def tied_to(self, name: str) -> set[str]:
        """Return the names of the tensors that the base ties to this one."""
        if not _OFTEN_TIED.search(name) or self._config.get("tie_word_embeddings") is False:
            return set()
        return set(self._model.tied(self._target_of.get(name, name)))

    def refuse_tied(self, name: str) -> None:
        """Raise IncompatibleError if the base ties this tensor to another one, which the adapter would not change."""
        if tied := sorted(self.tied_to(name)):
            raise IncompatibleError(
                f"The adapter '{self._name}' changes '{name}', which its base '{self._base.name}' shares with "
                f"'{tied[0]}' (`tie_word_embeddings`).\n"
                "What was trained may need two tensors where the base has one.\n"
                "Merge it with PEFT (`merge_and_unload`), save with `tie_word_embeddings=False`, and mix that.",
                model=self._name,
                tensor=name,
            )

    @property
    def known(self) -> bool:
        """Whether the model's type is one of transformers' own."""
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

        return self._config.get("model_type") in CONFIG_MAPPING_NAMES

    def is_transposed(self, name: str) -> bool:
        """Whether a matrix of the base is stored as (in, out)."""
        return self._model.is_transposed(self._target_of.get(name, name))

    def unused(self) -> list[str]:
        """Tensors of the base that the adapter's class does not have: heads of another task.

        Raises:
            IncompatibleError: the class has a tensor that neither the base nor the adapter holds.
        """
        if not self._uses_class or self._class == self._own_class:
            return []
        held = self._map.renamed.keys() | self._map.groups.keys() | self._added
        lacking = sorted(
            name
            for name in self._model.names - held
            if not self._model.spares(name) and not self._model.tied(name) & held
        )
        if lacking:
            raise IncompatibleError(
                f"The adapter '{self._name}' was trained on {self._class}, whose '{lacking[0]}' is neither in its base "
                f"'{self._base.name}' nor in the adapter.\n"
                "PEFT initialised it at random, so what was trained cannot be reproduced.\n"
                "Merge it with PEFT (`merge_and_unload`) where it was trained, and mix that.",
                model=self._name,
                tensor=lacking[0],
            )
        return list(self._map.unknown)

    def config_for(self, specs: Mapping[str, TensorSpec]) -> Mapping[str, Any]:
        """config.json of the base, with the adapter's vocabulary, class and number of labels where they differ."""
        config = dict(self._config)
        pairs = ((old, specs.get(name, old)) for name, old in self._base.specs.items() if old.shape)
        grown = {old.shape[0]: new.shape[0] for old, new in pairs if new.shape[0] != old.shape[0]}
        text = config.get("text_config", {})
        if config.get("vocab_size") in grown:
            config["vocab_size"] = grown[config["vocab_size"]]
        elif text.get("vocab_size") in grown:
            config["text_config"] = {**text, "vocab_size": grown[text["vocab_size"]]}
        if not self._uses_class or self._class == self._own_class:
            return config
        config["architectures"] = [self._class]
        heads = [specs[name].shape[0] for name in sorted(self._added) if _LABELS.search(name)]
        if heads and len(config.get("id2label") or _TWO_LABELS) != heads[-1]:
            config["id2label"] = {str(i): f"LABEL_{i}" for i in range(heads[-1])}
            config["label2id"] = {label: int(i) for i, label in config["id2label"].items()}
            config.pop("num_labels", None)
        return config

    @cached_property
    def _class(self) -> str | None:
        """The class that the adapter was trained on, if it says so; else the base's own."""
        model_type = self._config.get("model_type")
        if trained_on := self._adapter.base_class:
            import transformers

            config_class = getattr(getattr(transformers, trained_on, None), "config_class", None)
            if config_class is not None and config_class.model_type != model_type:
                raise CheckpointError(
                    f"The adapter '{self._name}' was trained on a {trained_on}, but its base '{self._base.name}' is a "
                    f"{self._own_class or model_type}.\n"
                    "It does not fit another kind of model.\nGive the base that it was trained on.",
                    model=self._name,
                )
            return trained_on
        table = _CLASSES_OF_TASK.get(self._adapter.task_type or "")
        if table is None:
            return self._own_class
        from transformers.models.auto import modeling_auto

        found = getattr(modeling_auto, table).get(model_type)
        return (found[0] if isinstance(found, (tuple, list)) else found) or self._own_class

    @cached_property
    def _model(self) -> CanonicalModel:
        config = {**self._config, "architectures": [self._class]} if self._class else self._config
        return CanonicalModel(config, name=self._base.name)

    @cached_property
    def _map(self) -> NameMap:
        return self._model.name_map(self._raw_of)

    @cached_property
    def _target_of(self) -> dict[str, str]:
        """Name in the file -> name in the model."""
        return {raw: target for target, raw in self._map.renamed.items()}

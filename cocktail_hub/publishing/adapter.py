"""A model as a LoRA adapter of its base: low-rank factors of the differences, in the files that PEFT and vLLM read."""

from __future__ import annotations

import json
import math
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cocktail_hub.checkpoint.conversion.model_names import CanonicalModel
from cocktail_hub.errors import IncompatibleError, PublishError, RecipeError
from cocktail_hub.hub.commit import README
from cocktail_hub.merge.run import fetch
from cocktail_hub.merge.small_files import TOKENIZER_FILES
from cocktail_hub.methods.dtypes import torch_dtype
from cocktail_hub.methods.low_rank import LowRank, low_rank
from cocktail_hub.publishing.card.header import END, START, merge_readme
from cocktail_hub.publishing.card.markdown import code, dump_metadata, fenced, record, table

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from huggingface_hub import CommitInfo

    from cocktail_hub.checkpoint.reader import TensorReader
    from cocktail_hub.compat import CompatibilityReport
    from cocktail_hub.hub import Hub, Publication
    from cocktail_hub.recipe import ModelReference


def require_rank(rank: int | None, error: float) -> None:
    """Raise RecipeError unless a rank and an error can be asked for."""
    if (rank is not None and rank < 1) or not 0 <= error < 1:
        raise RecipeError(
            f"An adapter cannot have rank {rank} and a relative error of {error:g}.\n"
            "A rank is 1 or more. An error is 0, for the nearest of the rank, or below 1: at 1 nothing would be left.\n"
            "Leave both out for the defaults."
        )


def require_empty(folder: Path) -> None:
    """Raise RecipeError unless a folder is empty, or not there."""
    if folder.is_dir() and any(folder.iterdir()):
        raise RecipeError(
            f"'{folder}' is not empty.\nAn adapter in it would be mixed up with what is there.\n"
            "Name a new folder, or empty it."
        )


RANK = 32
"""Largest rank of a matrix, unless another is asked for."""
PREFIX = "base_model.model."
"""What PEFT puts before the names of a model's modules."""
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
TASKS_OF_CLASSES = {
    "ForCausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
    "ForConditionalGeneration": "SEQ_2_SEQ_LM",
    "Model": "FEATURE_EXTRACTION",
}
"""End of a class's name -> PEFT's task."""
HEADS = {"SEQ_CLS": {"classifier", "score"}, "TOKEN_CLS": {"classifier", "score"}, "QUESTION_ANS": {"qa_outputs"}}
"""PEFT's task -> modules that PEFT always saves whole."""
AUTO_CLASSES = {
    "CAUSAL_LM": "AutoPeftModelForCausalLM",
    "SEQ_CLS": "AutoPeftModelForSequenceClassification",
    "TOKEN_CLS": "AutoPeftModelForTokenClassification",
    "QUESTION_ANS": "AutoPeftModelForQuestionAnswering",
    "SEQ_2_SEQ_LM": "AutoPeftModelForSeq2SeqLM",
    "FEATURE_EXTRACTION": "AutoPeftModelForFeatureExtraction",
}
"""PEFT's task -> its class that loads base and adapter."""
SHOWN = 10
"""Tensors on a card: those whose error is largest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extracted:
    """What became of one tensor that differs from the base's."""

    how: Literal["low rank", "whole", "left"]
    """As factors, as it is, or not at all: it stays as in the base."""
    rank: int = 0
    """Of the factors."""
    length: float
    """Length of the difference to the base's."""
    error: float = 0.0
    """Length of what is missing, as a fraction of `length`."""


@dataclass(frozen=True, kw_only=True)
class LoraAdapter:
    """An adapter, ready to be saved."""

    base: ModelReference
    """The model that it adapts."""
    config: Mapping[str, Any]
    """adapter_config.json."""
    tensors: Mapping[str, torch.Tensor]
    """Name in PEFT's file -> tensor."""
    parts: Mapping[str, Extracted]
    """Tensor of the model -> what became of it. Unchanged tensors are not in it."""
    source: str
    """What it was made from, in words."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Files of a tokenizer that has grown."""

    @property
    def error(self) -> float:
        """Length of everything that is missing, as a fraction of the length of the whole difference to the base."""
        whole = math.fsum(part.length**2 for part in self.parts.values())
        return math.sqrt(math.fsum((part.error * part.length) ** 2 for part in self.parts.values()) / (whole or 1.0))

    @property
    def sentence(self) -> str:
        """What it has, and what it lacks."""
        kinds = [part.how for part in self.parts.values()]
        rank = self.config["r"]
        return (
            f"{kinds.count('low rank')} matrices at rank {rank} or less, {kinds.count('whole')} tensors whole, "
            f"{kinds.count('left')} left as in the base. Relative error overall: {self.error:.3g}."
        )

    def to_dict(self) -> dict[str, Any]:
        """The errors, ready for JSON."""
        parts = {
            name: {"how": part.how, "rank": part.rank, "length": part.length, "relative_error": part.error}
            for name, part in self.parts.items()
        }
        return {"relative_error": self.error, "rank": self.config["r"], "base": self.base.to_dict(), "tensors": parts}

    def card(self, repo_id: str | None = None) -> str:
        """Return the README, with the error of the whole and of the worst tensors."""
        local = self.base.local
        metadata = {
            **({} if local else {"base_model": self.base.model, "base_model_relation": "adapter"}),
            "library_name": "peft",
            "tags": ["lora", "cocktail-hub"],
        }
        worst = sorted(self.parts.items(), key=lambda item: -item[1].error * item[1].length)[:SHOWN]
        rows = [[code(n), p.how, str(p.rank or ""), f"{p.length:.3g}", f"{p.error:.3g}"] for n, p in worst]
        auto = AUTO_CLASSES.get(self.config["task_type"], "AutoPeftModel")
        load = f'from peft import {auto}\n\nmodel = {auto}.from_pretrained("{repo_id or "FOLDER"}")'
        text = [
            f"# {repo_id.rpartition('/')[2] if repo_id else 'LoRA adapter'}",
            START,
            f"A LoRA adapter, made by cocktail_hub from {self.source}.",
            self.sentence,
            table(["Tensor", "Kept as", "Rank", "Length of the difference", "Relative error"], rows),
            fenced(load, "python"),
            f"{record(metadata)} -->",
            END,
        ]
        return f"---\n{dump_metadata(metadata)}\n---\n\n" + "\n\n".join(text) + "\n"

    def contents(self, repo_id: str | None = None) -> dict[str, bytes]:
        """Return the files by their names."""
        from safetensors.torch import save

        weights = save(dict(self.tensors), metadata={"format": "pt"})
        config = json.dumps(self.config, indent=2).encode() + b"\n"
        return {**self.files, WEIGHTS: weights, CONFIG: config, README: self.card(repo_id).encode()}

    def save(self, folder: str | Path) -> Path:
        """Write the files into a new or empty folder. Raises RecipeError if it has files, and OSError."""
        folder = Path(folder)
        require_empty(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.contents().items():
            (folder / name).write_bytes(content)
        return folder


def publish_adapter(adapter: LoraAdapter, publication: Publication, hub: Hub) -> CommitInfo:
    """Publish an adapter in one commit.

    Raises:
        PublishError: its base is a folder of this machine, or the Hub did not accept it.
    """
    if adapter.base.local:
        raise PublishError(
            f"The adapter's base is the folder '{adapter.base.model}'.\n"
            "Nobody else could load the adapter: it needs its base.\n"
            "Publish the base, and name its repo as the base."
        )
    files = adapter.contents(publication.repo_id)
    card = files.pop(README).decode()
    return hub.commit(replace(publication, files=files, readme=partial(merge_readme, card=card)))


def extract_adapter(
    model: CompatibilityReport,
    base: CompatibilityReport,
    *,
    rank: int,
    error: float = 0.0,
    matrices_only: bool = False,
    source: str = "",
) -> LoraAdapter:
    """Turn the differences between a model and its base into an adapter.

    Linear layers and untied embeddings become factors; norms, biases, heads, tied and grown embeddings are saved whole.

    Args:
        model: a report whose first model it is.
        base: a report whose first model is the base.
        rank: the largest rank, 1 or more.
        error: the largest relative error of a matrix that is good enough; smaller ranks are taken where they reach it.
        matrices_only: leave all but linear layers as in the base: vLLM takes nothing else.
        source: what the model is, for the card.

    Raises:
        IncompatibleError: the models are of different types, transformers does not know them, or they are the same.
        CheckpointError: a model cannot be read.
    """
    names, types = [each.models[0].name for each in (model, base)], [each.models[0].config for each in (model, base)]
    if types[0].get("model_type") != types[1].get("model_type"):
        raise IncompatibleError(
            f"'{names[0]}' is a {types[0].get('model_type')}, but its base '{names[1]}' is a "
            f"{types[1].get('model_type')}.\nAn adapter is the difference between two models of one kind.\n"
            "Name the model that it was fine-tuned from.",
            model=names[0],
        )
    mappings = [each.components[0].mappings[0] for each in (model, base)]
    canonical = CanonicalModel(mappings[0].config, name=names[0])
    found = [canonical.name_map({name: name for name in mapping.specs}) for mapping in mappings]
    with ExitStack() as stack:
        readers = []
        for report, mapping in zip((model, base), mappings, strict=True):
            readers.append(fetch(report.models[:1])[0].open(mapping))
            stack.callback(readers[-1].close)
        making = _Making(canonical=canonical, rank=rank, error=error, matrices_only=matrices_only)
        for name, file_name in found[0].renamed.items():
            tied = [other for other in canonical.tied(name) if other in found[1].renamed]
            theirs = found[1].renamed.get(name, found[1].renamed[tied[0]] if tied else None)
            making.add(
                name, read_tensor(readers[0], file_name), None if theirs is None else read_tensor(readers[1], theirs)
            )
        for name in found[0].renamed.keys() - making.parts.keys():
            if making.saved_with(name) in making.whole:  # an unchanged tensor of a module that is saved whole
                making.tensors.setdefault(PREFIX + name, _saved(read_tensor(readers[0], found[0].renamed[name])))
        for name in (file for group in dict.fromkeys(found[0].groups.values()) for file in group.files):
            making.require_same(
                name, *(read_tensor(reader, name) if name in reader.specs else None for reader in readers)
            )
    body = model.models[0].body
    kept = [path for path in body.files.sizes if any(fnmatchcase(path, each) for each in TOKENIZER_FILES)]
    if not making.parts:
        raise IncompatibleError(
            f"'{names[0]}' has the weights of its base '{names[1]}'.\nThere is no difference to make an adapter of.\n"
            "Name the fine-tuned model, and the base that it came from.",
            model=names[0],
        )
    return LoraAdapter(
        base=base.models[0].body.reference,
        config=making.config(base.models[0].body.reference),
        tensors=making.tensors,
        parts=making.parts,
        source=source or f"'{names[0]}'",
        files={path: body.files.read(path) for path in kept if making.grown},
    )


@dataclass(kw_only=True)
class _Making:
    """An adapter that takes in one tensor after the other."""

    canonical: CanonicalModel
    rank: int
    error: float
    matrices_only: bool
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    parts: dict[str, Extracted] = field(default_factory=dict)
    ranks: dict[str, int] = field(default_factory=dict)
    """Module with factors -> their rank."""
    whole: set[str] = field(default_factory=set)
    """Modules that are saved whole."""
    biases: dict[str, torch.Tensor] = field(default_factory=dict)
    """Linear module -> its bias."""
    grown: bool = False
    """Whether a tensor has another shape than the base's."""
    turned: bool = False
    """Whether matrices are stored as (in, out)."""

    @property
    def task(self) -> str | None:
        """PEFT's task for the model's class."""
        return next((task for end, task in TASKS_OF_CLASSES.items() if self.canonical.kind.endswith(end)), None)

    def saved_with(self, name: str) -> str:
        """The module that PEFT saves a tensor with: a head, or its own."""
        path = name.split(".")
        heads = [place for place, part in enumerate(path) if part in HEADS.get(self.task or "", ())]
        return ".".join(path[: heads[0] + 1]) if heads else name.rpartition(".")[0]

    def add(self, name: str, mine: torch.Tensor, theirs: torch.Tensor | None) -> None:
        """Take in a tensor of the model; `theirs` is the base's, `None` if it has none."""
        module, _, leaf = name.rpartition(".")
        kind, is_head = self.canonical.module_kind(name), self.saved_with(name) != module or module in self.heads
        same_shape = theirs is not None and theirs.shape == mine.shape
        if not mine.is_floating_point() or (theirs is not None and same_shape and mine.equal(theirs) and not is_head):
            return
        self.grown = self.grown or (theirs is not None and not same_shape)
        change = (mine.double() - theirs.double()) if theirs is not None and same_shape else mine.double()
        part = Extracted(how="whole", length=float(change.norm()))
        is_free = same_shape and not is_head and not self.canonical.tied(name)
        if kind in ("Linear", "Conv1D") and leaf == "weight" and is_free:
            self.turned = self.turned or kind == "Conv1D"
            matrix = change.T if kind == "Conv1D" else change
            factors = self.factor(module, matrix, "lora_A.weight", "lora_B.weight")
            part = replace(part, how="low rank", rank=factors.rank, error=factors.error)
        elif self.matrices_only or not kind:
            part = replace(part, how="left", error=1.0)
        elif kind == "Embedding" and is_free:
            factors = self.factor(module, change.T, "lora_embedding_A", "lora_embedding_B")
            part = replace(part, how="low rank", rank=factors.rank, error=factors.error)
        elif kind in ("Linear", "Conv1D") and leaf == "bias" and is_free:
            self.biases[module] = _saved(mine)
        else:
            for each in (name, *self.canonical.tied(name)):  # PEFT looks for all names of a tied tensor
                self.whole.add(self.saved_with(each))
                self.tensors[PREFIX + each] = _saved(mine).clone()
        if part.length:
            self.parts[name] = part

    def factor(self, module: str, matrix: torch.Tensor, right: str, left: str) -> LowRank:
        """Add the factors of a difference."""
        import torch

        found = low_rank(np.ascontiguousarray(matrix.numpy()), self.rank, self.error)
        self.ranks[module] = found.rank
        self.tensors[f"{PREFIX}{module}.{right}"] = torch.from_numpy(np.ascontiguousarray(found.right))
        self.tensors[f"{PREFIX}{module}.{left}"] = torch.from_numpy(np.ascontiguousarray(found.left))
        return found

    def require_same(self, name: str, mine: torch.Tensor | None, theirs: torch.Tensor | None) -> None:
        """Raise IncompatibleError if a part of a tensor that holds several matrices differs from the base's."""
        if mine is None or theirs is None or not mine.equal(theirs):
            raise IncompatibleError(
                f"'{name}' differs from the base's, but is one of several matrices in one tensor (experts).\n"
                "An adapter has factors for the matrix of a linear layer only.\nPublish merged weights instead.",
                tensor=name,
            )

    @property
    def heads(self) -> set[str]:
        """Modules that PEFT saves whole for the task."""
        return HEADS.get(self.task or "", set())

    def config(self, base: ModelReference) -> dict[str, Any]:
        """Finish the tensors, and return adapter_config.json."""
        for module, bias in self.biases.items():
            self.tensors[f"{PREFIX}{module}{'.base_layer' if module in self.ranks else ''}.bias"] = bias
        tied = [self.canonical.tied(f"{name}.weight") for name in self.whole]
        pairs = bool(max(map(len, tied), default=0) == 1)  # with more names, PEFT's option wraps the wrong modules
        return adapter_config(
            base,
            self.task,
            self.ranks,
            base_class=self.canonical.kind,
            modules_to_save=sorted(self.whole) or None,
            bias="all" if self.biases else "none",
            fan_in_fan_out=self.turned,
            ensure_weight_tying=pairs,
        )


def adapter_config(
    base: ModelReference, task: str | None, ranks: Mapping[str, int], *, base_class: str, **more: Any
) -> dict[str, Any]:
    """Return adapter_config.json of an adapter whose products are added as they are: alpha equals the rank."""
    largest = max(ranks.values(), default=1)
    smaller = {module: rank for module, rank in sorted(ranks.items()) if rank != largest}
    local = Path(base.model).expanduser().absolute() if base.local else None
    return {
        "peft_type": "LORA",
        "task_type": task,
        "auto_mapping": None if task else {"base_model_class": base_class, "parent_library": "transformers"},
        "base_model_name_or_path": str(local or base.model),
        "revision": None if local else base.revision,
        "r": largest,
        "lora_alpha": largest,
        "target_modules": sorted(ranks),
        "rank_pattern": smaller,
        "alpha_pattern": smaller,
        "lora_dropout": 0.0,
        "use_rslora": False,
        "use_dora": False,
        "inference_mode": True,
        **more,
    }


def read_tensor(reader: TensorReader, name: str) -> torch.Tensor:
    """Return a whole tensor."""
    import torch

    spec = reader.specs[name]
    values = torch.empty(spec.numel, dtype=torch_dtype(spec.dtype))
    if spec.numel:
        reader.read(name, 0, spec.numel, values)
    return values.reshape(spec.shape)


def _saved(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor as it is saved: those of adapters are computed in float64, which nobody needs."""
    return (tensor.float() if str(tensor.dtype) == "torch.float64" else tensor).contiguous()

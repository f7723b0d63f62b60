"""What kind of model a config describes: architecture, task, which library loads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TASK_OF_SUFFIX = (
    ("ForCausalLM", "text-generation"),
    ("LMHeadModel", "text-generation"),
    ("ForSpeechSeq2Seq", "automatic-speech-recognition"),
    ("ForCTC", "automatic-speech-recognition"),
    ("ForImageClassification", "image-classification"),
    ("ForAudioClassification", "audio-classification"),
    ("ForMaskedLM", "fill-mask"),
    ("ForSequenceClassification", "text-classification"),
    ("ForTokenClassification", "token-classification"),
    ("ForQuestionAnswering", "question-answering"),
)
"""End of an architecture's name -> Hub task, where the name alone says it."""
TEXT_TO_TEXT = frozenset({"t5", "mt5", "umt5", "bart", "mbart", "pegasus", "marian", "longt5", "m2m_100", "blenderbot"})
"""Model types whose `ForConditionalGeneration` is text in, text out."""
VISION = frozenset({"vit", "deit", "beit", "swin", "convnext", "dinov2", "siglip_vision_model"})


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What a mix is, as far as its ingredients' files say."""

    architecture: str
    """Class name, e.g. `BertModel`; empty for models without a transformers config."""
    model_type: str
    """transformers' name of the family, e.g. `bert`; empty likewise."""
    task: str
    """Hub task, e.g. `sentence-similarity`."""
    sentence_transformers: str
    """Class of sentence-transformers that loads it: `SentenceTransformer`, `CrossEncoder`, ...; empty for none."""

    @property
    def library(self) -> str:
        """Library that loads the merged model."""
        return "sentence-transformers" if self.sentence_transformers else "transformers"


def kind_of(
    config: Mapping[str, Any], modules: Sequence[Mapping[str, Any]], embedder: Mapping[str, Any], task: str | None
) -> Kind:
    """Tell what a model is.

    Args:
        config: its config.json.
        modules: its modules.json; empty where there is none.
        embedder: its config_sentence_transformers.json; empty where there is none.
        task: what the recipe says, which wins.
    """
    names = config.get("architectures") or [""]
    architecture, model_type = str(names[0] if names else ""), str(config.get("model_type", ""))
    loader = str(embedder.get("model_type") or ("SentenceTransformer" if modules else ""))
    if not loader and _is_reranker(config, architecture):
        loader = "CrossEncoder"
    guessed = _task_of(architecture, model_type, loader)
    return Kind(architecture=architecture, model_type=model_type, task=task or guessed, sentence_transformers=loader)


def _is_reranker(config: Mapping[str, Any], architecture: str) -> bool:
    """One label, or a note of sentence-transformers in the config: a cross-encoder."""
    labels = config.get("id2label")
    count = len(labels) if isinstance(labels, Mapping) else config.get("num_labels", 2)
    return architecture.endswith("ForSequenceClassification") and (count == 1 or "sentence_transformers" in config)


def _task_of(architecture: str, model_type: str, loader: str) -> str:
    if loader:
        return "text-ranking" if loader == "CrossEncoder" else "sentence-similarity"
    if architecture.endswith("ForConditionalGeneration"):
        if model_type == "whisper":
            return "automatic-speech-recognition"
        return "text2text-generation" if model_type in TEXT_TO_TEXT else "image-text-to-text"
    if model_type in ("clip", "siglip"):
        return "zero-shot-image-classification"
    found = next((task for suffix, task in TASK_OF_SUFFIX if architecture.endswith(suffix)), None)
    return found or ("image-feature-extraction" if model_type in VISION else "feature-extraction")

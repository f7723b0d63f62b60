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
# fmt: off
TEXT_TO_TEXT = frozenset({
    "t5", "mt5", "umt5", "longt5", "t5gemma", "t5gemma2", "switch_transformers", "bart", "mbart", "plbart", "led",
    "mvp", "pegasus", "pegasus_x", "bigbird_pegasus", "marian", "m2m_100", "nllb-moe", "blenderbot",
    "blenderbot-small", "fsmt", "prophetnet", "encoder-decoder",
})
"""Model types that read text and write text. transformers has the same in a table, which takes torch to read."""
SPEECH_TO_TEXT = frozenset({
    "whisper", "speech_to_text", "speech-encoder-decoder", "moonshine", "moonshine_streaming", "cohere_asr",
    "granite_speech", "granite_speech_plus", "kyutai_speech_to_text", "qwen3_asr", "voxtral", "voxtral_realtime",
    "vibevoice_asr", "canary",
})
"""Model types that listen and write text."""
VISION = frozenset({
    "vit", "deit", "beit", "swin", "swinv2", "convnext", "convnextv2", "dinov2", "dinov2_with_registers",
    "dinov3_vit", "dinov3_convnext", "hiera", "siglip_vision_model", "siglip2_vision_model", "clip_vision_model",
    "resnet", "mobilenet_v2", "efficientnet", "levit", "pvt",
})
"""Model types that look at images."""
# fmt: on


@dataclass(frozen=True, kw_only=True)
class ModelKind:
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


def model_kind(
    config: Mapping[str, Any], modules: Sequence[Mapping[str, Any]], embedder: Mapping[str, Any], task: str | None
) -> ModelKind:
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
    return ModelKind(
        architecture=architecture, model_type=model_type, task=task or guessed, sentence_transformers=loader
    )


def _is_reranker(config: Mapping[str, Any], architecture: str) -> bool:
    """One label, or a note of sentence-transformers in the config: a cross-encoder."""
    labels = config.get("id2label")
    count = len(labels) if isinstance(labels, Mapping) else config.get("num_labels", 2)
    return architecture.endswith("ForSequenceClassification") and (count == 1 or "sentence_transformers" in config)


def _task_of(architecture: str, model_type: str, loader: str) -> str:
    if loader:
        return "text-ranking" if loader == "CrossEncoder" else "sentence-similarity"
    writes = architecture.endswith(("ForConditionalGeneration", "MTModel", "EncoderDecoderModel"))
    if writes and model_type in SPEECH_TO_TEXT:
        return "automatic-speech-recognition"
    if writes:
        return "text2text-generation" if model_type in TEXT_TO_TEXT else "image-text-to-text"
    if model_type in ("clip", "siglip", "siglip2"):
        return "zero-shot-image-classification"
    found = next((task for suffix, task in TASK_OF_SUFFIX if architecture.endswith(suffix)), None)
    return found or ("image-feature-extraction" if model_type in VISION else "feature-extraction")

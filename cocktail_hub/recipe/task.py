"""Hub tasks: the classes of transformers for each, how it is scored, and which architectures do it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

ScoredAs = Literal["decoder", "encoder", "reranker", "encoder-decoder"]
"""How a model is scored on examples, by LM-Cocktail's names."""
_SEQ2SEQ = ("ForConditionalGeneration", "MTModel", "EncoderDecoderModel")


@dataclass(frozen=True, slots=True)
class Task:
    """One row of the table of tasks."""

    name: str
    """Name on the Hub."""
    auto_class: str = "AutoModel"
    """Class of transformers that loads a model for it."""
    processor: str = "AutoTokenizer"
    """Class of transformers that prepares the inputs."""
    endings: tuple[str, ...] = ()
    """Ends of the class names of its models."""
    model_types: frozenset[str] = frozenset()
    """`model_type`s of its models, where the class name alone does not decide."""
    scored_as: ScoredAs | None = None
    """How its models are scored; `None`: they cannot be."""


# fmt: off
# transformers has the model types in a module whose import loads torch
_TEXT = frozenset({
    "t5", "mt5", "umt5", "longt5", "t5gemma", "t5gemma2", "switch_transformers", "bart", "mbart", "plbart", "led",
    "mvp", "pegasus", "pegasus_x", "bigbird_pegasus", "marian", "m2m_100", "nllb-moe", "blenderbot",
    "blenderbot-small", "fsmt", "prophetnet", "encoder-decoder",
})
_SPEECH = frozenset({
    "whisper", "speech_to_text", "speech-encoder-decoder", "moonshine", "moonshine_streaming", "cohere_asr",
    "granite_speech", "granite_speech_plus", "kyutai_speech_to_text", "qwen3_asr", "voxtral", "voxtral_realtime",
    "vibevoice_asr", "canary",
})
_VISION = frozenset({
    "vit", "deit", "beit", "swin", "swinv2", "convnext", "convnextv2", "dinov2", "dinov2_with_registers",
    "dinov3_vit", "dinov3_convnext", "hiera", "siglip_vision_model", "siglip2_vision_model", "clip_vision_model",
    "resnet", "mobilenet_v2", "efficientnet", "levit", "pvt",
})
_CLASSIFIER = "AutoModelForSequenceClassification"
_TASKS = (
    Task("text-generation", "AutoModelForCausalLM", endings=("ForCausalLM", "LMHeadModel"), scored_as="decoder"),
    Task("text2text-generation", "AutoModelForSeq2SeqLM", endings=_SEQ2SEQ, model_types=_TEXT,
         scored_as="encoder-decoder"),
    Task("sentence-similarity", scored_as="encoder"),
    Task("feature-extraction", scored_as="encoder"),
    Task("text-ranking", _CLASSIFIER, scored_as="reranker"),
    Task("text-classification", _CLASSIFIER, endings=("ForSequenceClassification",)),
    Task("token-classification", "AutoModelForTokenClassification", endings=("ForTokenClassification",)),
    Task("question-answering", "AutoModelForQuestionAnswering", endings=("ForQuestionAnswering",)),
    Task("fill-mask", "AutoModelForMaskedLM", endings=("ForMaskedLM",)),
    Task("image-classification", "AutoModelForImageClassification", "AutoImageProcessor", ("ForImageClassification",)),
    Task("image-feature-extraction", "AutoModel", "AutoImageProcessor", model_types=_VISION),
    Task("image-text-to-text", "AutoModelForImageTextToText", "AutoProcessor", _SEQ2SEQ),
    Task("automatic-speech-recognition", "AutoModelForSpeechSeq2Seq", "AutoProcessor",
         ("ForSpeechSeq2Seq", "ForCTC", *_SEQ2SEQ), _SPEECH),
    Task("audio-classification", "AutoModelForAudioClassification", "AutoFeatureExtractor",
         ("ForAudioClassification",)),
    Task("zero-shot-image-classification", "AutoModel", "AutoProcessor",
         model_types=frozenset({"clip", "siglip", "siglip2"})),
)
# fmt: on
TASKS: Final[Mapping[str, Task]] = {task.name: task for task in _TASKS}
"""Every task that a recipe may name; where it names none, the ingredients' architecture decides."""

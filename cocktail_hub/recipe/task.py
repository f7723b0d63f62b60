"""Hub tasks: the classes of transformers for each, how it is scored, and which architectures do it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

ScoredAs = Literal["decoder", "encoder", "reranker", "encoder-decoder"]
"""How a model is scored on examples, by LM-Cocktail's names."""
SPEECH_CLASS: Final = "AutoModelForSpeechSeq2Seq"
_SEQ2SEQ = ("ForConditionalGeneration", "MTModel", "EncoderDecoderModel")


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One row of the table of tasks."""

    name: str
    """Name on the Hub."""
    auto_class: str = "AutoModel"
    """Class of transformers that loads a model for it."""
    processor: str = "AutoTokenizer"
    """Class of transformers that prepares the inputs."""
    scored_as: ScoredAs | None = None
    """How its models are scored; `None`: they cannot be."""
    endings: tuple[str, ...] = ()
    """Ends of the class names of its models."""
    model_types: frozenset[str] = frozenset()
    """`model_type`s of its models, where the class name alone does not decide."""


# fmt: off
_TASKS = (
    Task(
        name="text-generation", auto_class="AutoModelForCausalLM", scored_as="decoder",
        endings=("ForCausalLM", "LMHeadModel"),
    ),
    Task(
        name="text2text-generation", auto_class="AutoModelForSeq2SeqLM", scored_as="encoder-decoder", endings=_SEQ2SEQ,
        # transformers has these in a table whose import loads torch
        model_types=frozenset({
            "t5", "mt5", "umt5", "longt5", "t5gemma", "t5gemma2", "switch_transformers", "bart", "mbart", "plbart",
            "led", "mvp", "pegasus", "pegasus_x", "bigbird_pegasus", "marian", "m2m_100", "nllb-moe", "blenderbot",
            "blenderbot-small", "fsmt", "prophetnet", "encoder-decoder",
        }),
    ),
    Task(name="sentence-similarity", scored_as="encoder"),
    Task(name="feature-extraction", scored_as="encoder"),
    Task(name="text-ranking", auto_class="AutoModelForSequenceClassification", scored_as="reranker"),
    Task(
        name="text-classification", auto_class="AutoModelForSequenceClassification",
        endings=("ForSequenceClassification",),
    ),
    Task(
        name="token-classification", auto_class="AutoModelForTokenClassification",
        endings=("ForTokenClassification",),
    ),
    Task(name="question-answering", auto_class="AutoModelForQuestionAnswering", endings=("ForQuestionAnswering",)),
    Task(name="fill-mask", auto_class="AutoModelForMaskedLM", endings=("ForMaskedLM",)),
    Task(
        name="image-classification", auto_class="AutoModelForImageClassification", processor="AutoImageProcessor",
        endings=("ForImageClassification",),
    ),
    Task(
        name="image-feature-extraction", processor="AutoImageProcessor",
        model_types=frozenset({
            "vit", "deit", "beit", "swin", "swinv2", "convnext", "convnextv2", "dinov2", "dinov2_with_registers",
            "dinov3_vit", "dinov3_convnext", "hiera", "siglip_vision_model", "siglip2_vision_model",
            "clip_vision_model", "resnet", "mobilenet_v2", "efficientnet", "levit", "pvt",
        }),
    ),
    Task(
        name="image-text-to-text", auto_class="AutoModelForImageTextToText", processor="AutoProcessor",
        endings=_SEQ2SEQ,
    ),
    Task(
        name="automatic-speech-recognition", auto_class=SPEECH_CLASS, processor="AutoProcessor",
        endings=("ForSpeechSeq2Seq", "ForCTC", *_SEQ2SEQ),
        model_types=frozenset({
            "whisper", "speech_to_text", "speech-encoder-decoder", "moonshine", "moonshine_streaming", "cohere_asr",
            "granite_speech", "granite_speech_plus", "kyutai_speech_to_text", "qwen3_asr", "voxtral",
            "voxtral_realtime", "vibevoice_asr", "canary",
        }),
    ),
    Task(
        name="audio-classification", auto_class="AutoModelForAudioClassification", processor="AutoFeatureExtractor",
        endings=("ForAudioClassification",),
    ),
    Task(
        name="zero-shot-image-classification", processor="AutoProcessor",
        model_types=frozenset({"clip", "siglip", "siglip2"}),
    ),
)
# fmt: on
TASKS: Final[Mapping[str, Task]] = {task.name: task for task in _TASKS}
"""Every task that a recipe may name; where it names none, the ingredients' architecture decides."""


def task_of(architecture: str, model_type: str) -> str:
    """Name of the task that a class of transformers is for.

    The end of the class name decides. Several tasks share the ends of sequence-to-sequence models and none has that of
    a plain `...Model`: there the model type decides, and what it leaves open is `image-text-to-text` or
    `feature-extraction`.
    """
    tasks = [task for task in _TASKS if architecture.endswith(task.endings)]
    if len(tasks) == 1:
        return tasks[0].name
    tasks = tasks or [task for task in _TASKS if not task.endings]
    fits = (task.name for task in tasks if model_type in task.model_types)
    return next(fits, "image-text-to-text" if tasks[0].endings else "feature-extraction")

"""The table of tasks: what a class name says, checked against transformers' own tables."""

from __future__ import annotations

import pytest
import transformers
from transformers.models.auto import modeling_auto

from cocktail_hub.compat.config import task_of
from cocktail_hub.recipe.task import TASKS


@pytest.mark.parametrize(
    ("architecture", "model_type", "task"),
    [
        ("LlamaForCausalLM", "llama", "text-generation"),
        ("GPT2LMHeadModel", "gpt2", "text-generation"),
        ("T5ForConditionalGeneration", "t5", "text2text-generation"),
        ("BartForConditionalGeneration", "bart", "text2text-generation"),
        ("MarianMTModel", "marian", "text2text-generation"),
        ("LEDForConditionalGeneration", "led", "text2text-generation"),
        ("SwitchTransformersForConditionalGeneration", "switch_transformers", "text2text-generation"),
        ("WhisperForConditionalGeneration", "whisper", "automatic-speech-recognition"),
        ("Speech2TextForConditionalGeneration", "speech_to_text", "automatic-speech-recognition"),
        ("Wav2Vec2ForCTC", "wav2vec2", "automatic-speech-recognition"),
        ("Qwen2VLForConditionalGeneration", "qwen2_vl", "image-text-to-text"),
        ("LlavaForConditionalGeneration", "llava", "image-text-to-text"),
        ("BertModel", "bert", "feature-extraction"),
        ("BertForMaskedLM", "bert", "fill-mask"),
        ("BertForTokenClassification", "bert", "token-classification"),
        ("ViTForImageClassification", "vit", "image-classification"),
        ("CLIPForImageClassification", "clip", "image-classification"),
        ("ViTModel", "vit", "image-feature-extraction"),
        ("DINOv3ViTModel", "dinov3_vit", "image-feature-extraction"),
        ("CLIPModel", "clip", "zero-shot-image-classification"),
        ("Siglip2Model", "siglip2", "zero-shot-image-classification"),
        ("", "", "feature-extraction"),
    ],
)
def test_the_architecture_says_the_task(architecture: str, model_type: str, task: str) -> None:
    assert task_of(architecture, model_type) == task


def test_every_class_in_the_table_is_one_of_transformers() -> None:
    for task in TASKS.values():
        assert hasattr(transformers, task.auto_class)
        assert hasattr(transformers, task.processor)


def test_every_text_to_text_model_of_transformers_is_known() -> None:
    names = modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
    audio = set(modeling_auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES) | {"audioflamingo3", "musicflamingo", "glmasr"}
    audio |= {
        "qwen2_audio",
        "seamless_m4t",
        "seamless_m4t_v2",
        "moss_transcribe_diarize",
        "nemo_speechlm",
        "nemotron3_5_transcribe",
    }
    known = TASKS["text2text-generation"].model_types
    assert {kind for kind in names if kind not in known and kind not in audio} == set()

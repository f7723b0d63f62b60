"""What a config says of a model."""

from __future__ import annotations

import pytest
import transformers
from transformers.models.auto import modeling_auto

from cocktail_hub.compat.task import TEXT_TO_TEXT, model_kind
from cocktail_hub.evaluation.loading import narrowed

POOLED = [{"type": "sentence_transformers.models.Transformer"}, {"type": "sentence_transformers.models.Pooling"}]


@pytest.mark.parametrize(
    ("architecture", "model_type", "task"),
    [
        ("LlamaForCausalLM", "llama", "text-generation"),
        ("GPT2LMHeadModel", "gpt2", "text-generation"),
        ("T5ForConditionalGeneration", "t5", "text2text-generation"),
        ("BartForConditionalGeneration", "bart", "text2text-generation"),
        ("WhisperForConditionalGeneration", "whisper", "automatic-speech-recognition"),
        ("Qwen2VLForConditionalGeneration", "qwen2_vl", "image-text-to-text"),
        ("BertModel", "bert", "feature-extraction"),
        ("BertForMaskedLM", "bert", "fill-mask"),
        ("BertForTokenClassification", "bert", "token-classification"),
        ("ViTForImageClassification", "vit", "image-classification"),
        ("ViTModel", "vit", "image-feature-extraction"),
        ("CLIPModel", "clip", "zero-shot-image-classification"),
    ],
)
def test_the_architecture_says_the_task(architecture: str, model_type: str, task: str) -> None:
    kind = model_kind({"architectures": [architecture], "model_type": model_type}, [], {}, None)
    assert (kind.task, kind.architecture, kind.library) == (task, architecture, "transformers")


def test_modules_make_an_embedder() -> None:
    kind = model_kind({"architectures": ["BertModel"], "model_type": "bert"}, POOLED, {}, None)
    assert (kind.task, kind.sentence_transformers) == ("sentence-similarity", "SentenceTransformer")
    assert kind.library == "sentence-transformers"


def test_one_label_makes_a_reranker_and_two_labels_a_classifier() -> None:
    config = {"architectures": ["BertForSequenceClassification"], "model_type": "bert"}
    assert model_kind(config | {"id2label": {"0": "LABEL_0"}}, [], {}, None).sentence_transformers == "CrossEncoder"
    assert model_kind(config | {"num_labels": 1}, [], {}, None).task == "text-ranking"
    assert model_kind(config, [], {}, None).task == "text-classification"


def test_the_class_that_saved_it_wins() -> None:
    kind = model_kind({"architectures": ["BertForMaskedLM"]}, POOLED, {"model_type": "SparseEncoder"}, None)
    assert kind.sentence_transformers == "SparseEncoder"


def test_the_recipe_wins_over_the_guess() -> None:
    kind = model_kind({"architectures": ["BertModel"], "model_type": "bert"}, [], {}, "sentence-similarity")
    assert kind.task == "sentence-similarity"


def test_a_model_without_a_transformers_config_has_no_architecture() -> None:
    assert model_kind({}, POOLED, {}, None).architecture == ""


@pytest.mark.parametrize(
    ("architecture", "model_type", "task"),
    [
        ("MarianMTModel", "marian", "text2text-generation"),
        ("LEDForConditionalGeneration", "led", "text2text-generation"),
        ("SwitchTransformersForConditionalGeneration", "switch_transformers", "text2text-generation"),
        ("Speech2TextForConditionalGeneration", "speech_to_text", "automatic-speech-recognition"),
        ("Wav2Vec2ForCTC", "wav2vec2", "automatic-speech-recognition"),
        ("LlavaForConditionalGeneration", "llava", "image-text-to-text"),
        ("DINOv3ViTModel", "dinov3_vit", "image-feature-extraction"),
        ("Siglip2Model", "siglip2", "zero-shot-image-classification"),
    ],
)
def test_the_task_is_what_the_model_reads_and_writes(architecture: str, model_type: str, task: str) -> None:
    assert model_kind({"architectures": [architecture], "model_type": model_type}, [], {}, None).task == task


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
    assert {kind for kind in names if kind not in TEXT_TO_TEXT and kind not in audio} == set()


def test_speech_with_a_ctc_head_is_loaded_by_its_class() -> None:
    assert narrowed(transformers.AutoModelForSpeechSeq2Seq, "Wav2Vec2ForCTC") is transformers.AutoModelForCTC

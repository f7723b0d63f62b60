"""What a config says of a model."""

from __future__ import annotations

import pytest

from cocktail_hub.checking.kinds import kind_of

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
    kind = kind_of({"architectures": [architecture], "model_type": model_type}, [], {}, None)
    assert (kind.task, kind.architecture, kind.library) == (task, architecture, "transformers")


def test_modules_make_an_embedder() -> None:
    kind = kind_of({"architectures": ["BertModel"], "model_type": "bert"}, POOLED, {}, None)
    assert (kind.task, kind.sentence_transformers) == ("sentence-similarity", "SentenceTransformer")
    assert kind.library == "sentence-transformers"


def test_one_label_makes_a_reranker_and_two_labels_a_classifier() -> None:
    config = {"architectures": ["BertForSequenceClassification"], "model_type": "bert"}
    assert kind_of(config | {"id2label": {"0": "LABEL_0"}}, [], {}, None).sentence_transformers == "CrossEncoder"
    assert kind_of(config | {"num_labels": 1}, [], {}, None).task == "text-ranking"
    assert kind_of(config, [], {}, None).task == "text-classification"


def test_the_class_that_saved_it_wins() -> None:
    kind = kind_of({"architectures": ["BertForMaskedLM"]}, POOLED, {"model_type": "SparseEncoder"}, None)
    assert kind.sentence_transformers == "SparseEncoder"


def test_the_recipe_wins_over_the_guess() -> None:
    kind = kind_of({"architectures": ["BertModel"], "model_type": "bert"}, [], {}, "sentence-similarity")
    assert kind.task == "sentence-similarity"


def test_a_model_without_a_transformers_config_has_no_architecture() -> None:
    assert kind_of({}, POOLED, {}, None).architecture == ""

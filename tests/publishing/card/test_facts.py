"""What a card says besides the recipe: classes, processors, licences, size."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from huggingface_hub import snapshot_download
from models import expected, pair, published

from cocktail_hub import MixOptions, mix
from cocktail_hub.compat import ModelKind
from cocktail_hub.evaluation.loading import folder_kind
from cocktail_hub.hub import Hub
from cocktail_hub.publishing.card.facts import CardFacts, gather_facts, languages_of, stored_specs

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.whole


RANKER = "AutoModelForSequenceClassification"


def facts(kind: ModelKind) -> CardFacts:
    return gather_facts(mix(published("bert").recipe).recipe, kind, Hub())


@pytest.mark.parametrize(
    ("architecture", "task", "library", "classes", "processor"),
    [
        ("LlamaForCausalLM", "text-generation", "", ("AutoModelForCausalLM",), "AutoTokenizer"),
        ("BertModel", "text-ranking", "CrossEncoder", ("CrossEncoder", RANKER), "AutoTokenizer"),
        ("T5EncoderModel", "feature-extraction", "", ("T5EncoderModel",), "AutoTokenizer"),
        ("ViTModel", "image-feature-extraction", "", ("AutoModel",), "AutoImageProcessor"),
        ("CLIPModel", "zero-shot-image-classification", "", ("AutoModel",), "AutoProcessor"),
    ],
)
def test_a_card_names_the_classes_that_load_the_mix(
    architecture: str, task: str, library: str, classes: tuple[str, ...], processor: str
) -> None:
    found = facts(ModelKind(architecture=architecture, model_type="any", task=task, sentence_transformers=library))
    assert (found.load_classes, found.processor, found.pipeline_tag) == (classes, processor, task)


def test_what_transformers_does_not_load_has_neither_auto_class_nor_processor() -> None:
    kind = ModelKind(
        architecture="", model_type="", task="sentence-similarity", sentence_transformers="SentenceTransformer"
    )
    found = facts(kind)
    assert (found.load_classes, found.processor, found.architecture) == (("SentenceTransformer",), None, None)


@pytest.mark.parametrize(("family", "dtype"), [("bert", "float32"), ("llama-bf16", "bfloat16")])
def test_size_and_type_are_those_of_the_weights(family: str, dtype: str) -> None:
    made = mix(pair(family).local_recipe)
    found = gather_facts(made.recipe, folder_kind(made.path), Hub(), stored_specs(made.path))
    assert found.parameters == sum(tensor.numel() for tensor in expected(family).values())
    assert found.dtype == dtype
    assert f"{found.parameters:,} parameters, `{dtype}`" in (made.path / "README.md").read_text(encoding="utf-8")


def test_licences_and_languages_come_from_the_cards_even_of_folders_that_changed(tmp_path: Path) -> None:
    for name, source in zip("ab", pair("bert").folders, strict=True):
        shutil.copytree(source, tmp_path / name)
    (tmp_path / "a" / "README.md").write_text("---\nlicense: mit\nlanguage: en\n---\n")
    models = [{"model": str(tmp_path / name), "weight": 0.5} for name in "ab"]
    made = mix({"ingredients": models})
    (tmp_path / "a" / "config.json").write_text("{}")
    shutil.rmtree(tmp_path / "b")
    found = gather_facts(made.recipe, folder_kind(made.path), Hub(), stored_specs(made.path))
    first, second = (found.licenses[str(tmp_path / name)] for name in "ab")
    assert first is not None
    assert first.label == "mit"
    assert second is None
    assert found.languages[str(tmp_path / "a")] == ("en",)


def test_offline_a_card_that_was_not_fetched_is_not_said_to_declare_nothing(tmp_path: Path) -> None:
    ids = published("bert").ids
    for repo_id in ids:
        snapshot_download(repo_id, cache_dir=tmp_path / "hub", ignore_patterns=["README.md"])
    made = mix(
        {"ingredients": [{"model": repo_id, "weight": 0.5} for repo_id in ids]},
        output=tmp_path / "mix",
        options=MixOptions(force=True),  # another test may have made the same mix
        cache_dir=tmp_path / "hub",
        local_files_only=True,
    )
    card = (made.path / "README.md").read_text()
    assert "The licences of the ingredients were not read." in card
    assert "declare" not in card


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"language": "en"}, ("en",)),
        ({"language": ["en", "de", 3]}, ("en", "de")),
        ({"language": False}, ()),  # what YAML makes of `no`
        ({}, ()),
    ],
)
def test_languages_are_read_in_the_order_of_the_card(metadata: dict[str, object], expected: tuple[str, ...]) -> None:
    assert languages_of(metadata) == expected

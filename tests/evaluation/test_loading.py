"""Which class loads the folder of a mix."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import transformers
from models import pair

from cocktail_hub.errors import RecipeError, SourceError
from cocktail_hub.evaluation.loading import (
    config_of,
    folder_kind,
    keywords_for,
    load_model,
    main_folder,
    model_class,
    model_folder,
    narrowed,
)

if TYPE_CHECKING:
    from pathlib import Path


def described(folder: Path, **config: Any) -> Path:
    """A folder with nothing but a config.json."""
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("family", "name"),
    [("llama", "LlamaForCausalLM"), ("t5-encoder", "T5EncoderModel"), ("reranker", "BertForSequenceClassification")],
)
def test_the_config_names_the_class(family: str, name: str) -> None:
    assert model_class(pair(family).folders[0]).__name__ == name
    assert type(load_model(pair(family).folders[0])).__name__ == name


def test_speech_with_a_ctc_head_is_loaded_by_its_class() -> None:
    assert narrowed(transformers.AutoModelForSpeechSeq2Seq, "Wav2Vec2ForCTC") is transformers.AutoModelForCTC


def test_a_task_chooses_the_class() -> None:
    assert model_class(pair("masked").folders[0], "feature-extraction") is transformers.AutoModel
    assert model_class(pair("t5-encoder").folders[0], "sentence-similarity") is transformers.T5EncoderModel
    with pytest.raises(RecipeError, match=r"Unknown `task` 'text-genration'. Did you mean 'text-generation'\?"):
        model_class(pair("masked").folders[0], "text-genration")


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"model_type": "bert", "architectures": ["BertWithTricksForMaskedLM"]}, "AutoModelForMaskedLM"),
        ({"model_type": "llama", "architectures": ["OwnLlamaForCausalLM"]}, "AutoModelForCausalLM"),
        ({"model_type": "bert"}, "AutoModel"),
        ({"model_type": "bert", "architectures": None}, "AutoModel"),
        (
            {
                "model_type": "own",
                "architectures": ["OwnModel"],
                "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"},
            },
            "AutoModelForCausalLM",
        ),
    ],
)
def test_an_architecture_that_transformers_lacks_gets_the_auto_class_of_its_kind(
    config: dict[str, Any], name: str, tmp_path: Path
) -> None:
    assert model_class(described(tmp_path, **config)).__name__ == name


def test_a_folder_without_a_model_of_transformers_says_who_loads_it(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="It can be loaded by sentence-transformers alone"):
        load_model(tmp_path)
    with pytest.raises(SourceError, match=r"no `model_type` in config\.json"):
        model_folder(described(tmp_path, dim=8))


def test_the_transformer_of_an_old_layout_lies_in_a_folder_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "0_Transformer").mkdir()
    described(tmp_path / "0_Transformer", model_type="bert", architectures=["BertModel"])
    modules = [{"path": "0_Transformer", "type": "sentence_transformers.models.Transformer"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    assert main_folder(tmp_path) == tmp_path / "0_Transformer"
    assert folder_kind(tmp_path).architecture == "BertModel"
    assert folder_kind(tmp_path).sentence_transformers == "SentenceTransformer"


def test_a_part_counts_where_the_mix_has_one(tmp_path: Path) -> None:
    described(tmp_path, model_type="bert")
    (tmp_path / "query").mkdir()
    described(tmp_path / "query", model_type="bert")
    assert main_folder(tmp_path, "query") == tmp_path / "query"
    assert main_folder(tmp_path, "recipes/small") == tmp_path


def test_labels_of_the_recipe_yield_to_those_of_the_caller() -> None:
    labels = {"id2label": {0: "no"}, "label2id": {"no": 0}}
    assert keywords_for(labels, {"dtype": "auto"}) == {**labels, "dtype": "auto"}
    assert keywords_for(labels, {"num_labels": 3}) == {"num_labels": 3}
    assert keywords_for(labels, {"num_labels": None}) == {**labels, "num_labels": None}
    assert keywords_for({}, {"num_labels": 3}) == {"num_labels": 3}


def test_a_config_is_made_from_its_json() -> None:
    values = {"model_type": "bert", "hidden_size": 24, "id2label": {"0": "a", "1": "b", "2": "c"}}
    config = config_of(values)
    assert type(config) is transformers.BertConfig
    assert (config.hidden_size, config.num_labels, config.id2label[2]) == (24, 3, "c")

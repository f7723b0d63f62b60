"""What a config says of a model, which configs can be mixed, and which differences are reported."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.compat.config import (
    ModelKind,
    differences,
    model_kind,
    module_differences,
    require_same_family,
    require_same_rows,
)
from cocktail_hub.errors import IncompatibleError

if TYPE_CHECKING:
    from pathlib import Path

BERT = {"model_type": "bert", "architectures": ["BertModel"], "layer_norm_eps": 1e-12}


POOLED = [
    {"type": "sentence_transformers.models.Transformer", "path": ""},
    {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"},
]


def kind_of(folder: Path, config: dict[str, Any], task: str | None = None, **files: Any) -> ModelKind:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return model_kind(LocalFiles(folder), config, task)


def test_modules_make_an_embedder(tmp_path: Path) -> None:
    kind = kind_of(tmp_path, BERT, modules=POOLED)
    assert (kind.task, kind.sentence_transformers) == ("sentence-similarity", "SentenceTransformer")


def test_a_model_without_modules_is_one_of_transformers(tmp_path: Path) -> None:
    kind = kind_of(tmp_path, BERT, modules=[])
    assert (kind.architecture, kind.task, kind.sentence_transformers) == ("BertModel", "feature-extraction", "")


def test_one_label_makes_a_reranker_and_two_labels_a_classifier(tmp_path: Path) -> None:
    config = {"architectures": ["BertForSequenceClassification"], "model_type": "bert"}
    assert kind_of(tmp_path, config | {"id2label": {"0": "LABEL_0"}}).sentence_transformers == "CrossEncoder"
    assert kind_of(tmp_path, config | {"sentence_transformers": {}}).sentence_transformers == "CrossEncoder"
    assert kind_of(tmp_path, config | {"num_labels": 1}).task == "text-ranking"
    assert kind_of(tmp_path, config).task == "text-classification"


def test_the_class_that_saved_it_wins(tmp_path: Path) -> None:
    saved = {"model_type": "SparseEncoder"}
    kind = kind_of(tmp_path, BERT, modules=POOLED, config_sentence_transformers=saved)
    assert kind.sentence_transformers == "SparseEncoder"


def test_the_task_of_the_recipe_wins(tmp_path: Path) -> None:
    assert kind_of(tmp_path, BERT, "sentence-similarity").task == "sentence-similarity"


def test_a_model_without_a_transformers_config_has_no_architecture(tmp_path: Path) -> None:
    assert kind_of(tmp_path, {}, modules=POOLED).architecture == ""


def test_one_architecture_against_another_is_refused_with_both_names() -> None:
    words = "Cannot mix 'b' with 'a': it is a RobertaModel (model type 'roberta'), not a BertModel ('bert')."
    with pytest.raises(IncompatibleError, match=re.escape(words)) as caught:
        require_same_family(["a", "b"], [BERT, {"model_type": "roberta", "architectures": ["RobertaModel"]}])
    assert caught.value.model == "b"


def test_a_different_head_is_left_to_the_comparison_of_tensors() -> None:
    require_same_family(["a", "b"], [BERT, BERT | {"architectures": ["BertForMaskedLM"]}])


def test_a_model_without_a_config_is_left_to_the_comparison_of_tensors() -> None:
    require_same_family(["a", "b"], [BERT, {}])


def test_another_number_of_heads_is_refused_though_shapes_are_the_same() -> None:
    words = "Cannot mix 'b' with 'a': `num_attention_heads` is 4, but 2 in 'a'."
    with pytest.raises(IncompatibleError, match=re.escape(words)) as caught:
        require_same_rows(["a", "b"], [BERT | {"num_attention_heads": 2}, BERT | {"num_attention_heads": 4}])
    assert caught.value.model == "b"


def test_another_number_of_heads_in_a_nested_config_is_refused() -> None:
    configs = [{"text_config": {"num_heads": 2}, "decoder": {"n_head": heads}} for heads in (1, 2)]
    with pytest.raises(IncompatibleError, match=re.escape("`decoder.n_head` is 2, but 1 in 'a'")):
        require_same_rows(["a", "b"], configs)


def test_a_number_of_heads_that_one_config_leaves_to_its_default_is_not_compared() -> None:
    require_same_rows(["a", "b"], [{"num_heads": None}, {"num_heads": 2, "n_head": 2}])


def test_the_same_labels_in_another_order_are_refused() -> None:
    configs = [BERT | {"id2label": {"0": "NEG", "1": "POS"}}, BERT | {"id2label": {"0": "POS", "1": "NEG"}}]
    words = "Cannot mix 'b' with 'a': `id2label` has 'NEG' as 1, but as 0 in 'a'."
    with pytest.raises(IncompatibleError, match=re.escape(words)) as caught:
        require_same_rows(["a", "b"], configs)
    assert caught.value.model == "b"


def test_different_labels_are_reported() -> None:
    one, other = ({"id2label": {"0": name, "1": "POS"}} for name in ("NEG", "BAD"))
    require_same_rows(["a", "b"], [one, other])
    require_same_rows(["a", "b"], [one, {}])
    assert differences(["a", "b"], [one, one]) == []
    assert differences(["a", "b"], [one, {}]) == []
    assert differences(["a", "b"], [one, other]) == [
        "The labels of 'b' (BAD, POS) differ from those of 'a' (NEG, POS)."
    ]
    many = {"id2label": {str(place): f"L{place}" for place in range(7)}}
    assert differences(["a", "b"], [one, many]) == [
        "The labels of 'b' (L0, L1, L2, L3, L4, ...) differ from those of 'a' (NEG, POS)."
    ]


def test_only_differences_that_change_what_the_weights_compute_are_reported() -> None:
    other = BERT | {"layer_norm_eps": 1e-5, "transformers_version": "5"}
    assert differences(["a", "b"], [BERT, other]) == ["`layer_norm_eps` is 1e-12 in 'a' and 1e-05 in 'b'."]


def test_different_modules_are_reported() -> None:
    first = [{"type": "sentence_transformers.models.Transformer"}, {"type": "sentence_transformers.models.Pooling"}]
    renamed = [{"type": "sentence_transformers.base.modules.transformer.Transformer"}, first[1]]
    assert module_differences(["a", "b"], [first, renamed]) == []
    assert module_differences(["a", "b"], [first, []]) == [
        "The modules of 'b' (none) differ from those of 'a' (Transformer > Pooling), which the mix has."
    ]

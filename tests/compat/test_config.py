"""Which configs can be mixed, and which differences are told."""

from __future__ import annotations

import re

import pytest

from cocktail_hub.compat.config import (
    differences,
    module_differences,
    require_same_family,
    require_same_heads,
    require_same_labels,
)
from cocktail_hub.errors import IncompatibleError

BERT = {"model_type": "bert", "architectures": ["BertModel"], "layer_norm_eps": 1e-12}


def test_one_architecture_against_another_is_refused_with_both_names() -> None:
    words = "Cannot mix 'b' with 'a': it is a RobertaModel (model type 'roberta'), not a BertModel ('bert')."
    with pytest.raises(IncompatibleError, match=re.escape(words)) as caught:
        require_same_family(["a", "b"], [BERT, {"model_type": "roberta", "architectures": ["RobertaModel"]}])
    assert caught.value.model == "b"


def test_another_head_is_left_to_the_comparison_of_tensors() -> None:
    require_same_family(["a", "b"], [BERT, BERT | {"architectures": ["BertForMaskedLM"]}])


def test_a_model_without_a_config_is_left_to_the_comparison_of_tensors() -> None:
    require_same_family(["a", "b"], [BERT, {}])


def test_another_number_of_heads_is_refused_though_shapes_are_the_same() -> None:
    words = "Cannot mix 'b' with 'a': `num_attention_heads` is 4, but 2 in 'a'."
    with pytest.raises(IncompatibleError, match=re.escape(words)) as caught:
        require_same_heads(["a", "b"], [BERT | {"num_attention_heads": 2}, BERT | {"num_attention_heads": 4}])
    assert caught.value.model == "b"


def test_another_number_of_heads_in_a_part_is_refused() -> None:
    configs = [{"text_config": {"num_heads": 2}, "decoder": {"n_head": heads}} for heads in (1, 2)]
    with pytest.raises(IncompatibleError, match=re.escape("`decoder.n_head` is 2, but 1 in 'a'")):
        require_same_heads(["a", "b"], configs)


def test_a_number_of_heads_that_one_config_leaves_to_its_default_is_not_compared() -> None:
    require_same_heads(["a", "b"], [{"num_heads": None}, {"num_heads": 2, "n_head": 2}])


def test_the_same_labels_in_another_order_are_refused() -> None:
    configs = [BERT | {"id2label": {"0": "NEG", "1": "POS"}}, BERT | {"id2label": {"0": "POS", "1": "NEG"}}]
    words = "Cannot mix 'b' with 'a': `id2label` has 'NEG' as 1, but as 0 in 'a'."
    with pytest.raises(IncompatibleError, match=re.escape(words)) as caught:
        require_same_labels(["a", "b"], configs)
    assert caught.value.model == "b"


def test_other_labels_are_told() -> None:
    one, other = ({"id2label": {"0": name, "1": "POS"}} for name in ("NEG", "BAD"))
    require_same_labels(["a", "b"], [one, other])
    require_same_labels(["a", "b"], [one, {}])
    assert differences(["a", "b"], [one, one]) == []
    assert differences(["a", "b"], [one, {}]) == []
    assert differences(["a", "b"], [one, other]) == ["The labels of 'b' (BAD, POS) are not those of 'a' (NEG, POS)."]
    many = {"id2label": {str(place): f"L{place}" for place in range(7)}}
    assert differences(["a", "b"], [one, many]) == [
        "The labels of 'b' (L0, L1, L2, L3, L4, ...) are not those of 'a' (NEG, POS)."
    ]


def test_only_differences_that_change_what_the_weights_compute_are_told() -> None:
    other = BERT | {"layer_norm_eps": 1e-5, "transformers_version": "5"}
    assert differences(["a", "b"], [BERT, other]) == ["`layer_norm_eps` is 1e-12 in 'a' and 1e-05 in 'b'."]


def test_other_modules_are_told() -> None:
    first = [{"type": "sentence_transformers.models.Transformer"}, {"type": "sentence_transformers.models.Pooling"}]
    renamed = [{"type": "sentence_transformers.base.modules.transformer.Transformer"}, first[1]]
    assert module_differences(["a", "b"], [first, renamed]) == []
    assert module_differences(["a", "b"], [first, []]) == [
        "The modules of 'b' (none) differ from those of 'a' (Transformer > Pooling), which the mix has."
    ]

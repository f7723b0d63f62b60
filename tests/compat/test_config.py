"""What a config says of a model, which configs can be mixed, and which differences are reported."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.compat.config import (
    ModelKind,
    differences,
    file_differences,
    model_kind,
    module_differences,
    module_setting_differences,
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


@pytest.mark.parametrize("theirs", [("pos", "neg", "neu"), ("POS", "NEG", "MIXED")])
def test_a_shared_label_at_another_place_is_refused_in_whatever_case_it_is_written(theirs: tuple[str, ...]) -> None:
    configs = [BERT | {"id2label": dict(enumerate(labels))} for labels in (("neg", "neu", "pos"), theirs)]
    with pytest.raises(IncompatibleError, match="`id2label` has 'neg' as 1, but as 0 in 'a'"):
        require_same_rows(["a", "b"], configs)


def test_different_labels_are_reported() -> None:
    one, other = ({"id2label": {"0": name, "1": "POS"}} for name in ("NEG", "BAD"))
    require_same_rows(["a", "b"], [one, other])
    require_same_rows(["a", "b"], [one, {}])
    assert differences(["a", "b"], [one, one]) == []
    assert differences(["a", "b"], [one, {}]) == []
    classes = [config | {"architectures": ["BertForSequenceClassification"]} for config in (one, {})]
    (note,) = differences(["a", "b"], classes)
    assert note.startswith("'b' does not name its labels, as 'a' does (NEG, POS): whether the same rows of the head ")
    assert differences(["b", "a"], classes[::-1]) == [note]
    assert differences(["a", "b"], [one, other]) == [
        "The labels of 'b' (BAD, POS) differ from those of 'a' (NEG, POS)."
    ]
    many = {"id2label": {str(place): f"L{place}" for place in range(7)}}
    assert differences(["a", "b"], [one, many]) == [
        "The labels of 'b' (L0, L1, L2, L3, L4, ...) differ from those of 'a' (NEG, POS)."
    ]


def test_differences_that_may_matter_are_reported_and_others_are_not() -> None:
    other = BERT | {
        "transformers_version": "5",
        "hidden_dropout_prob": 0.5,
        "output_attentions": True,
        "initializer_range": 1.0,
        "dtype": "float16",
    }
    assert differences(["a", "b"], [BERT, other | {"layer_norm_eps": 1e-12}]) == []
    one, other = (BERT | {"max_position_embeddings": length, "pad_token_id": length} for length in (8, 16))
    assert differences(["a", "b"], [one, other]) == [
        "`max_position_embeddings` is 8 in 'a' and 16 in 'b'.",
        "`pad_token_id` is 8 in 'a' and 16 in 'b'.",
    ]


@pytest.mark.parametrize(
    ("key", "mine", "theirs"),
    [
        ("layer_norm_eps", 1e-12, 1e-5),
        ("rms_norm_eps", 1e-6, 1e-5),
        ("hidden_act", "silu", "gelu"),
        ("projector_hidden_act", "gelu", "relu"),
        ("rope_theta", 1e4, 1e6),
        ("sliding_window", 4096, None),
        ("layer_types", ["full_attention"], ["sliding_attention"]),
        ("final_logit_softcapping", 30.0, None),
        ("query_pre_attn_scalar", 256, 144),
        ("is_causal", True, False),
        ("routed_scaling_factor", 1.0, 2.5),
        ("norm_topk_prob", True, False),
        ("use_parallel_residual", True, False),
        ("token_dropout", True, False),
        ("output_logit_soft_cap", 30.0, 20.0),
        ("output_multiplier", 1.0, 0.5),
        ("rope_interleave", True, False),
        ("mrope_section", [1, 1, 2], [2, 1, 1]),
        ("vision_feature_layer", -2, -1),
        ("vision_feature_select_strategy", "default", "full"),
        ("do_stable_layer_norm", False, True),
        ("classifier_pooling", "cls", "mean"),
    ],
)
def test_what_changes_the_computation_is_refused_with_both_values(key: str, mine: Any, theirs: Any) -> None:
    for wrap in (lambda value: {key: value}, lambda value: {"text_config": {key: value, "vocab_size": 3}}):
        with pytest.raises(IncompatibleError) as caught:
            require_same_rows(["a", "b"], [BERT | wrap(mine), BERT | wrap(theirs)])
        what, why, way_out = str(caught.value).split("\n")
        assert f"{key}` is {theirs!r}, but {mine!r} in 'a'." in what
        assert "average suits neither" in why
        assert "Remove 'b'" in way_out
        assert differences(["a", "b"], [BERT | wrap(mine), BERT | wrap(theirs)]) == []


def test_long_values_are_cut_short() -> None:
    (note,) = differences(["a", "b"], [{"long_factor": [1.5] * 99, "0": 1}, {"long_factor": [2.5] * 99, "0": 1}])
    assert len(note) < 300
    assert "1.5, 1.5] in 'a' and [2.5, 2.5" in note


def test_two_names_of_one_activation_function_are_no_difference() -> None:
    configs = [BERT | {"hidden_act": name} for name in ("silu", "swish")]
    require_same_rows(["a", "b"], configs)
    assert differences(["a", "b"], configs) == []


def test_a_default_that_one_config_leaves_out_is_filled_in() -> None:
    default, written, other = (
        {"model_type": "bert", **more} for more in ({}, {"hidden_act": "gelu"}, {"hidden_act": "relu"})
    )
    require_same_rows(["a", "b"], [default, written])
    assert differences(["a", "b"], [default, written]) == []
    for pair in ([default, other], [other, default]):
        with pytest.raises(IncompatibleError, match="`hidden_act` is"):
            require_same_rows(["a", "b"], pair)


def test_rope_is_compared_across_its_spellings() -> None:
    def llama(**rope: Any) -> dict[str, Any]:
        return {"model_type": "llama", **rope}

    old, new = llama(rope_theta=5e5), llama(rope_parameters={"rope_type": "default", "rope_theta": 5e5})
    require_same_rows(["a", "b"], [old, new])
    assert differences(["a", "b"], [old, new]) == []
    for first, second in ((llama(), old), (new, llama()), (llama(rope_theta=1e4), new)):
        with pytest.raises(IncompatibleError, match=r"`rope_parameters\.rope_theta` is"):
            require_same_rows(["a", "b"], [first, second])
    scaled = llama(rope_theta=5e5, rope_scaling={"type": "linear", "factor": 2.0})
    require_same_rows(["a", "b"], [old, scaled])
    assert differences(["a", "b"], [old, scaled]) == [
        "`rope_parameters.factor` is not set in 'a' and 2.0 in 'b'.",
        "`rope_parameters.rope_type` is 'default' in 'a' and 'linear' in 'b'.",
    ]


@pytest.mark.parametrize("model_type", ["of_its_own_code", "bert"])
def test_a_key_without_a_known_default_is_reported(model_type: str) -> None:
    config = {"model_type": model_type, "vocab_size": 3}
    configs = [config, config | {"is_causal": False}]
    require_same_rows(["a", "b"], configs)
    assert differences(["a", "b"], configs) == ["`is_causal` is not set in 'a' and False in 'b'."]
    assert differences(["a", "b"], configs[::-1]) == ["`is_causal` is False in 'a' and not set in 'b'."]


def test_a_config_that_transformers_refuses_is_compared_as_it_is() -> None:
    configs = [{"model_type": "bert"}, {"model_type": "bert", "hidden_size": "many"}]
    assert differences(["a", "b"], configs) == ["`hidden_size` is not set in 'a' and 'many' in 'b'."]


def test_equal_keys_are_compared_without_transformers() -> None:
    code = (
        "import sys; from cocktail_hub.compat.config import differences; "
        "differences(['a', 'b'], [{'model_type': 'bert', 'x': 1}, {'model_type': 'bert', 'x': 2, 'dtype': 'half'}]); "
        "assert not {'torch', 'transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_activation_function_of_a_reranker_is_reported() -> None:
    one, other = (
        {"sentence_transformers": {"activation_fn": name, "version": name}} for name in ("Sigmoid", "Identity")
    )
    require_same_rows(["a", "b"], [one, other])
    assert differences(["a", "b"], [one, other]) == [
        "`sentence_transformers.activation_fn` is 'Sigmoid' in 'a' and 'Identity' in 'b'."
    ]


def embedders(folder: Path, *settings: dict[str, Any], file: str = "1_Pooling/config.json") -> list[LocalFiles]:
    for name, content in zip("ab", settings, strict=True):
        path = folder / name / file
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(content))
    return [LocalFiles(folder / name) for name in "ab"]


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        ({"pooling_mode": "cls"}, {"pooling_mode": "mean"}),
        ({"pooling_mode": "cls"}, {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}),
        ({"pooling_strategy": "max"}, {"pooling_strategy": "sum"}),
        ({"activation_function": "torch.nn.Tanh"}, {"activation_function": "torch.nn.Identity"}),
    ],
)
def test_another_pooling_or_activation_of_a_module_is_refused(
    tmp_path: Path, mine: dict[str, Any], theirs: dict[str, Any]
) -> None:
    with pytest.raises(
        IncompatibleError, match=r"(pooling_(mode|strategy)|activation_function)` of Pooling is .* in 'b', but"
    ):
        module_setting_differences(["a", "b"], [POOLED, POOLED], embedders(tmp_path, mine, theirs))


def test_one_pooling_in_two_spellings_is_no_difference(tmp_path: Path) -> None:
    old = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False, "word_embedding_dimension": 8}
    new = {"pooling_mode": "cls", "embedding_dimension": 8, "include_prompt": True}
    assert module_setting_differences(["a", "b"], [POOLED, POOLED], embedders(tmp_path, old, new)) == []


def test_other_settings_of_a_module_are_reported(tmp_path: Path) -> None:
    found = embedders(tmp_path, {"include_prompt": True}, {"include_prompt": False})
    words = "`include_prompt` of Pooling is True in 'a' and False in 'b'."
    assert module_setting_differences(["a", "b"], [POOLED, POOLED], found) == [words]
    assert module_setting_differences(["a", "b"], [POOLED, []], found) == []


BAG = [{"path": "0_BoW", "type": "sentence_transformers.models.BoW"}]


def test_a_bag_of_words_in_another_order_is_refused(tmp_path: Path) -> None:
    files = embedders(tmp_path, {"vocab": ["cat", "dog"]}, {"vocab": ["dog", "cat"]}, file="0_BoW/config.json")
    with pytest.raises(
        IncompatibleError, match=r"`vocab` of BoW is \['dog', 'cat'\] in 'b', but \['cat', 'dog'\] in 'a'"
    ):
        module_setting_differences(["a", "b"], [BAG, BAG], files)


def test_other_weights_of_words_are_reported(tmp_path: Path) -> None:
    mine, theirs = ({"vocab": ["cat"], "word_weights": {"cat": weight}} for weight in (1.0, 2.0))
    files = embedders(tmp_path, mine, theirs, file="0_BoW/config.json")
    words = "`word_weights.cat` of BoW is 1.0 in 'a' and 2.0 in 'b'."
    assert module_setting_differences(["a", "b"], [BAG, BAG], files) == [words]


def test_a_module_without_its_config_is_reported(tmp_path: Path) -> None:
    files = embedders(tmp_path, {}, {})
    (tmp_path / "b" / "1_Pooling" / "config.json").unlink()
    words = "'b' has no '1_Pooling/config.json', without which sentence-transformers cannot load its Pooling."
    found = [files[0], LocalFiles(tmp_path / "b")]
    assert module_setting_differences(["a", "b"], [POOLED, POOLED], found) == [words]


def test_other_keywords_of_a_module_are_reported(tmp_path: Path) -> None:
    files = embedders(tmp_path, {}, {})
    tasks = [POOLED[0] | {"kwargs": ["task"]}, POOLED[1]]
    words = "`kwargs` of Transformer in 'modules.json' is None in 'a' and ['task'] in 'b'."
    assert module_setting_differences(["a", "b"], [POOLED, tasks], files) == [words]


def test_small_files_that_say_otherwise_how_inputs_are_prepared_are_reported(tmp_path: Path) -> None:
    def found(file: str, mine: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
        files = embedders(tmp_path / f"{len(list(tmp_path.iterdir()))}", mine, theirs, file=file)
        return file_differences(["a", "b"], [files[:1], files[1:]], ["", ""])

    mine, theirs = {"similarity_fn_name": "cosine", "prompts": {}}, {"similarity_fn_name": "dot", "prompts": {"q": "?"}}
    (note,) = found("config_sentence_transformers.json", mine, theirs)
    assert note == (
        "'config_sentence_transformers.json' says otherwise in 'a' than in 'b': "
        "prompts not set / {'q': '?'}; similarity_fn_name 'cosine' / 'dot'."
    )
    assert found("preprocessor_config.json", {"image_mean": [0.5]}, {"image_mean": [0.4], "resample": 3}) == [
        "'preprocessor_config.json' says otherwise in 'a' than in 'b': image_mean [0.5] / [0.4]."
    ]
    mine = {"strip_accents": True, "pad_token": {"content": "x", "lstrip": True}, "backend": "a", "eos_token": "e"}
    theirs = {"strip_accents": False, "pad_token": "x", "eos_token": {"content": "f"}}
    assert found("tokenizer_config.json", mine, theirs) == [
        "'tokenizer_config.json' says otherwise in 'a' than in 'b': eos_token 'e' / 'f'; strip_accents True / False."
    ]
    assert found("special_tokens_map.json", {"eos_token": "e"}, {"eos_token": {"content": "f", "lstrip": True}}) == [
        "'special_tokens_map.json' says otherwise in 'a' than in 'b': eos_token 'e' / 'f'."
    ]
    assert found("tokenizer_config.json", {"a": 1}, {"fix_mistral_regex": True}) == [
        "'tokenizer_config.json' says otherwise in 'a' than in 'b': fix_mistral_regex not set / True."
    ]
    assert found("sentence_bert_config.json", {"max_seq_length": 512}, {"max_seq_length": 256}) == [
        "'sentence_bert_config.json' says otherwise in 'a' than in 'b': max_seq_length 512 / 256."
    ]
    mine, theirs = {"eos_token_id": 2, "transformers_version": "4"}, {"eos_token_id": [2, 3], "top_k": 9}
    assert found("generation_config.json", mine, theirs) == [
        "'generation_config.json' says otherwise in 'a' than in 'b': eos_token_id 2 / [2, 3]; top_k not set / 9."
    ]
    assert found("generation_config.json", {}, {"eos_token_id": 3}) == [
        "'generation_config.json' says otherwise in 'a' than in 'b': eos_token_id not set / 3."
    ]
    assert found("preprocessor_config.json", {"image_processor_type": "A"}, {"image_processor_type": "B"}) == []


@pytest.mark.parametrize(
    ("file", "setting", "usual"),
    [
        ("tokenizer_config.json", {"do_lower_case": False}, {"do_lower_case": True}),
        ("tokenizer_config.json", {"add_bos_token": True}, {"bos_token": "<s>"}),
        ("tokenizer_config.json", {"model_max_length": 512}, {"model_max_length": 10**30}),
        ("tokenizer_config.json", {"split_special_tokens": True}, {"split_special_tokens": False}),
        ("tokenizer_config.json", {"clean_up_tokenization_spaces": True}, {"stride": 0}),
        ("sentence_bert_config.json", {"do_lower_case": True}, {"do_lower_case": False}),
    ],
)
def test_a_setting_of_text_that_only_one_file_has_is_reported_unless_it_changes_nothing(
    file: str, setting: dict[str, Any], usual: dict[str, Any], tmp_path: Path
) -> None:
    ((key, value),) = setting.items()
    one, other = {"a setting": 1}, {"a setting": 1, **setting}
    for number, (mine, theirs, shown) in enumerate(
        ((one, other, f"not set / {value!r}"), (other, one, f"{value!r} / not set"))
    ):
        files = embedders(tmp_path / f"{number}", mine, theirs, file=file)
        note = f"'{file}' says otherwise in 'a' than in 'b': {key} {shown}."
        assert file_differences(["a", "b"], [files[:1], files[1:]], ["", ""]) == [note]
    files = embedders(tmp_path / "usual", one, one | usual, file=file)
    assert file_differences(["a", "b"], [files[:1], files[1:]], ["", ""]) == []
    assert file_differences(["a", "b"], [files[:1], [LocalFiles(tmp_path), files[0]]], ["", ""]) == []  # of the base


def test_embeddings_that_only_one_model_normalises_are_refused() -> None:
    normalised = [*POOLED, {"type": "sentence_transformers.models.Normalize", "path": "2_Normalize"}]
    words = "its modules are Transformer > Pooling > Normalize, but Transformer > Pooling in 'a'"
    with pytest.raises(IncompatibleError, match=words):
        module_differences(["a", "b"], [POOLED, normalised])


def test_different_modules_are_reported() -> None:
    first = [{"type": "sentence_transformers.models.Transformer"}, {"type": "sentence_transformers.models.Pooling"}]
    renamed = [{"type": "sentence_transformers.base.modules.transformer.Transformer"}, first[1]]
    assert module_differences(["a", "b"], [first, renamed]) == []
    assert module_differences(["a", "b"], [first, []]) == [
        "The modules of 'b' (none) differ from those of 'a' (Transformer > Pooling), which the mix has."
    ]


def test_a_recipe_that_says_whose_config_the_mix_has_may_mix_what_computes_otherwise() -> None:
    configs = [BERT | {"rope_theta": 1e4}, BERT | {"rope_theta": 1e6}]
    with pytest.raises(IncompatibleError, match="name the model whose config the mix takes under `config`"):
        require_same_rows(["a", "b"], configs)
    require_same_rows(["a", "b"], configs, config_chosen=True)
    assert differences(["a", "b"], configs, config_chosen=True) == [
        "`rope_theta` is 10000.0 in 'a' and 1000000.0 in 'b'."
    ]
    with pytest.raises(IncompatibleError, match="different heads"):
        require_same_rows(["a", "b"], [BERT | {"num_heads": 2}, BERT | {"num_heads": 4}], config_chosen=True)

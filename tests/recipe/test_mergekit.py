"""mergekit's configurations become recipes, or are refused with every line that cannot be expressed."""

from __future__ import annotations

from typing import Any

import pytest

from cocktail_hub.errors import RecipeError
from cocktail_hub.recipe import parse_recipe
from cocktail_hub.recipe.mergekit import read_mergekit

DONE = object()


def read(text: str) -> dict[str, Any]:
    """The recipe without what is the same everywhere."""
    recipe = read_mergekit(text).to_dict()
    return {key: value for key, value in recipe.items() if key not in ("schema", "evidence")}


def refused(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        read_mergekit(text, "c.yml")
    return str(caught.value)


def models(*entries: str, **top: Any) -> str:
    """A configuration with models, a line each, and keys at its top."""
    head = "".join(f"{key}: {value}\n" for key, value in top.items())
    return head + "models:\n" + "".join(f"- {{model: {entry}}}\n" for entry in entries)


TIES = models("m/a, parameters: {weight: 1}", "m/b, parameters: {weight: 0.5}", merge_method="ties", base_model="b/x")


# -- numbers -------------------------------------------------------------------------------------------------------


def test_weights_that_do_not_sum_to_1_are_normalised_and_that_is_said() -> None:
    text = models("m/a, parameters: {weight: 1}", "m/b, parameters: {weight: 0.5}", merge_method="linear")
    assert read(text) == {
        "method": "linear",
        "ingredients": [{"model": "m/a", "weight": 1.0}, {"model": "m/b", "weight": 0.5}],
        "normalize": True,
    }
    assert "divided by their sum" in read_mergekit(text).import_notes[0]


def test_weights_that_sum_to_1_need_no_normalising() -> None:
    text = models("m/a, parameters: {weight: 0.3}", "m/b, parameters: {weight: 0.7}", merge_method="linear")
    assert "normalize" not in read(text)


def test_slerp_goes_from_the_base_to_the_other_model() -> None:
    text = models("m/a", "m/b", merge_method="slerp", base_model="m/b", parameters="{t: 0.25}")
    assert read(text)["ingredients"] == [{"model": "m/b", "weight": 0.75}, {"model": "m/a", "weight": 0.25}]


def test_a_gradient_has_its_first_value_after_the_layers_too() -> None:
    text = models("m/b", merge_method="slerp", base_model="m/a", parameters="{t: [0, 0.5, 1]}")
    weight = read(text)["ingredients"][1]["weight"]
    assert weight == [{"match": "[0-9]*.*", "value": [0.0, 0.5, 1.0]}, {"value": 0.0}]


def test_a_gradient_that_ends_as_it_begins_is_a_list() -> None:
    text = models("m/b", merge_method="slerp", base_model="m/a", parameters="{t: [0.1, 0.6, 0.1]}")
    assert read(text)["ingredients"][1]["weight"] == [0.1, 0.6, 0.1]


def test_filters_become_rules_by_name() -> None:
    t = "{t: [{filter: self_attn, value: [0, 1]}, {filter: lm_head, value: [0.75]}, {filter: '*', value: 0.5}]}"
    text = models("m/b", merge_method="slerp", base_model="m/a", parameters=t)
    assert read(text)["ingredients"][1]["weight"] == [
        {"match": "*self_attn*", "value": [0.0, 1.0]},
        {"match": "*lm_head*", "value": 0.75},
        {"value": 0.5},
    ]


def test_a_filter_that_does_not_match_falls_back_to_the_next_level() -> None:
    text = TIES.replace("{weight: 1}", "{weight: [{filter: mlp, value: 2}]}") + "parameters: {weight: 0.25}\n"
    found = [entry["weight"] for entry in read(text)["ingredients"]]
    assert found == [[{"match": "*mlp*", "value": 2.0}, {"value": 0.25}], 0.5]


def test_numbers_that_yaml_reads_as_text_are_numbers() -> None:
    text = models("m/b", merge_method="nearswap", base_model="m/a", parameters="{t: 1e-4}")
    assert read(text)["parameters"] == {"t": 1e-4}


# -- methods -------------------------------------------------------------------------------------------------------


def test_ties_has_mergekits_conventions() -> None:
    found = read(TIES + "parameters: {density: 0.4, lambda: 0.9, int8_mask: true}\n")
    assert found["parameters"] == {"density": 0.4, "exact_k": True, "elect": "weighted", "lambda": 0.9}
    assert read(TIES)["parameters"]["density"] == 1.0
    assert read(TIES + "parameters: {normalize: false}\n")["parameters"]["merge"] == "sum"


def test_dare_rescales_as_mergekit_does() -> None:
    text = TIES.replace("ties", "dare_ties") + "parameters: {density: 0.4}\n"
    assert read(text)["parameters"] == {"density": 0.4, "rescale": "l1", "elect": "weighted", "merge": "sum"}
    assert read(text.replace("0.4", "0.4, rescale: false"))["parameters"]["rescale"] == "none"


def test_a_density_for_each_model_is_each_ones_own() -> None:
    text = TIES.replace("weight: 0.5", "weight: 0.5, density: 0.3")
    found = [entry["parameters"] for entry in read(text)["ingredients"]]
    assert found == [{"density": 1.0}, {"density": 0.3}]


def test_a_base_among_the_models_is_left_out() -> None:
    recipe = read_mergekit(TIES + "- {model: b/x}\n")
    assert [entry.model for entry in recipe.ingredients] == ["m/a", "m/b"]
    assert recipe.import_notes[0] == "line 1: the base is among the models of `ties`, where it changes nothing."


def test_the_base_alone_is_the_base() -> None:
    text = models("b/x", merge_method="task_arithmetic", base_model="b/x")
    assert read(text) == {"method": "passthrough", "ingredients": [{"model": "b/x", "weight": 1.0}]}


def test_config_and_tokenizer_come_from_the_base() -> None:
    text = models("m/a, parameters: {weight: 1}", "m/b, parameters: {weight: 1}", merge_method="linear")
    assert read(text + "base_model: m/b\n").items() >= {"config": "m/b", "tokenizer": "m/b"}.items()


def test_adapters_and_revisions_are_read_out_of_names() -> None:
    text = models("b/x@v1+l/a@v2", merge_method="passthrough")
    base = {"model": "b/x", "revision": "v1"}
    assert read(text)["ingredients"] == [{"model": "l/a", "revision": "v2", "base": base, "weight": 1.0}]


def test_tokenizers_are_joined_and_tokens_have_rules() -> None:
    text = (
        TIES + "chat_template: chatml\ntokenizer:\n  source: union\n  pad_to_multiple_of: 8\n  tokens:\n"
        "    <s>: {source: m/a, force: true}\n    <t>: {source: {kind: zero}}\n"
        "    <u>: {source: {kind: model_token, model: m/b, token: <v>}}\n"
    )
    found = read(text)
    assert (found["tokenizer"], found["chat_template"], found["pad_to_multiple_of"]) == ("union", "chatml", 8)
    tokens = {token: (rule.source, rule.token, rule.force) for token, rule in read_mergekit(text).tokens.items()}
    assert tokens == {"<s>": ("m/a", "", True), "<t>": ("zero", "", False), "<u>": ("m/b", "<v>", False)}


def test_a_model_that_only_gives_its_tokenizer_has_the_weight_0() -> None:
    recipe = read_mergekit(TIES + "tokenizer_source: other/tok\n")
    assert [(entry.model, entry.weight) for entry in recipe.ingredients][2:] == [("other/tok", 0.0)]
    assert recipe.tokenizer == "other/tok"
    assert "line 6: 'other/tok', whose tokenizer the mix has, is an ingredient of weight 0." in recipe.import_notes


def test_the_output_dtype_counts() -> None:
    assert read(TIES + "dtype: float32\nout_dtype: bfloat16\n")["dtype"] == "bfloat16"
    assert read(TIES + "dtype: torch.float16\n")["dtype"] == "float16"


def test_modules_with_one_mixture_are_one_recipe() -> None:
    sources = "[{model: m/a, layer_range: [0, 2]}, {model: m/b, layer_range: [0, 2]}]"
    text = f"merge_method: karcher\nmodules: {{default: {{slices: [{{sources: {sources}}}]}}}}\n"
    assert [entry["layer_range"] for entry in read(text)["ingredients"]] == [[0, 2], [0, 2]]


# -- slices --------------------------------------------------------------------------------------------------------

STACK = """\
merge_method: passthrough
slices:
- sources: [{model: m/a, layer_range: [0, 3]}]
- sources: [{model: m/b, layer_range: [1, 4], parameters: {scale: 0.5}}]
"""


def test_slices_become_a_stack() -> None:
    assert read(STACK) == {
        "method": "passthrough",
        "ingredients": [
            {"model": "m/a", "layer_range": [0, 3], "weight": 1.0},
            {"model": "m/b", "layer_range": [1, 4], "weight": 1.0, "parameters": {"scale": 0.5}},
        ],
    }


def test_a_slice_that_is_scaled_by_name_is_a_recipe_in_the_stack() -> None:
    scaled = STACK.replace("scale: 0.5", "scale: [{filter: o_proj, value: 0.5}, {value: 1}]")
    assert read(scaled)["ingredients"][1] == {
        "model": "slice 1",
        "layer_range": [0, 3],
        "weight": 1.0,
        "recipe": {
            "method": "passthrough",
            "ingredients": [{"model": "m/b", "layer_range": [1, 4], "weight": 1.0}],
            "parameters": {"scale": [{"match": "*o_proj*", "value": 0.5}, {"value": 1.0}]},
        },
    }


def test_a_linear_slice_of_one_model_is_that_model_or_scaled() -> None:
    one, two = (f"{{model: m/a, layer_range: {layers}, parameters: {{weight: 0.5}}}}" for layers in ([0, 2], [2, 4]))
    text = f"merge_method: linear\nslices:\n- sources: [{one}, {two}]\n- sources: [{two}]\n"
    last = {"model": "m/a", "layer_range": [2, 4], "weight": 1.0}
    assert read(text)["ingredients"][1] == last
    scaled = read(text + "parameters: {normalize: false}\n")["ingredients"][1]
    assert scaled == last | {"parameters": {"scale": 0.5}}


# -- what is said and refused --------------------------------------------------------------------------------------


def test_what_mergekit_ignores_is_named_with_its_line() -> None:
    notes = read_mergekit(TIES + "normalize: false\nparameters: {int8_mask: true, smooth: 1}\n").import_notes
    assert notes[:3] == (
        "line 6: `normalize` is no key of a configuration, and mergekit ignores it.",
        "line 7: `int8_mask` changes no number.",
        "line 7: `smooth` is no parameter of `ties`; mergekit ignores it.",
    )
    assert "mergekit takes the positive ones" in notes[3]


def test_a_misspelt_key_is_named_where_something_is_missing() -> None:
    said = refused("merge_method: linear\nmodels:\n- {model: m/a, paramters: {weight: 1}}\n- {model: m/b}\n")
    assert "- line 3: `weight` is missing, for every tensor or for some.\n" in said
    assert "- line 3: `paramters` is no key of a model, and mergekit ignores it.\n" in said


def test_a_misspelt_method_is_told_with_the_nearest() -> None:
    said = refused("merge_method: dare-ties\nmodels: [{model: m/a}]")
    assert "line 1: there is no method `dare-ties` here. Did you mean 'dare_ties'?" in said


def test_everything_that_cannot_be_expressed_is_listed_at_once() -> None:
    text = TIES.replace("weight: 1}", "density: 1}") + "parameters: {rescale: true, density: 0.5}\n"
    assert refused(text) == (
        "'c.yml' is a configuration of mergekit that a recipe cannot express:\n"
        "- line 4: `weight` is missing, for every tensor or for some.\n"
        "- line 1: `rescale: true` with `ties`: what is kept is not made larger here.\n"
        "Without that, the mix would be another one.\n"
        "Change these lines; docs/from-mergekit.md lists what there is."
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("merge_method: ram\nmodels: [{model: m/a}]", "line 1: there is no method `ram` here"),
        ("modules: {default: {models: [{model: m/a}]}}", "line 1: there is no `merge_method`. Accepted: linear"),
        ("merge_method: linear\n", "line 1: there are no `models`, `slices` or `modules`."),
        ("base_model: m/a\nexperts: [{source_model: m/b}]\n", "line 2: a mixture of experts"),
        (models("m/a", merge_method="ties"), "line 1: `ties` needs a `base_model`."),
        (models("m/a", "m/b", merge_method="slerp", base_model="b/x", parameters="{t: 0.5}"), "got 2 others"),
        (models("m/a", merge_method="model_stock", base_model="b", parameters="{filter_wise: true}"), "whole tensors"),
        (TIES.replace("weight: 1}", "weight: [0.5, x]}"), "line 4: `weight` must be a number, a list of numbers"),
        (TIES.replace("weight: 1}", "weight: -1}"), "finite and 0 or more"),
        (
            models("m/b", merge_method="slerp", base_model="m/a", parameters="{t: 0.5}", tokenizer_source="o/t"),
            "line 4: the tokenizer of 'o/t', which is not mixed.",
        ),
        (
            TIES + "tokenizer: {tokens: {x: {source: {kind: model_token, model: m/a, token_id: 3}}}}\n",
            "line 6: the row of 'x' by the id of another token",
        ),
        (TIES + "tokenizer: {tokens: {x: {force: true}}}\n", "line 6: 'x' has no `source`."),
        ("merge_method: linear\nmodels: [{model: [1]}]", "a model must be a name, got [1]."),
        (STACK.replace("[0, 3]", "[0]"), "line 3: `layer_range` must be two whole numbers."),
        ("merge_method: [\n", "not valid YAML"),
        ("- merge_method: linear\n", "It must consist of mappings."),
    ],
)
def test_what_cannot_be_read_is_named(text: str, words: str) -> None:
    assert words in refused(text)


def test_recipe_files_may_be_configurations_of_mergekit() -> None:
    assert parse_recipe(TIES).method == "ties"
    assert parse_recipe(TIES).import_notes

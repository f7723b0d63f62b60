"""Layers that are cut out of models, moved, and stacked on those of others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from models import bert, llama, t5
from safetensors.torch import load_file

from cocktail_hub import check, mix
from cocktail_hub.compat.layers import Layers
from cocktail_hub.errors import IncompatibleError

pytestmark = pytest.mark.whole


def saved(folder: Path, model: Any, seed: int) -> str:
    """Save a model with weights of its own."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder)
    return str(folder)


def made(folder: Path, recipe: dict[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Mix, and return tensors and config."""
    path = mix(recipe, output=folder).path
    return load_file(path / "model.safetensors"), json.loads((path / "config.json").read_text())


@pytest.fixture
def two(tmp_path: Path) -> list[str]:
    return [saved(tmp_path / f"m{seed}", llama(), seed) for seed in (1, 2)]


def test_layers_are_stacked_between_the_first_embeddings_and_the_last_head(two: list[str], tmp_path: Path) -> None:
    parts = [(0, [0, 2]), (1, [1, 2]), (0, [1, 2])]
    ingredients = [{"model": two[index], "layer_range": layers} for index, layers in parts]
    tensors, config = made(tmp_path / "mix", {"method": "passthrough", "ingredients": ingredients})
    one, other = (load_file(Path(folder, "model.safetensors")) for folder in two)
    assert config["num_hidden_layers"] == 4
    assert len(tensors) == len(one) + 2 * sum(name.startswith("model.layers.0.") for name in one)
    q = "model.layers.{}.self_attn.q_proj.weight"
    sources = [one[q.format(0)], one[q.format(1)], other[q.format(1)], one[q.format(1)]]
    assert all(torch.equal(tensors[q.format(index)], source) for index, source in enumerate(sources))
    for name in ("model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"):
        assert torch.equal(tensors[name], one[name])


def test_layers_of_a_stack_are_scaled(two: list[str], tmp_path: Path) -> None:
    rules = [{"match": "*o_proj*", "value": 0.5}, {"value": 1.0}]
    stack = [
        {"model": two[0], "layer_range": [0, 2]},
        {"model": two[1], "layer_range": [0, 1], "parameters": {"scale": rules}},
    ]
    tensors, _ = made(tmp_path / "mix", {"method": "passthrough", "ingredients": stack})
    other = load_file(Path(two[1], "model.safetensors"))
    name = "model.layers.{}.self_attn.{}_proj.weight"
    assert torch.equal(tensors[name.format(2, "o")], other[name.format(0, "o")] * 0.5)
    assert torch.equal(tensors[name.format(2, "q")], other[name.format(0, "q")])
    assert torch.equal(tensors["lm_head.weight"], other["lm_head.weight"])


def test_any_method_mixes_some_layers(two: list[str], tmp_path: Path) -> None:
    ranges = ([1, 2], [0, 1])
    mixed = [{"model": model, "layer_range": r, "weight": 0.5} for model, r in zip(two, ranges, strict=True)]
    tensors, config = made(tmp_path / "mix", {"ingredients": mixed})
    one, other = (load_file(Path(folder, "model.safetensors")) for folder in two)
    name = "model.layers.{}.mlp.up_proj.weight"
    assert config["num_hidden_layers"] == 1
    assert torch.equal(tensors[name.format(0)], (one[name.format(1)].double() + other[name.format(0)]).div(2).float())
    assert name.format(1) not in tensors


def test_the_layers_of_a_bert_are_told_by_their_names(tmp_path: Path) -> None:
    model = saved(tmp_path / "m", bert(), 1)
    stack = [{"model": model, "layer_range": [0, 2]}, {"model": model, "layer_range": [0, 2]}]
    tensors, config = made(tmp_path / "mix", {"method": "passthrough", "ingredients": stack})
    assert config["num_hidden_layers"] == 4
    name = "encoder.layer.{}.output.dense.bias"
    assert torch.equal(tensors[name.format(3)], load_file(Path(model, "model.safetensors"))[name.format(1)])


def test_lists_of_the_config_have_an_entry_for_each_layer() -> None:
    text = {"num_hidden_layers": 3, "layer_types": ["full", "sliding", "full"], "eos_token_ids": [1, 2, 3]}
    configs = [{"text_config": text, "architectures": ["X"]}, {"text_config": text, "architectures": ["X"]}]
    layers = Layers.of(["a", "b"], configs, [(0, 2), (1, 3)], stack=True)
    changed = {"num_hidden_layers": 4, "layer_types": ["full", "sliding", "sliding", "full"]}
    assert layers.configs(configs)[0] == {"text_config": text | changed, "architectures": ["X"]}


def test_layers_in_lists_of_the_config_are_numbered_anew() -> None:
    config = {"num_hidden_layers": 6, "mlp_only_layers": [0, 3, 5], "no_rope_layers": [1, 1, 1, 0, 1, 1]}
    other = config | {"mlp_only_layers": None, "no_rope_layers": [0, 1, 0, 1, 0, 1]}
    layers = Layers.of(["a", "b", "a"], [config, other, config], [(1, 4), (2, 4), (3, 6)], stack=True)
    assert layers.configs([config, other, config])[0] == {
        "num_hidden_layers": 8,
        "mlp_only_layers": [2, 5, 7],
        "no_rope_layers": [1, 1, 0, 0, 1, 0, 1, 1],
    }
    alone = Layers.of(["a"], [config], [(3, 6)], stack=False).configs([config])[0]
    assert alone["mlp_only_layers"] == [0, 2]


def test_a_list_that_may_number_layers_is_refused() -> None:
    config = {"num_hidden_layers": 6, "odd_layer_ids": [0, 3]}
    with pytest.raises(IncompatibleError, match=r"`odd_layer_ids` of 'a' may number its layers"):
        Layers.of(["a"], [config], [(0, 3)], stack=False).configs([config])


@pytest.mark.parametrize(
    ("rule", "span", "kept"),
    [
        ({"sliding_window_pattern": 3}, (3, 6), True),
        ({"sliding_window_pattern": 3}, (1, 6), False),
        ({"sliding_window_pattern": "LLG"}, (1, 6), False),
        ({"sliding_window_pattern": 3, "layer_types": list("LLGLLG")}, (1, 6), True),
        ({"decoder_sparse_step": 1}, (1, 6), True),
        ({"first_k_dense_replace": 2}, (0, 4), True),
        ({"first_k_dense_replace": 2}, (1, 4), False),
        ({"max_window_layers": 2, "use_sliding_window": False}, (1, 4), True),
        ({"max_window_layers": 2, "use_sliding_window": True}, (2, 6), False),
    ],
)
def test_a_layer_keeps_its_kind_or_is_refused(rule: dict, span: tuple[int, int], kept: bool) -> None:
    config = {"num_hidden_layers": 6, **rule}
    layers = Layers.of(["a"], [config], [span], stack=False)
    if kept:
        assert layers.configs([config])[0]["num_hidden_layers"] == span[1] - span[0]
    else:
        with pytest.raises(IncompatibleError, match=r"Layer \d of 'a' would be layer \d of the mix, where `"):
            layers.configs([config])


def test_layers_that_a_model_lacks_are_refused(two: list[str]) -> None:
    recipe = {"method": "passthrough", "ingredients": [{"model": two[0], "layer_range": [1, 3]}]}
    with pytest.raises(
        IncompatibleError, match=r"`layer_range: \[1, 3\]` of .* has layers that it does not have: it has 2"
    ):
        mix(recipe)


def test_layers_of_two_towers_are_refused(tmp_path: Path) -> None:
    model = saved(tmp_path / "m", t5(), 1)
    with pytest.raises(
        IncompatibleError, match=r"is not clear: .*coder\.block\. and .*coder\.block\. all have 2 layers"
    ):
        mix({"method": "passthrough", "ingredients": [{"model": model, "layer_range": [0, 1], "weight": 1.0}]})


def test_a_model_without_a_number_of_layers_is_refused() -> None:
    with pytest.raises(IncompatibleError, match=r"does not say how many layers"):
        Layers.of(["a"], [{}], [(0, 1)], stack=False)


# -- recipes in recipes --------------------------------------------------------------------------------------------


def test_a_recipe_in_a_recipe_is_mixed_first_and_not_rounded(tmp_path: Path) -> None:
    folders = [saved(tmp_path / f"m{seed}", llama().bfloat16(), seed) for seed in (1, 2, 3)]
    inner = {"method": "passthrough", "ingredients": [{"model": folders[0]}], "parameters": {"scale": 0.3}}
    stage = {"model": "stage", "recipe": inner, "weight": 1.0}
    outer = {
        "method": "task_arithmetic",
        "base": folders[1],
        "ingredients": [stage, {"model": folders[2], "weight": 0.5}],
    }
    tensors, config = made(tmp_path / "mix", outer | {"dtype": "bfloat16"})
    name = "model.layers.1.mlp.up_proj.weight"
    one, base, other = (load_file(Path(folder, "model.safetensors"))[name].float() for folder in folders)
    expected = (base + (one * 0.3 - base) + 0.5 * (other - base)).bfloat16()
    assert config["dtype"] == "bfloat16"
    assert (tensors[name] == expected).float().mean() > 0.99
    rounded = (base + ((one * 0.3).bfloat16() - base) + 0.5 * (other - base)).bfloat16()
    assert (tensors[name] == rounded).float().mean() < 0.9


def test_a_recipe_in_a_recipe_is_checked_without_mixing_it(two: list[str], tmp_path: Path) -> None:
    short = saved(tmp_path / "short", llama(), 3)
    inner = {"method": "passthrough", "ingredients": [{"model": short, "layer_range": [0, 1]}]}
    parts = [{"model": "stage", "recipe": inner, "weight": 0.5}, {"model": two[0], "weight": 0.5}]
    with pytest.raises(IncompatibleError, match="'stage'"):
        check({"ingredients": parts})
    assert check({"ingredients": [parts[0] | {"weight": 1.0}], "method": "passthrough"}).tensors == 12

from __future__ import annotations

import itertools
import json
import math

import models
import pytest
import torch
from safetensors.torch import load_file, save_file

from cocktail_hub import MixOptions, compare
from cocktail_hub.errors import RecipeError
from cocktail_hub.recipe import Recipe
from cocktail_hub.recipe.reference import ModelReference
from cocktail_hub.search import compare as module
from cocktail_hub.search.compare import Comparison, Part, recipe_of_task_vectors

pytestmark = pytest.mark.whole


def part(gram, base=10.0):
    none = tuple(tuple(0.0 for _ in gram) for _ in gram)
    return Part(numel=4, base=base, gram=tuple(map(tuple, gram)), both=none, against=none)


def comparison(gram):
    names = tuple(f"acme/{letter}" for letter in "abc"[: len(gram)])
    return Comparison(base="acme/base", models=names, whole=part(gram), parts={})


@pytest.fixture
def tuned(tmp_path):
    """A base and three fine-tunes of it, in folders."""
    folders = [models.save("llama", 3, tmp_path / "base")]
    for seed, letter in enumerate("abc", 1):
        folder = models.save("llama", 3, tmp_path / letter)
        tensors = load_file(folder / models.WEIGHTS)
        generator = torch.Generator().manual_seed(seed)
        for tensor in tensors.values():
            tensor.add_((torch.rand(tensor.shape, generator=generator) - 0.3).round(decimals=1) * seed * 0.01)
        save_file(tensors, folder / models.WEIGHTS, metadata={"format": "pt"})
        folders.append(folder)
    return folders


def by_hand(folders, only=""):
    base, *others = (load_file(folder / models.WEIGHTS) for folder in folders)
    names = sorted(name for name in base if only in name)
    flat = [torch.cat([tensors[name].double().flatten() for name in names]) for tensors in (base, *others)]
    return flat[0], [other - flat[0] for other in flat[1:]]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("low_disk", [False, True])
def test_lengths_cosines_and_signs_are_those_of_the_task_vectors(tuned, threads, low_disk, monkeypatch):
    monkeypatch.setattr(module, "COMPARE_FORMAT", f"{threads} {low_disk}")
    options = MixOptions(threads=threads, low_disk=low_disk)
    found = compare(list(map(str, tuned[1:])), base=str(tuned[0]), options=options)
    base, vectors = by_hand(tuned)
    assert found.whole.numel == len(base)
    assert found.whole.base == pytest.approx(base.norm().item(), rel=1e-12)
    for i, j in itertools.product(range(3), repeat=2):
        a, b = vectors[i], vectors[j]
        cosine = (a @ b / a.norm() / b.norm()).item()
        assert found.whole.cosines[i][j] == pytest.approx(cosine, rel=1e-12, abs=1e-15)
        if i != j:
            assert found.whole.both[i][j] == ((a != 0) & (b != 0)).sum()
            assert found.whole.against[i][j] == ((a > 0) & (b < 0) | (a < 0) & (b > 0)).sum()


def test_a_layer_has_numbers_of_its_own_and_layers_come_in_order(tuned):
    found = compare(list(map(str, tuned[1:])), base=str(tuned[0]))
    assert list(found.parts) == [module.REST, "model.layers.0", "model.layers.1"]
    base, vectors = by_hand(tuned, "layers.1.")
    layer = found.parts["model.layers.1"]
    assert layer.relative == pytest.approx([(v.norm() / base.norm()).item() for v in vectors], rel=1e-12)
    assert sum(each.numel for each in found.parts.values()) == found.whole.numel


def test_what_was_measured_is_not_measured_again(tuned, monkeypatch):
    recipe = {"method": "ties", "base": str(tuned[0]), "ingredients": [{"model": str(tuned[1]), "weight": 1}]}
    first = compare(recipe)
    monkeypatch.setattr(module, "measure_parts", None)
    again = compare({**recipe, "method": "task_arithmetic", "parameters": {"lambda": 0.3}})
    assert again == first
    assert json.loads(json.dumps(again.to_dict()))["models"] == [str(tuned[1])]


def test_the_base_of_adapters_is_known_and_a_base_among_the_ingredients_is_left_out():
    base = ModelReference(model="acme/base", revision="1" * 40)
    adapter = {"model": "acme/lora", "base": base.to_dict(), "weight": 0.5}
    recipe = Recipe.from_dict({"ingredients": [adapter, {"model": "acme/base", "revision": "1" * 40, "weight": 0.5}]})
    found = recipe_of_task_vectors(recipe, None)
    assert found.base == base
    assert [ingredient.model for ingredient in found.ingredients] == ["acme/lora"]
    assert found.weights == (1.0,)


def test_an_anchor_is_compared_like_the_others():
    data = {
        "anchor": {"model": "acme/tuned", "share": 0.7},
        "ingredients": [{"model": "acme/base", "revision": "1" * 40}, "acme/other", "acme/third"],
        "weighting": {"rule": "uniform"},
    }
    base = ModelReference(model="acme/base", revision="1" * 40)
    found = recipe_of_task_vectors(Recipe.from_dict(data), base)
    assert [ingredient.model for ingredient in found.ingredients] == ["acme/tuned", "acme/other", "acme/third"]


def test_without_a_base_the_option_is_named():
    recipe = Recipe.from_dict({"ingredients": [{"model": "a/a", "weight": 0.5}, {"model": "a/b", "weight": 0.5}]})
    with pytest.raises(RecipeError, match=r"no `base`(.|\n)*Name that model: `--base org/name`"):
        recipe_of_task_vectors(recipe, None)
    pinned = {"model": "a/a", "revision": "1" * 40}
    alike = Recipe.from_dict({"ingredients": [{**pinned, "weight": 1}, {**pinned, "weight": 0}]})
    with pytest.raises(RecipeError, match="no model beside its base 'a/a@1"):
        recipe_of_task_vectors(alike, ModelReference(**pinned))


@pytest.mark.parametrize(("gram", "words"), [
    ([[4.0]], "One task vector"),
    ([[4.0, 0.0], [0.0, 0.0]], "'acme/b' is the base itself"),
    ([[1.0, 0.9], [0.9, 1.0]], "learnt much the same (mean cosine 0.90)"),
    ([[1.0, 0.02], [0.02, 1.0]], "learnt different things (mean cosine 0.02)"),
    ([[1.0, -0.2], [-0.2, 1.0]], "'acme/a' and 'acme/b' work against each other (cosine -0.20)"),
    ([[1.0, 0.0], [0.0, 25.0]], "'acme/b' went 5.0 times as far"),
])  # fmt: skip
def test_a_sentence_says_which_methods_fit(gram, words):
    assert words in " ".join(comparison(gram).sentences)


def test_the_average_and_the_sum_are_told_as_parts_of_the_base():
    found = comparison([[1.0, 0.0], [0.0, 1.0]]).sentences[0]
    assert (
        found == f"Their average moves the base by {math.sqrt(2) / 20:.2%}, their sum by 14.14%, one model by 10.00%."
    )


def test_heat_maps_are_drawn(tuned, tmp_path):
    pytest.importorskip("matplotlib")
    compare(list(map(str, tuned[1:])), base=str(tuned[0])).plot(tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")

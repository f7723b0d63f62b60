from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import models
import pytest
import torch
import transformers

from cocktail_hub import AutoCocktailModel, mix, publish

pytestmark = pytest.mark.whole

PASSAGES = [
    {"query": "where is the cat", "pos": ["the cat sat on the mat"], "neg": ["a dog ran", "paris", "yes"]},
    {"query": "who ran", "pos": ["a dog ran in the park"], "neg": ["the cat sat", "rome is it"]},
]
ANSWERS = [{"input": "where is the pod", "output": "in the park"}, {"input": "the cat sat on", "output": "the mat"}]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COCKTAIL_HUB_CACHE", str(tmp_path / "cocktail"))
    return tmp_path / "cocktail"


def open_recipe(*names: str, **weighting) -> dict:
    return {"ingredients": [{"model": name} for name in names], "weighting": weighting}


# -- the tokenizer of the mix reads for every ingredient -------------------------------------------------------------


def test_every_ingredient_is_scored_with_the_tokenizer_of_the_mix(tmp_path):
    """Losses per token compare only over the same tokens; the mix has the first ingredient's tokenizer."""
    first, second = models.pair("llama").folders
    plain = [one["loss"] for one in losses_of(first, second)]
    silent = transformers.AutoTokenizer.from_pretrained(second)
    silent.bos_token = "<unk>"
    silent.eos_token = "<unk>"
    other = tmp_path / "other"
    transformers.AutoModelForCausalLM.from_pretrained(second).save_pretrained(other)
    silent.save_pretrained(other)
    assert [one["loss"] for one in losses_of(first, other)] == plain
    assert losses_of(first, other, tokenizer=str(other))[0]["loss"] != plain[0]


def losses_of(*folders: Path, **keys) -> list[dict]:
    recipe = open_recipe(*map(str, folders), examples=ANSWERS) | keys
    return mix(recipe).recipe.evidence["ingredients"]


# -- publishing a recipe with open weights ----------------------------------------------------------------------------


def test_an_open_recipe_is_published_with_its_examples_and_loads(token, tmp_path, monkeypatch):
    (tmp_path / "mine.jsonl").write_text(
        '{"query": "who ran", "pos": ["a dog ran"], "neg": ["the cat sat", "rome"]}\n'
        '{"query": "where is it", "pos": ["in the park"], "neg": ["no"]}\n'
    )
    recipe = open_recipe(*models.published("bert").ids, examples=str(tmp_path / "mine.jsonl"), temperature=1.0)
    publish(recipe, "alice/open-published", as_="recipe", token=token)
    mine = mix(recipe, token=token)
    monkeypatch.setenv("COCKTAIL_HUB_CACHE", str(tmp_path / "theirs"))
    model = AutoCocktailModel.from_pretrained("alice/open-published", token=token)
    found = model.cocktail
    assert [i["weight"] for i in found["ingredients"]] == pytest.approx(mine.recipe.weights, rel=1e-6)
    models.assert_holds(model, models.weights_of(mine.path))


# -- memory ----------------------------------------------------------------------------------------------------------

MEASURE = """
import resource, sys
from cocktail_hub import score
import torch, transformers
torch.set_num_threads(1)
recipe = {"ingredients": [{"model": name} for name in sys.argv[1:]], "weighting": {"examples": [
    {"input": "where is the pod", "output": "in the park"}]}}
score(recipe)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no resource module")
def test_scoring_ten_models_takes_the_memory_of_one(tmp_path):
    config = transformers.LlamaConfig(
        vocab_size=len(models.WORDS) + 4,
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=3,
        num_attention_heads=8,
        max_position_embeddings=64,
    )
    folders = []
    for seed in range(10):
        torch.manual_seed(seed)
        folders.append(tmp_path / f"model-{seed}")
        transformers.LlamaForCausalLM(config).save_pretrained(folders[-1])
        models.text_tokenizer().save_pretrained(folders[-1])
    size = (folders[0] / "model.safetensors").stat().st_size
    assert 30e6 < size < 60e6
    grown = peak(folders) - peak(folders[:2])
    assert grown < 1.5 * size  # holding all ten would take 8 more


def peak(folders: list[Path]) -> float:
    """Peak resident memory in bytes of a process that scores some models for the first time."""
    cache = folders[0].parent / f"cache-{len(folders)}"
    unit = 1 if sys.platform == "darwin" else 1024
    command = [sys.executable, "-c", MEASURE, *map(str, folders)]
    run = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "COCKTAIL_HUB_CACHE": str(cache)}
    )
    return unit * float(run.stdout.split()[-1])

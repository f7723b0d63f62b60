from __future__ import annotations

import json
import shutil
from pathlib import Path

import models
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from cocktail_hub import MixOptions, Recipe, mix, score
from cocktail_hub.compat.check import check_models
from cocktail_hub.hub import Hub
from cocktail_hub.merge.materialize import materialize
from cocktail_hub.resolve.resolve import resolve

pytestmark = [
    pytest.mark.whole,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),  # peft asks
]
ANSWERS = [
    {"input": "where is the pod", "output": "in the park"},
    {"input": "the cat sat on", "output": "the mat"},
    {"input": "is it paris", "output": "no it is rome"},
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COCKTAIL_HUB_CACHE", str(tmp_path / "cocktail"))
    return tmp_path / "cocktail"


def recipe_of(*folders: Path, **weighting) -> dict:
    return {"ingredients": [{"model": str(folder)} for folder in folders], "weighting": {"rule": "uniform"} | weighting}


def save_adapter(folder: Path, base: Path, seed: int) -> Path:
    """A LoRA adapter on a Llama, with the tokenizer that it was trained with."""
    from peft import LoraConfig, get_peft_model

    model = transformers.LlamaForCausalLM.from_pretrained(base)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"]))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in adapted.named_parameters():
            if "lora_" in name:
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.2)
    adapted.save_pretrained(folder)
    models.text_tokenizer().save_pretrained(folder)
    return folder


def merged_by_peft(adapter: Path, base: Path, folder: Path) -> Path:
    from peft import PeftModel

    model = transformers.LlamaForCausalLM.from_pretrained(base)
    PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(folder)
    models.text_tokenizer().save_pretrained(folder)
    return folder


def save_prefixed(source: Path, folder: Path) -> Path:
    """The same model, saved by a trainer that wraps it."""
    shutil.copytree(source, folder)
    tensors = {f"module.{name}": tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def written(index: int, scratch: Path, *folders: Path) -> Path:
    """The folder of one ingredient, as scoring gets it."""
    pinned = resolve(Recipe.from_dict(recipe_of(*folders)), MixOptions().hub)
    checked = check_models(pinned, Hub())
    scratch.mkdir()
    return materialize(checked.models[index], index, checked.components, scratch)


def test_an_ordinary_ingredient_is_taken_where_it_lies(tmp_path):
    folders = models.pair("llama").folders
    assert written(1, tmp_path / "scratch", *folders) == folders[1]
    assert not any((tmp_path / "scratch").iterdir())


def test_an_adapter_is_written_out_with_its_change_added(tmp_path):
    base = models.pair("llama").folders[0]
    adapter = save_adapter(tmp_path / "adapter", base, 1)
    folder = written(1, tmp_path / "scratch", base, adapter)
    assert folder == tmp_path / "scratch"
    loaded, info = transformers.LlamaForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    expected = models.weights_of(merged_by_peft(adapter, base, tmp_path / "merged"))
    for name, tensor in loaded.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], msg=name)
    assert transformers.AutoTokenizer.from_pretrained(folder)("the cat").input_ids


def test_an_oddly_named_checkpoint_is_written_out_under_the_names_that_load(tmp_path):
    first, second = models.pair("llama").folders
    odd = save_prefixed(second, tmp_path / "odd")
    folder = written(1, tmp_path / "scratch", first, odd)
    assert folder == tmp_path / "scratch"
    models.assert_holds(transformers.LlamaForCausalLM.from_pretrained(folder), models.weights_of(second))


def test_weights_that_a_config_names_are_written_out_as_the_standard_files(tmp_path):
    first, second = models.pair("llama").folders
    odd = save_prefixed(second, tmp_path / "odd")
    (odd / "model.safetensors").rename(odd / "v2.safetensors")
    config = json.loads((odd / "config.json").read_text()) | {"transformers_weights": "v2.safetensors"}
    (odd / "config.json").write_text(json.dumps(config))
    folder = written(1, tmp_path / "scratch", first, odd)
    models.assert_holds(transformers.LlamaForCausalLM.from_pretrained(folder), models.weights_of(second))


def test_what_is_scored_is_what_is_mixed(tmp_path, monkeypatch):
    """An adapter and an oddly named checkpoint get the losses of the models that they stand for."""
    base, other = models.pair("llama").folders
    adapter = save_adapter(tmp_path / "adapter", base, 1)
    odd = save_prefixed(other, tmp_path / "odd")
    found = score(recipe_of(adapter, odd, rule="softmax", examples=ANSWERS))
    monkeypatch.setenv("COCKTAIL_HUB_CACHE", str(tmp_path / "another"))
    plain = score(
        recipe_of(merged_by_peft(adapter, base, tmp_path / "merged"), other, rule="softmax", examples=ANSWERS)
    )
    assert [one.mean for one in found.losses] == pytest.approx([one.mean for one in plain.losses], rel=1e-5)


def test_ten_adapters_need_the_room_of_one(tmp_path, own_cache, monkeypatch):
    from cocktail_hub.evaluation import scorer

    seen, original = [], scorer.score_folder

    def spy(folder, *args, **kwargs):
        seen.append(len(list((own_cache / "staging").rglob("*.safetensors"))))
        return original(folder, *args, **kwargs)

    monkeypatch.setattr(scorer, "score_folder", spy)
    base = models.pair("llama").folders[0]
    adapters = [save_adapter(tmp_path / f"adapter-{seed}", base, seed) for seed in range(3)]
    made = mix(recipe_of(*adapters, rule="softmax", examples=ANSWERS, temperature=1.0))
    assert seen == [1, 1, 1]
    assert not any((own_cache / "staging").iterdir())
    assert len(set(made.recipe.weights)) == 3

from __future__ import annotations

import json

import models
import pytest
import torch
import transformers
from adapter_helpers import llama, loaded, train
from safetensors.torch import load_file

from cocktail_hub import extract_lora

pytestmark = [
    pytest.mark.whole,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),  # peft's own
]
AUTO = transformers.AutoModelForCausalLM


@pytest.fixture
def adapters(tmp_path):
    """A base and two adapters of it, of other ranks, scales and modules, one of them rsLoRA."""
    base = tmp_path / "base"
    options = {"first": {"r": 2, "lora_alpha": 8, "target_modules": ["q_proj", "up_proj"]}}
    options["second"] = {"r": 3, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"], "use_rslora": True}
    models.fill(llama(), 0).save_pretrained(base)
    for seed, (name, given) in enumerate(options.items()):
        torch.manual_seed(seed)
        train(AUTO.from_pretrained(base), tmp_path / name, base, task_type="CAUSAL_LM", **given)
    return base, tmp_path / "first", tmp_path / "second"


def expected(base, weighted):
    """base + sum of weight * what each adapter adds, by PEFT, in float64."""
    start = AUTO.from_pretrained(base, dtype=torch.float32).state_dict()
    merged = [(weight, loaded(AUTO, base, folder)) for folder, weight in weighted]
    return {n: t.double() + sum(w * (m[n].double() - t.double()) for w, m in merged) for n, t in start.items()}


@pytest.mark.parametrize("recipe", [
    {"method": "linear", "weights": (0.7, 0.3)},
    {"method": "task_arithmetic", "weights": (1.0, -0.5), "parameters": {"lambda": 0.8}},
])  # fmt: skip
def test_adapters_are_added_up_exactly_without_the_weights_of_the_base(recipe, adapters, tmp_path, monkeypatch):
    base, *folders = adapters
    scale = recipe.get("parameters", {}).get("lambda", 1.0)
    weights = recipe.pop("weights")
    listed = [{"model": str(folder), "weight": w} for folder, w in zip(folders, weights, strict=True)]
    based = {"base": str(base)} if recipe["method"] != "linear" else {}
    monkeypatch.setattr("cocktail_hub.pipeline.mix.mix", None)
    adapter = extract_lora({**recipe, **based, "ingredients": listed}, output=tmp_path / "out")
    assert adapter.error == 0.0
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["r"] == 5
    assert set(config["rank_pattern"].values()) == {2, 3}
    wanted = expected(base, [(folder, w * scale) for folder, w in zip(folders, weights, strict=True)])
    found = loaded(AUTO, base, tmp_path / "out")
    assert all(torch.allclose(found[name].double(), tensor, atol=1e-6) for name, tensor in wanted.items())


def test_a_smaller_rank_is_the_nearest_with_its_error(adapters, tmp_path):
    base, *folders = adapters
    recipe = [{"model": str(folder), "weight": 0.5} for folder in folders]
    adapter = extract_lora(recipe, rank=3, output=tmp_path / "out")
    assert 0 < adapter.error < 0.5
    assert {part.rank for part in adapter.parts.values()} == {2, 3}
    wanted = expected(base, [(folder, 0.5) for folder in folders])
    found, start = loaded(AUTO, base, tmp_path / "out"), load_file(base / models.WEIGHTS)
    lost = sum(((found[n].double() - t) ** 2).sum() for n, t in wanted.items()) ** 0.5
    whole = sum(((start[n].double() - t) ** 2).sum() for n, t in wanted.items() if n in start) ** 0.5
    assert (lost / whole).item() == pytest.approx(adapter.error, rel=1e-4)


@pytest.mark.parametrize("other", [{"use_dora": True}, {"modules_to_save": ["lm_head"]}])
def test_what_factors_alone_cannot_tell_comes_from_the_mixed_weights(other, adapters, tmp_path):
    base, first, _ = adapters
    torch.manual_seed(5)
    train(AUTO.from_pretrained(base), tmp_path / "o", base, task_type="CAUSAL_LM", target_modules=["q_proj"], **other)
    recipe = [{"model": str(folder), "weight": 0.5} for folder in (first, tmp_path / "o")]
    adapter = extract_lora(recipe, rank=16, output=tmp_path / "out")
    assert adapter.error < 1e-5
    wanted = expected(base, [(folder, 0.5) for folder in (first, tmp_path / "o")])
    found = loaded(AUTO, base, tmp_path / "out")
    assert all(torch.allclose(found[name].double(), tensor, atol=1e-5) for name, tensor in wanted.items())

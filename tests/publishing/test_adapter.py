from __future__ import annotations

import json
import warnings
from pathlib import Path

import models
import peft
import pytest
import torch
import transformers
from adapter_helpers import gpt2, loaded
from huggingface_hub import HfApi, hf_hub_download
from safetensors.torch import load_file, save_file

from cocktail_hub import extract_lora, mix, publish
from cocktail_hub.errors import IncompatibleError, PublishError, RecipeError

pytestmark = pytest.mark.whole

FAMILIES = {
    "llama": transformers.AutoModelForCausalLM,
    "llama-tied": transformers.AutoModelForCausalLM,
    "bert": transformers.AutoModel,
    "reranker": transformers.AutoModelForSequenceClassification,
    "t5": transformers.AutoModelForSeq2SeqLM,
}


def distance(found, wanted):
    """Length of the difference between weights."""
    return sum(((found[name].double() - tensor.double()) ** 2).sum().item() for name, tensor in wanted.items()) ** 0.5


@pytest.mark.parametrize("family", FAMILIES)
def test_with_the_full_rank_peft_loads_the_fine_tuned_model(family, tmp_path):
    tuned, base = models.pair(family).folders
    adapter = extract_lora(str(tuned), str(base), rank=64, output=tmp_path / "out")
    assert adapter.error < 1e-6
    wanted = FAMILIES[family].from_pretrained(tuned, dtype=torch.float32).state_dict()
    found = loaded(FAMILIES[family], base, tmp_path / "out")
    assert all(torch.allclose(found[name], tensor, atol=1e-6) for name, tensor in wanted.items())
    made = mix([str(tmp_path / "out")] * 2, weights=[0.5, 0.5])
    ours = FAMILIES[family].from_pretrained(made.path, dtype=torch.float32).state_dict()
    assert all(torch.allclose(ours[name], tensor, atol=1e-6) for name, tensor in wanted.items())


def test_the_error_of_a_lower_rank_is_the_one_that_peft_shows(tmp_path):
    tuned, base = models.pair("llama").folders
    adapter = extract_lora(str(tuned), str(base), rank=3, output=tmp_path / "out")
    auto = FAMILIES["llama"]
    wanted = auto.from_pretrained(tuned, dtype=torch.float32).state_dict()
    start = auto.from_pretrained(base, dtype=torch.float32).state_dict()
    lost = distance(loaded(auto, base, tmp_path / "out"), wanted)
    assert 0.1 < adapter.error < 0.9
    assert lost / distance(start, wanted) == pytest.approx(adapter.error, rel=1e-4)
    worst = max(adapter.parts, key=lambda name: adapter.parts[name].error * adapter.parts[name].length)
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"{adapter.error:.3g}" in card
    assert f"`{worst}` | low rank | 3 |" in card


def test_an_error_takes_the_smallest_ranks_that_reach_it(tmp_path):
    tuned, base = models.pair("bert").folders
    adapter = extract_lora(str(tuned), str(base), rank=64, error=0.4, output=tmp_path / "out")
    low = [part for part in adapter.parts.values() if part.how == "low rank"]
    assert all(part.error <= 0.4 for part in low)
    assert len({part.rank for part in low}) > 1
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["r"] == config["lora_alpha"] == max(part.rank for part in low)
    assert config["rank_pattern"] == config["alpha_pattern"] != {}
    wanted = FAMILIES["bert"].from_pretrained(tuned, dtype=torch.float32).state_dict()
    start = FAMILIES["bert"].from_pretrained(base, dtype=torch.float32).state_dict()
    lost = distance(loaded(FAMILIES["bert"], base, tmp_path / "out"), wanted)
    assert lost / distance(start, wanted) == pytest.approx(adapter.error, rel=1e-4)


def test_with_matrices_only_the_file_has_factors_and_nothing_else(tmp_path):
    tuned, base = models.pair("llama").folders
    adapter = extract_lora(str(tuned), str(base), rank=64, matrices_only=True, output=tmp_path / "out")
    names = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert {name.rpartition(".lora_")[2] for name in names} == {"A.weight", "B.weight"}
    assert adapter.config["modules_to_save"] is None
    assert adapter.parts["model.norm.weight"].how == "left"
    assert adapter.error > 0.1


def test_matrices_stored_as_in_by_out_are_turned(tmp_path):
    for name, seed in (("tuned", 1), ("base", 2)):
        models.fill(gpt2(), seed).save_pretrained(tmp_path / name)
    extract_lora(str(tmp_path / "tuned"), str(tmp_path / "base"), rank=64, output=tmp_path / "out")
    auto = transformers.AutoModelForCausalLM
    wanted = auto.from_pretrained(tmp_path / "tuned").state_dict()
    found = loaded(auto, tmp_path / "base", tmp_path / "out")
    assert all(torch.allclose(found[name], tensor, atol=1e-6) for name, tensor in wanted.items())


def test_grown_embeddings_are_whole_with_their_tokenizer(tmp_path):
    tuned, base = models.save("llama", 1, tmp_path / "tuned"), models.save("llama", 2, tmp_path / "base")
    model = transformers.AutoModelForCausalLM.from_pretrained(tuned)
    model.resize_token_embeddings(model.config.vocab_size + 3, mean_resizing=False)
    model.save_pretrained(tuned)
    adapter = extract_lora(str(tuned), str(base), rank=64, output=tmp_path / "out")
    assert adapter.parts["model.embed_tokens.weight"].how == "whole"
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (tuned / "tokenizer.json").read_bytes()
    start = transformers.AutoModelForCausalLM.from_pretrained(base)
    start.resize_token_embeddings(model.config.vocab_size, mean_resizing=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = peft.PeftModel.from_pretrained(start, tmp_path / "out").merge_and_unload().state_dict()
    assert all(torch.allclose(found[name], tensor, atol=1e-6) for name, tensor in model.state_dict().items())


def test_a_mix_becomes_an_adapter_of_its_base(tmp_path):
    tuned, base = models.pair("llama").folders
    recipe = {"method": "task_arithmetic", "base": str(base), "ingredients": [{"model": str(tuned), "weight": 0.5}]}
    extract_lora(recipe, rank=64, output=tmp_path / "out")
    found = loaded(FAMILIES["llama"], base, tmp_path / "out")
    pairs = [load_file(folder / models.WEIGHTS) for folder in (tuned, base)]
    assert all(torch.allclose(found[n], (pairs[0][n] + pairs[1][n]) / 2, atol=1e-6) for n in pairs[0])


def test_unchanged_tensors_are_not_in_the_adapter(tmp_path):
    base = models.save("llama", 2, tmp_path / "base")
    tuned = models.save("llama", 2, tmp_path / "tuned")
    tensors = load_file(tuned / models.WEIGHTS)
    tensors["model.layers.1.self_attn.q_proj.weight"][0] += 1
    save_file(tensors, tuned / models.WEIGHTS, metadata={"format": "pt"})
    adapter = extract_lora(str(tuned), str(base), rank=8)
    assert list(adapter.parts) == ["model.layers.1.self_attn.q_proj.weight"]
    with pytest.raises(IncompatibleError, match="has the weights of its base"):
        extract_lora(str(base), str(base))


@pytest.mark.parametrize(("source", "base", "options", "words"), [
    ("llama", "bert", {}, "is a llama, but its base '.*' is a bert"),
    ("llama", None, {}, "no `base`(.|\n)*`--base org/name`"),
    ("llama", "llama", {"rank": 0}, "rank 0"),
    ("llama", "llama", {"error": 1.0}, "error of 1"),
])  # fmt: skip
def test_slips_are_refused_with_a_way_out(source, base, options, words):
    other = None if base is None else str(models.pair(base).folders[1])
    with pytest.raises((IncompatibleError, RecipeError), match=words):
        extract_lora(str(models.pair(source).folders[0]), other, **options)


def test_a_folder_with_files_is_not_written_to(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    tuned, base = models.pair("llama").folders
    with pytest.raises(RecipeError, match="is not empty"):
        extract_lora(str(tuned), str(base), rank=1, output=tmp_path)
    with pytest.raises(RecipeError, match="is not empty"):
        extract_lora(str(tuned), str(base), rank=1).save(str(tmp_path))


def test_an_adapter_is_published_with_its_base_at_its_commit(hub):
    tuned, base = models.published("llama").ids
    info = publish(
        [{"model": tuned, "weight": 0.5}, {"model": base, "weight": 0.5}],
        "acme/as-adapter",
        as_="adapter",
        lora={"base": base, "rank": 4},
        token=models.TOKEN,
    )
    assert info.oid
    config = json.loads(Path(hf_hub_download("acme/as-adapter", "adapter_config.json", token=models.TOKEN)).read_text())
    assert config["base_model_name_or_path"] == base
    assert config["revision"] == HfApi(token=models.TOKEN).model_info(base).sha
    card = Path(hf_hub_download("acme/as-adapter", "README.md", token=models.TOKEN)).read_text()
    assert f"base_model: {base}\nbase_model_relation: adapter" in card
    assert "Relative error overall" in card
    assert 'AutoPeftModelForCausalLM.from_pretrained("acme/as-adapter")' in card


def test_an_adapter_of_a_local_base_is_not_published():
    tuned, base = map(str, models.pair("llama").folders)
    half = [{"model": tuned, "weight": 0.5}, {"model": base, "weight": 0.5}]
    with pytest.raises(PublishError, match="Nobody else could load the adapter"):
        publish(half, "acme/no", as_="adapter", lora={"base": base, "rank": 1}, token=models.TOKEN)


def test_copies_of_a_tied_tensor_that_differ_are_refused(tmp_path):
    tuned, base = models.pair("t5").folders
    extract_lora(str(tuned), str(base), rank=64, output=tmp_path / "out")
    path = tmp_path / "out" / "adapter_model.safetensors"
    tensors = load_file(path)
    (name,) = (name for name in tensors if name.endswith("decoder.embed_tokens.weight"))
    tensors[name] += 1
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(IncompatibleError, match=r"has different values for '.*', which are one tensor in its base"):
        mix([str(tmp_path / "out")] * 2, weights=[0.5, 0.5])

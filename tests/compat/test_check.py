"""Ingredients of every kind, from the Hub to a folder that loads: cut differently, pickled, adapters, quantised."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import embedders
import models
import peft
import pytest
import torch
import transformers as hf
from huggingface_hub import HfApi
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router
from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding

from cocktail_hub import MixOptions, Recipe, check, mix, publish
from cocktail_hub.compat.check import check_models
from cocktail_hub.errors import CheckpointError, IncompatibleError
from cocktail_hub.hub import Hub
from cocktail_hub.merge.materialize import materialize
from cocktail_hub.resolve.resolve import resolve

if TYPE_CHECKING:
    from cocktail_hub.testing import LoopbackHub

pytestmark = [
    pytest.mark.whole,
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning"),  # what peft says as it saves
]

WEIGHTS = {"pytorch_model": "model.safetensors", "adapter_model": "adapter_model.safetensors"}
"""Stem of a `.bin` file -> the file of the same content."""


def push(folder: Path, name: str) -> str:
    api = HfApi(token=models.TOKEN)
    api.create_repo(f"acme/{name}", exist_ok=True)
    api.upload_folder(repo_id=f"acme/{name}", folder_path=folder)
    return f"acme/{name}"


def halves(*names: str, **keys: Any) -> dict[str, Any]:
    return {"ingredients": [{"model": name, "weight": 0.5} for name in names], **keys}


def qwen2_moe(seed: int) -> hf.PreTrainedModel:
    torch.manual_seed(seed)
    config = hf.Qwen2MoeConfig(
        vocab_size=20,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        moe_intermediate_size=8,
        shared_expert_intermediate_size=8,
        num_experts=4,
        num_experts_per_tok=2,
        bos_token_id=2,
        eos_token_id=3,
        pad_token_id=0,
    )
    return hf.Qwen2MoeForCausalLM(config)


def loads_as_the_mean(path: Path, one: hf.PreTrainedModel, two: hf.PreTrainedModel) -> None:
    loaded, info = type(one).from_pretrained(path, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    states = one.state_dict(), two.state_dict()
    for name, tensor in loaded.state_dict().items():
        torch.testing.assert_close(tensor, (states[0][name] + states[1][name]) / 2, rtol=1e-6, atol=1e-7)


def test_experts_one_by_one_mix_with_fused_ones(hub: LoopbackHub, tmp_path: Path) -> None:
    one, two = qwen2_moe(0), qwen2_moe(1)
    one.save_pretrained(tmp_path / "one")
    two.save_pretrained(tmp_path / "two", save_original_format=False)
    mixed = mix(halves(push(tmp_path / "one", "moe-parts"), push(tmp_path / "two", "moe-fused")))
    assert load_file(mixed.path / "model.safetensors").keys() == load_file(tmp_path / "one/model.safetensors").keys()
    loads_as_the_mean(mixed.path, one, two)


def test_a_pickled_checkpoint_is_checked_by_ranges_alone(hub: LoopbackHub, tmp_path: Path) -> None:
    torch.manual_seed(0)
    one, two = models.bert(), models.bert()
    one.save_pretrained(tmp_path / "one")
    two.save_pretrained(tmp_path / "two")
    state = load_file(tmp_path / "two/model.safetensors") | {"pooler.padding": torch.zeros(3_000_000)}
    (tmp_path / "two/model.safetensors").unlink()
    torch.save(state, tmp_path / "two/pytorch_model.bin")
    names = push(tmp_path / "one", "bert-safe"), push(tmp_path / "two", "bert-pickled")
    hub.clear_requests()
    with pytest.raises(IncompatibleError, match=r"it has 'pooler\.padding', which 'acme/bert-safe' lacks"):
        mix(halves(*names))
    assert hub.sent() < 2_000_000
    mixed = mix(halves(*names, missing={r"pooler\.padding": "drop"}))
    loads_as_the_mean(mixed.path, one, two)


def adapter(base: str, name: str, root: Path, seed: int, *, named: str = "") -> hf.PreTrainedModel:
    """Push a LoRA adapter with a head of three labels, and `named` as its base; return what PEFT merges it into."""
    torch.manual_seed(seed)
    model = hf.BertForSequenceClassification.from_pretrained(base, num_labels=3)
    model.name_or_path = model.config.name_or_path = named or base
    config = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"], modules_to_save=["classifier"])
    adapted = peft.get_peft_model(model, config)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    assert adapted.peft_config["default"].base_model_name_or_path == (named or base)
    adapted.save_pretrained(root / name)
    push(root / name, name)
    return adapted.merge_and_unload(safe_merge=True)


def repickled(folder: Path, stem: str, device: str, *, zipped: bool = True) -> None:
    """Turn the weights of a folder into a `.bin` file that was saved from a device."""
    state = load_file(folder / WEIGHTS[stem])
    (folder / WEIGHTS[stem]).unlink()
    with models.saved_from(device):
        torch.save(state, folder / f"{stem}.bin", _use_new_zipfile_serialization=zipped)


@pytest.mark.parametrize(
    ("device", "zipped"), [("cuda:0", True), ("mps", True), ("xpu:0", True), ("npu:0", True), ("cuda:0", False)]
)
@pytest.mark.parametrize("low_disk", [False, True])
def test_what_was_pickled_elsewhere_or_long_ago_mixes_as_if_saved_here(
    hub: LoopbackHub, tmp_path: Path, device: str, zipped: bool, low_disk: bool
) -> None:
    torch.manual_seed(0)
    one, two = models.bert(), models.bert()
    one.save_pretrained(tmp_path / "one")
    two.save_pretrained(tmp_path / "two")
    repickled(tmp_path / "two", "pytorch_model", device, zipped=zipped)
    here = mix(halves(str(tmp_path / "one"), str(tmp_path / "two")), options=MixOptions(low_disk=low_disk))
    loads_as_the_mean(here.path, one, two)
    names = (push(tmp_path / kind, f"{kind}-{device[:3]}-{zipped}-{low_disk}".lower()) for kind in ("one", "two"))
    loads_as_the_mean(mix(halves(*names), options=MixOptions(low_disk=low_disk)).path, one, two)


def test_an_adapter_of_a_recipe_mixes_as_what_peft_merges_it_into(hub: LoopbackHub, tmp_path: Path) -> None:
    ids = []
    for seed, weight in ((0, 0.75), (1, 0.25)):
        torch.manual_seed(seed)
        models.bert().save_pretrained(tmp_path / f"part-{seed}")
        models.words_tokenizer().save_pretrained(tmp_path / f"part-{seed}")
        ids.append({"model": push(tmp_path / f"part-{seed}", f"adapted-part-{seed}"), "weight": weight})
    publish({"ingredients": ids}, "acme/adapted-recipe", as_="recipe", token=models.TOKEN)
    parts = str(mix("acme/adapted-recipe").path)
    merged = [adapter(parts, f"on-recipe-{seed}", tmp_path, seed, named="acme/adapted-recipe") for seed in (1, 2)]
    mixed = mix(halves("acme/on-recipe-1", "acme/on-recipe-2"))
    loads_as_the_mean(mixed.path, *merged)
    assert [i.base and i.base.model for i in mixed.recipe.ingredients] == [i["model"] for i in ids] * 2
    assert (
        "[acme/adapted-recipe](https://huggingface.co/acme/adapted-recipe/tree/"
        in (mixed.path / "README.md").read_text()
    )
    found = check(halves("acme/on-recipe-1", "acme/on-recipe-2"), cache_dir=tmp_path / "empty")
    assert [model.weight for model in found.models] == [0.375, 0.125, 0.375, 0.125]
    assert sum(model.to_download for model in found.models) == 2 * found.to_download > 0


def test_adapters_on_one_base_mix_as_what_peft_merges_them_into(hub: LoopbackHub, tmp_path: Path) -> None:
    torch.manual_seed(0)
    models.bert().save_pretrained(tmp_path / "base")
    models.words_tokenizer().save_pretrained(tmp_path / "base")
    base = push(tmp_path / "base", "adapted-base")
    merged = [adapter(base, f"adapter-{seed}", tmp_path, seed) for seed in (1, 2)]
    mixed = mix(halves("acme/adapter-1", "acme/adapter-2"))
    loads_as_the_mean(mixed.path, *merged)
    config = json.loads((mixed.path / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert len(config["id2label"]) == 3
    assert [ingredient.base.model for ingredient in mixed.recipe.ingredients if ingredient.base] == [base, base]
    assert (mixed.path / "tokenizer.json").is_file()


def test_an_adapter_that_was_pickled_from_another_device_mixes_all_the_same(hub: LoopbackHub, tmp_path: Path) -> None:
    torch.manual_seed(0)
    models.bert().save_pretrained(tmp_path / "base")
    base = push(tmp_path / "base", "device-base")
    merged = [adapter(base, f"device-adapter-{seed}", tmp_path, seed) for seed in (1, 2)]
    folders = [tmp_path / f"device-adapter-{seed}" for seed in (1, 2)]
    for folder in folders:
        repickled(folder, "adapter_model", "cuda:0")
    loads_as_the_mean(mix(halves(*map(str, folders))).path, *merged)


def test_an_adapter_is_scored_with_the_class_that_it_was_trained_with(hub: LoopbackHub, tmp_path: Path) -> None:
    torch.manual_seed(0)
    models.bert().save_pretrained(tmp_path / "base")
    models.words_tokenizer().save_pretrained(tmp_path / "base")
    base = push(tmp_path / "base", "scored-base")
    adapter(base, "scored-adapter", tmp_path, 1)
    pinned = resolve(Recipe.from_dict(halves("acme/scored-adapter", "acme/scored-adapter")), Hub())
    checked = check_models(pinned, Hub())
    (tmp_path / "scratch").mkdir()
    folder = materialize(checked.models[0], 0, checked.components, tmp_path / "scratch")
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert len(config["id2label"]) == 3
    _, info = hf.AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]


def test_a_look_ahead_counts_what_adapters_adapt_once(hub: LoopbackHub, tmp_path: Path) -> None:
    torch.manual_seed(0)
    models.bert().save_pretrained(tmp_path / "base")
    models.words_tokenizer().save_pretrained(tmp_path / "base")
    base = push(tmp_path / "base", "counted-base")
    for seed in (1, 2):
        adapter(base, f"counted-{seed}", tmp_path, seed)
    found = check(halves("acme/counted-1", "acme/counted-2"), cache_dir=tmp_path / "empty")
    whole = (tmp_path / "base" / "model.safetensors").stat().st_size
    assert whole < found.to_download < 2 * whole
    assert found.peak_disk == found.to_download + found.output_bytes
    assert all(model.nbytes > whole for model in found.models)


def test_layers_that_one_adapter_alone_changes_are_told(tmp_path: Path) -> None:
    torch.manual_seed(0)
    models.bert().save_pretrained(tmp_path / "base")
    for name, only in (("all", None), ("first", [0])):
        config = peft.LoraConfig(r=2, target_modules=["query"], layers_to_transform=only)
        adapted = peft.get_peft_model(models.bert(), config)
        adapted.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
        adapted.save_pretrained(tmp_path / name)
    notes = check(halves(str(tmp_path / "all"), str(tmp_path / "first"))).notes
    (note,) = (note for note in notes if "of other layers" in note)
    assert note == (
        f"'{tmp_path / 'first'}' leaves 1 tensor(s) of layer(s) 1 as in its base, and changes the same ones of other "
        "layers (e.g. 'encoder.layer.1.attention.self.query.weight')."
    )


def test_an_adapter_mixes_with_the_whole_model(hub: LoopbackHub, tmp_path: Path) -> None:
    torch.manual_seed(0)
    models.bert().save_pretrained(tmp_path / "base")
    base = push(tmp_path / "base", "whole-base")
    merged = adapter(base, "whole-adapter", tmp_path, 1)
    torch.manual_seed(3)
    whole = models.bert("BertForSequenceClassification", num_labels=3)
    whole.save_pretrained(tmp_path / "whole")
    mixed = mix(halves(push(tmp_path / "whole", "whole-model"), "acme/whole-adapter"))
    loads_as_the_mean(mixed.path, whole, merged)


def test_a_quantised_ingredient_is_refused_before_its_weights_come(hub: LoopbackHub, tmp_path: Path) -> None:
    torch.manual_seed(0)
    for name in ("plain", "packed"):
        models.bert().save_pretrained(tmp_path / name)
    config = json.loads((tmp_path / "packed/config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (tmp_path / "packed/config.json").write_text(json.dumps(config))
    names = push(tmp_path / "plain", "plain"), push(tmp_path / "packed", "packed")
    hub.clear_requests()
    with pytest.raises(CheckpointError, match=r"'acme/packed'.* is quantised with gptq \(4 bits\)"):
        mix(halves(*names))
    assert hub.sent(r"GET .*safetensors") == 0


def edited(source: Path, target: Path, path: str, **keys: Any) -> str:
    """A copy of a model with other keys in one of its JSON files."""
    shutil.copytree(source, target)
    values = json.loads((target / path).read_text())
    (target / path).write_text(json.dumps({**values, **keys}))
    return str(target)


@pytest.mark.parametrize(
    ("path", "keys", "words"),
    [
        (
            "document_0_Transformer/config.json",
            {"num_attention_heads": 4},
            r"Cannot mix '\S+/b/document_0_Transformer' with '\S+/document_0_Transformer': `num_attention_heads` is 4",
        ),
        ("document_0_Transformer/config.json", {"hidden_act": "relu"}, "`hidden_act` is 'relu', but 'gelu' in"),
        (
            "document_0_Transformer/config.json",
            {"quantization_config": {"quant_method": "gptq"}},
            "quantised with gptq",
        ),
        ("document_1_Pooling/config.json", {"pooling_mode": "max"}, "`pooling_mode` of Pooling is 'max'"),
        ("query_0_Transformer/config.json", {"num_attention_heads": 4}, r"Cannot mix '\S+/b' with .*is 4, but 2 in"),
    ],
)
def test_every_transformer_and_module_behind_a_router_is_checked(
    tmp_path: Path, path: str, keys: dict[str, Any], words: str
) -> None:
    one, two = embedders.pair("router")
    other = edited(two, tmp_path / "b", path, **keys)
    with pytest.raises((IncompatibleError, CheckpointError), match=words):
        check(halves(str(one), other))


def test_the_vocabulary_of_every_transformer_behind_a_router_is_compared(tmp_path: Path) -> None:
    one, two = embedders.pair("router")
    path = "document_0_Transformer/tokenizer.json"
    model = json.loads((two / path).read_text())["model"]
    words = dict(zip(model["vocab"], reversed(model["vocab"].values()), strict=True))
    other = edited(two, tmp_path / "b", path, model={**model, "vocab": words})
    with pytest.raises(
        IncompatibleError, match=r"'\S+/b/document_0_Transformer' with .* ids belong to different tokens"
    ):
        check(halves(str(one), other))


def test_a_transformer_behind_a_router_is_checked_and_its_config_is_left_alone(
    hub: LoopbackHub, tmp_path: Path
) -> None:
    folders = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        body = embedders.transformer(models.bert(), models.words_tokenizer(), tmp_path / f"parts-{seed}")
        static = StaticEmbedding(models.words_tokenizer().backend_tokenizer, embedding_dim=16)
        router = Router.for_query_document(query_modules=[static], document_modules=[body, Pooling(16)])
        SentenceTransformer(modules=[router], device="cpu").save_pretrained(str(tmp_path / f"{seed}"))
        folders.append(str(tmp_path / f"{seed}"))
    assert not [path for path in mix(halves(*folders)).path.rglob("config.json") if "cocktail" in path.read_text()]
    ids = [push(Path(folder), f"static-first-{Path(folder).name}") for folder in folders]
    publish(halves(*ids), "acme/static-first-recipe", as_="recipe", token=models.TOKEN)
    assert "from transformers" not in models.read_pushed("acme/static-first-recipe", "README.md")
    assert SentenceTransformer("acme/static-first-recipe", device="cpu").encode_document("the cat").shape == (16,)
    other = edited(Path(folders[1]), tmp_path / "b", "document_0_Transformer/config.json", num_attention_heads=4)
    with pytest.raises(IncompatibleError, match="`num_attention_heads` is 4, but 2 in"):
        check(halves(folders[0], other))


def test_an_embedder_without_modules_is_told_to_be_pooled_by_the_mean(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        models.bert().save_pretrained(tmp_path / name)
    recipe = halves(str(tmp_path / "a"), str(tmp_path / "b"))
    assert check(recipe).notes == ()
    (note,) = check(recipe | {"task": "sentence-similarity"}).notes
    assert note.startswith(
        f"'{tmp_path / 'a'}' has no 'modules.json', without which sentence-transformers takes the mean over all"
    )


def test_layers_that_the_config_denies_are_told(tmp_path: Path) -> None:
    folders = [models.save("llama", seed, tmp_path / name) for seed, name in ((1, "first"), (2, "second"))]
    assert check(halves(*map(str, folders))).notes == ()
    for folder in folders:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    (note,) = check(halves(*map(str, folders))).notes
    assert note.endswith(
        "has tensors of 2 layers, but its `num_hidden_layers` is 1: no more of the mix will be loaded."
    )


def test_statistics_of_batch_normalisation_are_noted(tmp_path: Path) -> None:
    for seed in range(2):
        torch.manual_seed(seed)
        config = hf.ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic", num_labels=2)
        hf.ResNetForImageClassification(config).save_pretrained(tmp_path / f"{seed}")
    (note,) = check(halves(*(str(tmp_path / f"{seed}") for seed in range(2)))).notes
    assert note.startswith("Statistics of batch normalisation (such as 'resnet.embedder.embedder.normalization.run")

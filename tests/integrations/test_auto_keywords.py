"""Every keyword of transformers' `from_pretrained` means for a recipe what it means there.

Each is tried with `AutoCocktailModel`, and with transformers' own auto class after `import cocktail_hub`.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers
from huggingface_hub import HfApi
from models import (
    ORG,
    SHARES,
    TOKEN,
    assert_holds,
    expected,
    pair,
    published,
    push,
    push_recipe,
    weights_of,
)

from cocktail_hub import AutoCocktailModel
from cocktail_hub.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable

    from cocktail_hub.testing import LoopbackHub

    Load = Callable[..., Any]

pytestmark = pytest.mark.whole

RECIPE = f"{ORG}/keywords-recipe"
CLASSIFIER = f"{ORG}/keywords-classifier-recipe"
LLAMA = f"{ORG}/keywords-llama-recipe"
TIED = f"{ORG}/keywords-tied-recipe"
AUTO_CLASSES = {
    RECIPE: transformers.AutoModel,
    CLASSIFIER: transformers.AutoModelForSequenceClassification,
    LLAMA: transformers.AutoModelForCausalLM,
    TIED: transformers.AutoModelForCausalLM,
}


@pytest.fixture(scope="session", autouse=True)
def repos() -> None:
    """A recipe repo of an encoder, a classifier and a decoder."""
    push_recipe("bert", RECIPE)
    push_recipe("classifier", CLASSIFIER)
    push_recipe("llama-bf16", LLAMA)
    push_recipe("llama-tied", TIED)


@pytest.fixture(params=["AutoCocktailModel", "AutoModel"])
def load(request: pytest.FixtureRequest) -> Load:
    """The two ways to load a recipe."""

    def with_ours(source: Any, **kwargs: Any) -> Any:
        return AutoCocktailModel.from_pretrained(source, **kwargs)

    def with_theirs(source: Any, **kwargs: Any) -> Any:
        return AUTO_CLASSES.get(str(source), transformers.AutoModel).from_pretrained(source, **kwargs)

    return with_ours if request.param == "AutoCocktailModel" else with_theirs


@pytest.mark.parametrize(
    ("keyword", "dtype"),
    [
        ({}, torch.bfloat16),
        ({"dtype": "auto"}, torch.bfloat16),
        ({"dtype": torch.float32}, torch.float32),
        ({"dtype": "float16"}, torch.float16),
        ({"torch_dtype": torch.float32}, torch.float32),
        ({"torch_dtype": "bfloat16"}, torch.bfloat16),
    ],
    ids=str,
)
def test_dtype(load: Load, keyword: dict[str, Any], dtype: torch.dtype) -> None:
    model = load(LLAMA, **keyword)
    assert model.dtype == dtype
    assert_holds(model, {name: tensor.to(dtype) for name, tensor in expected("llama-bf16").items()})


def test_dtype_of_a_recipe_is_that_of_the_mix(load: Load) -> None:
    recipe = published("bert").recipe | {"dtype": "bfloat16"}
    repo_id = push_recipe("bert", f"{ORG}/keywords-bf16", recipe=recipe)
    assert load(repo_id).dtype == torch.bfloat16


@pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "cpu"}, torch.device("cpu")], ids=str)
def test_device_map(load: Load, device_map: Any) -> None:
    model = load(RECIPE, device_map=device_map)
    assert_holds(model, expected("bert"))
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}


def test_max_memory_and_offload_folder(load: Load, tmp_path: Path) -> None:
    places = {"model.embed_tokens": "cpu", "model.layers": "disk", "model.norm": "cpu", "lm_head": "cpu"}
    places["model.rotary_emb"] = "cpu"
    model = load(LLAMA, device_map=places, offload_folder=tmp_path / "offload", offload_buffers=True)
    assert model.hf_device_map["model.layers"] == "disk"
    assert {p.device.type for p in model.model.layers.parameters()} == {"meta"}
    words = torch.tensor([[4, 5, 6]])
    torch.testing.assert_close(model(words).logits, load(LLAMA)(words).logits, rtol=0, atol=0)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_attn_implementation(load: Load, implementation: str) -> None:
    model = load(RECIPE, attn_implementation=implementation)
    assert model.config._attn_implementation == implementation
    assert "_attn_implementation" not in json.loads(model.config.to_json_string())


def test_experts_implementation(load: Load) -> None:
    assert load(RECIPE, experts_implementation="eager").config._experts_implementation == "eager"


def test_num_labels_with_ignore_mismatched_sizes(load: Load) -> None:
    model = load(CLASSIFIER, num_labels=5, ignore_mismatched_sizes=True)
    assert model.num_labels == 5
    assert model.classifier.weight.shape == (5, 16)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        load(CLASSIFIER, num_labels=5)


def test_labels(load: Load) -> None:
    model = load(CLASSIFIER, id2label={0: "cold", 1: "hot"}, label2id={"cold": 0, "hot": 1})
    assert model.config.id2label == {0: "cold", 1: "hot"}
    assert model.config.label2id == {"cold": 0, "hot": 1}


def test_problem_type(load: Load) -> None:
    model = load(CLASSIFIER, problem_type="multi_label_classification")
    assert model.config.problem_type == "multi_label_classification"


def test_output_loading_info(load: Load) -> None:
    model, info = load(RECIPE, output_loading_info=True)
    assert_holds(model, expected("bert"))
    assert not info["missing_keys"]
    assert not info["mismatched_keys"]
    assert not isinstance(load(RECIPE, output_loading_info=False), tuple)


@pytest.mark.skipif(
    importlib.util.find_spec("torchao") is None, reason="no part of the tests: it talks on every import"
)
@pytest.mark.filterwarnings("ignore")
def test_quantization_config(load: Load) -> None:
    from torchao.quantization import Int8WeightOnlyConfig

    wanted = transformers.TorchAoConfig(Int8WeightOnlyConfig())
    model = load(LLAMA, quantization_config=wanted, device_map="cpu")
    weight = model.model.layers[0].mlp.up_proj.weight
    assert type(weight).__module__.startswith("torchao.")
    near = expected("llama-bf16")["model.layers.0.mlp.up_proj.weight"]
    assert (weight.dequantize().float() - near.float()).abs().max() < 0.02
    assert not hasattr(model, "cocktail")  # these are not the weights of the recipe any more


def test_a_quantization_config_that_cannot_be_used_is_named(load: Load) -> None:
    with pytest.raises((ImportError, RuntimeError, ValueError), match=r"(?i)bitsandbytes|bnb|gpu|cuda"):
        load(LLAMA, quantization_config=transformers.BitsAndBytesConfig(load_in_8bit=True))


def test_revision_is_that_of_the_recipe(load: Load) -> None:
    first = HfApi(token=TOKEN).repo_info(RECIPE).sha
    other = published("bert").recipe
    for ingredient, weight in zip(other["ingredients"], (0.0, 1.0), strict=True):
        ingredient["weight"] = weight
    api = HfApi(token=TOKEN)
    api.create_branch(RECIPE, branch="second", exist_ok=True)
    config = json.dumps({"model_type": "cocktail", "architectures": ["BertModel"], "recipe": other}).encode()
    api.upload_file(path_or_fileobj=config, path_in_repo="config.json", repo_id=RECIPE, revision="second")
    assert_holds(load(RECIPE, revision="second"), weights_of(pair("bert").folders[1]))
    assert_holds(load(RECIPE, revision=first), expected("bert"))
    with pytest.raises(OSError, match="third"):
        load(RECIPE, revision="third")


def test_subfolder_is_that_of_the_recipe(load: Load, tmp_path: Path) -> None:
    config = {"model_type": "cocktail", "architectures": ["BertModel"], "recipe": published("bert").recipe}
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "config.json").write_text(json.dumps(config))
    assert_holds(load(tmp_path, subfolder="small"), expected("bert"))
    push(tmp_path, f"{ORG}/keywords-subfolder")
    assert_holds(load(f"{ORG}/keywords-subfolder", subfolder="small"), expected("bert"))


def test_token_opens_the_recipe_and_the_ingredients(load: Load, tmp_path: Path) -> None:
    ids = [f"{ORG}/keywords-private-{letter}" for letter in "ab"]
    for folder, repo_id in zip(pair("bert").folders, ids, strict=True):
        push(folder, repo_id, private=True)
    recipe = {"ingredients": [{"model": m, "weight": w} for m, w in zip(ids, SHARES, strict=True)]}
    config = {"model_type": "cocktail", "architectures": ["BertModel"], "recipe": recipe}
    (tmp_path / "config.json").write_text(json.dumps(config))
    push(tmp_path, f"{ORG}/keywords-private-recipe", private=True)
    with pytest.raises(OSError, match="private"):
        load(f"{ORG}/keywords-private-recipe")
    assert_holds(load(f"{ORG}/keywords-private-recipe", token=TOKEN), expected("bert"))
    with pytest.raises(SourceError, match=f"'{ids[0]}' is not on the Hub, or it is private"):
        load(tmp_path)
    assert_holds(load(tmp_path, token=TOKEN), expected("bert"))


def test_local_files_only(load: Load, hub: LoopbackHub) -> None:
    load(RECIPE)
    hub.clear_requests()
    assert_holds(load(RECIPE, local_files_only=True), expected("bert"))
    assert hub.requests == []
    with pytest.raises(OSError, match="keywords-unheard"):
        load(f"{ORG}/keywords-unheard", local_files_only=True)


def test_force_download_makes_the_mix_again(load: Load, hub: LoopbackHub) -> None:
    load(RECIPE)
    hub.clear_requests()
    assert_holds(load(RECIPE, force_download=True), expected("bert"))
    weights = [request for request in hub.requests if "/bert-a/resolve/" in request.path]
    assert any("model.safetensors" in request.path for request in weights)


def test_cache_dir(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COCKTAIL_HUB_CACHE", str(tmp_path / "mixes"))
    assert_holds(load(RECIPE, cache_dir=tmp_path / "hub"), expected("bert"))
    kept = {path.name for path in (tmp_path / "hub").glob("models--*")}
    assert kept == {f"models--{ORG}--{name}" for name in ("keywords-recipe", "bert-a", "bert-b")}


@pytest.mark.parametrize("field", ["output_attentions", "output_hidden_states"])
def test_fields_of_the_config(load: Load, field: str) -> None:
    keywords = {field: True} | ({"attn_implementation": "eager"} if field == "output_attentions" else {})
    model = load(RECIPE, **keywords)
    words = torch.tensor([[2, 6, 7, 3]])
    output = model(words)
    assert len(output.attentions if field == "output_attentions" else output.hidden_states) in (2, 3)


def test_return_dict(load: Load) -> None:
    assert isinstance(load(RECIPE, return_dict=False)(torch.tensor([[2, 6, 3]])), tuple)


def test_fields_of_the_model_s_own_config(load: Load) -> None:
    assert load(RECIPE, hidden_dropout_prob=0.5).config.hidden_dropout_prob == 0.5


@pytest.mark.parametrize(
    "keyword",
    [
        {"use_safetensors": True},
        {"weights_only": True},
        {"disable_mmap": True},
        {"trust_remote_code": True},
        {"trust_remote_code": False},
        {"adapter_kwargs": {}},
        {"code_revision": "main"},
    ],
    ids=str,
)
def test_keywords_that_leave_the_weights_alone(load: Load, keyword: dict[str, Any]) -> None:
    assert_holds(load(RECIPE, **keyword), expected("bert"))


def test_a_format_that_a_mix_has_not_is_refused(load: Load) -> None:
    with pytest.raises(OSError, match=r"pytorch_model\.bin"):
        load(RECIPE, use_safetensors=False)
    with pytest.raises(OSError, match="fp16"):
        load(RECIPE, variant="fp16")


def test_weights_of_the_caller_cannot_replace_those_of_the_mix(load: Load) -> None:
    with pytest.raises(ValueError, match="state_dict"):
        load(RECIPE, state_dict=weights_of(pair("bert").folders[0]))


def test_generation_config(load: Load) -> None:
    wanted = transformers.GenerationConfig(max_new_tokens=3, eos_token_id=3, pad_token_id=0)
    assert load(LLAMA, generation_config=wanted).generation_config.max_new_tokens == 3


def test_key_mapping(load: Load) -> None:
    mapping = {r"^encoder\.layer\.0\.": "encoder.layer.1."}
    renamed, info = load(RECIPE, key_mapping=mapping, output_loading_info=True)
    assert "encoder.layer.0.output.dense.weight" in info["missing_keys"]
    assert not hasattr(renamed, "cocktail")  # a layer is random, so this is not the mix


def test_config_of_the_native_class() -> None:
    config = transformers.AutoConfig.from_pretrained(pair("bert").folders[0], hidden_dropout_prob=0.25)
    model = AutoCocktailModel.from_pretrained(RECIPE, config=config)
    assert model.config.hidden_dropout_prob == 0.25
    assert_holds(model, expected("bert"))


def test_arguments_of_the_constructor() -> None:
    model = AutoCocktailModel.from_pretrained(RECIPE, add_pooling_layer=False)
    assert model.pooler is None


def test_a_keyword_that_nobody_knows_is_refused(load: Load) -> None:
    with pytest.raises(TypeError, match="flavour"):
        load(RECIPE, flavour="sweet")


def test_tied_weights_stay_tied(load: Load) -> None:
    model, info = load(TIED, output_loading_info=True)
    assert not info["missing_keys"]
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert_holds(model, expected("llama-tied"))

"""Models of sentence-transformers: a mix keeps modules, pooling, prompts and all else, as recipe and as weights."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from embedders import KINDS, PROMPTS, expected, pair, published, recipe
from huggingface_hub import hf_hub_download, list_repo_files
from models import ORG, SHARES, TEXTS, TOKEN, push_recipe, weights_of
from safetensors.torch import load_file
from sentence_transformers import CrossEncoder, SentenceTransformer, SparseEncoder

from cocktail_hub import AutoCocktailModel, MixOptions, mix, publish
from cocktail_hub.errors import IncompatibleError, PublishError, SourceError
from cocktail_hub.evaluation.loading import load_sentence_transformer

pytestmark = pytest.mark.whole

PAIRS = [("where is the cat", "the cat sat on the mat"), ("where is the dog", "a dog ran in the park")]


@pytest.fixture(scope="session")
def repos() -> dict[tuple[str, str], str]:
    """(kind, form) -> repo, published once."""
    found = {}
    for kind in KINDS:
        for form in ("recipe", "merged"):
            found[kind, form] = f"{ORG}/embedder-{kind}-{form}"
            publish(recipe(kind), found[kind, form], as_=form, token=TOKEN)
    return found


def outputs(kind: str, model: Any) -> torch.Tensor:
    """What a model computes, as one tensor."""
    if isinstance(model, CrossEncoder):
        return torch.as_tensor(model.predict(PAIRS))
    if isinstance(model, SparseEncoder):
        return model.encode(list(TEXTS), convert_to_tensor=True).to_dense()
    queries = torch.as_tensor(model.encode_query(list(TEXTS)))
    return torch.cat([queries, torch.as_tensor(model.encode_document(list(TEXTS)))])


def described(model: Any) -> dict[str, Any]:
    """Everything about a model that is not a weight."""
    names = ("prompts", "default_prompt_name", "similarity_fn_name", "truncate_dim", "max_seq_length", "num_labels")
    shown = {name: getattr(model, name, None) for name in names}
    modules = {name: type(module).__name__ for name, module in model.named_modules()}
    configs = {name: m.get_config_dict() for name, m in model.named_children() if hasattr(m, "get_config_dict")}
    return shown | {"modules": modules, "configs": configs, "activation": str(getattr(model, "activation_fn", None))}


@pytest.mark.parametrize("form", ["recipe", "merged"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_mix_is_the_average_and_keeps_everything_else(
    kind: str, form: str, repos: dict[tuple[str, str], str]
) -> None:
    model = KINDS[kind](repos[kind, form], device="cpu")
    torch.testing.assert_close(outputs(kind, model), outputs(kind, expected(kind)), rtol=0, atol=1e-6)
    assert described(model) == described(expected(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_a_mix_loads_itself(kind: str) -> None:
    made = mix(recipe(kind))
    model = load_sentence_transformer(made.path, device="cpu")
    assert type(model) is KINDS[kind]
    torch.testing.assert_close(outputs(kind, model), outputs(kind, expected(kind)), rtol=0, atol=1e-6)


def test_the_average_is_neither_ingredient() -> None:
    """Otherwise the comparisons above would hold for anything."""
    for kind in KINDS:
        for folder in pair(kind):
            other = KINDS[kind](str(folder), device="cpu")
            assert (outputs(kind, other) - outputs(kind, expected(kind))).abs().max() > 1e-3, kind


def test_prompts_similarity_and_truncation_are_kept(repos: dict[tuple[str, str], str]) -> None:
    for form in ("recipe", "merged"):
        model = SentenceTransformer(repos["dense", form], device="cpu")
        assert model.prompts == PROMPTS
        assert model.default_prompt_name == "query"
        assert model.similarity_fn_name == "dot"
        assert model.truncate_dim == 6
        assert model.encode(TEXTS[0]).shape == (6,)
        assert model.max_seq_length == 12


def test_a_recipe_repo_has_weights_of_small_modules_only(repos: dict[tuple[str, str], str]) -> None:
    weights = {
        kind: [f for f in list_repo_files(repos[kind, "recipe"]) if f.endswith(".safetensors")] for kind in KINDS
    }
    assert {kind: found for kind, found in weights.items() if found} == {
        "dense": ["2_Dense/model.safetensors"],
        "static": ["model.safetensors"],
        "router": ["document_2_Dense/model.safetensors"],
    }
    merged = hf_hub_download(repos["dense", "recipe"], "2_Dense/model.safetensors")
    parts = [weights_of(folder / "2_Dense") for folder in pair("dense")]
    wanted = sum(weight * file["linear.weight"].double() for weight, file in zip(SHARES, parts, strict=True))
    assert torch.equal(load_file(merged)["linear.weight"], wanted.float())


def test_the_card_counts_every_module_and_every_file(tmp_path: Path) -> None:
    models = [{"model": str(folder), "weight": 0.5} for folder in pair("dense")]
    made = mix({"ingredients": models}, output=tmp_path / "mix", options=MixOptions(max_shard_size="20KB"))
    files = list(made.path.rglob("*.safetensors"))
    assert len(files) == 3
    assert made.path / "2_Dense" / "model.safetensors" in files
    counted = f"{sum(tensor.numel() for file in files for tensor in load_file(file).values()):,} parameters, `float32`"
    assert counted in (made.path / "README.md").read_text(encoding="utf-8")


def test_a_module_that_others_lack_is_told() -> None:
    names = [str(pair(kind)[0]) for kind in ("dense", "mean")]
    words = f"'{names[1]}': it has no weights in '2_Dense', a module of '{names[0]}'"
    with pytest.raises(IncompatibleError, match=re.escape(words)):
        mix({"ingredients": [{"model": name, "weight": 0.5} for name in names]})


def test_pooling_is_spelt_in_both_ways(repos: dict[tuple[str, str], str]) -> None:
    """text-embeddings-inference and vLLM read the flags of before sentence-transformers 6."""
    for kind, path, mode, flag in (
        ("mean", "1_Pooling", "mean", "pooling_mode_mean_tokens"),
        ("router", "document_1_Pooling", "cls", "pooling_mode_cls_token"),
    ):
        for form in ("recipe", "merged"):
            config = json.loads(Path(hf_hub_download(repos[kind, form], f"{path}/config.json")).read_text())
            assert config["pooling_mode"] == mode
            assert next(key for key, value in config.items() if value is True) == flag
            assert [key for key, value in config.items() if value is True and "pooling_mode" in key] == [flag]


def test_an_old_layout_stays_as_it_is(repos: dict[tuple[str, str], str]) -> None:
    assert "0_Transformer/model.safetensors" in list_repo_files(repos["old", "merged"])
    files = list_repo_files(repos["old", "recipe"])
    assert "0_Transformer/config.json" in files
    assert "0_Transformer/tokenizer.json" in files
    assert "tokenizer.json" not in files
    config = json.loads(Path(hf_hub_download(repos["old", "recipe"], "config.json")).read_text())
    assert config["architectures"] == ["BertModel"]


def test_the_transformer_inside_an_embedder_loads_alone(repos: dict[tuple[str, str], str]) -> None:
    for kind in ("mean", "old", "dense"):
        for form in ("recipe", "merged"):
            model = AutoCocktailModel.from_pretrained(repos[kind, form])
            own = expected(kind)[0].model
            assert torch.equal(model.pooler.dense.weight, own.pooler.dense.weight), (kind, form)


def test_what_transformers_cannot_load_alone_says_who_can(repos: dict[tuple[str, str], str]) -> None:
    for kind in ("static", "router"):
        for form in ("recipe", "merged"):
            with pytest.raises(SourceError, match=r"It can be loaded by sentence-transformers alone"):
                AutoCocktailModel.from_pretrained(repos[kind, form])


def test_a_cross_encoder_keeps_activation_and_number_of_labels(repos: dict[tuple[str, str], str]) -> None:
    for form in ("recipe", "merged"):
        model = CrossEncoder(repos["cross", form], device="cpu")
        assert isinstance(model.activation_fn, torch.nn.Tanh)
        assert model.num_labels == 1
        classes = CrossEncoder(repos["cross-classes", form], device="cpu")
        assert isinstance(classes.activation_fn, torch.nn.Identity)
        assert classes.predict(PAIRS).shape == (2, 3)


def test_keywords_of_sentence_transformers_reach_the_mix(repos: dict[tuple[str, str], str]) -> None:
    keywords = {"dtype": torch.bfloat16, "attn_implementation": "eager"}
    model = SentenceTransformer(repos["mean", "recipe"], device="cpu", model_kwargs=keywords, truncate_dim=4)
    assert model[0].model.dtype == torch.bfloat16
    assert model[0].model.config._attn_implementation == "eager"
    assert model.encode(TEXTS[0]).shape == (4,)


def test_a_plain_recipe_repo_becomes_an_embedder_with_mean_pooling() -> None:
    model = SentenceTransformer(push_recipe("bert", f"{ORG}/embedder-plain"), device="cpu")
    assert [type(module).__name__ for module in model] == ["Transformer", "Pooling"]
    assert model.encode(TEXTS[0]).shape == (16,)


def test_open_weights_and_modules_with_weights_cannot_go_into_a_recipe_repo() -> None:
    models = [{"model": model} for model in published("dense")]
    examples = [{"query": TEXTS[0], "pos": [TEXTS[1]]}, {"query": TEXTS[1], "pos": [TEXTS[0]]}]
    source = {"ingredients": models, "weighting": {"examples": examples}}
    with pytest.raises(PublishError, match=r"modules with weights of their own \('2_Dense'\)"):
        publish(source, f"{ORG}/embedder-open", as_="recipe", token=TOKEN)


def test_the_folder_of_a_mix_is_an_embedder_for_anyone(tmp_path: Path) -> None:
    folder = mix(recipe("dense")).save_pretrained(tmp_path / "mix")
    model = SentenceTransformer(str(folder), device="cpu")
    torch.testing.assert_close(outputs("dense", model), outputs("dense", expected("dense")), rtol=0, atol=1e-6)

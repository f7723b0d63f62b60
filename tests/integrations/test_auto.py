"""AutoCocktailModel: every kind of recipe, every family of models, and what it says of things that are no recipe."""

from __future__ import annotations

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers
from models import (
    ORG,
    SHARES,
    TOKEN,
    architecture,
    assert_holds,
    expected,
    fill,
    pair,
    published,
    push,
    push_recipe,
    weights_of,
    words_tokenizer,
)

from cocktail_hub import (
    AutoCocktailModel,
    CocktailConfig,
    Recipe,
    check,
    mix,
    publish,
)
from cocktail_hub.errors import RecipeError, SourceError
from cocktail_hub.recipe import dump_yaml
from cocktail_hub.storage.cache import Cache

if TYPE_CHECKING:
    from cocktail_hub.testing import LoopbackHub

pytestmark = pytest.mark.whole

LOADED = ["llama", "llama-bf16", "t5", "bart", "bert", "masked", "reranker", "classifier"]
RECIPE = f"{ORG}/auto-recipe"
MERGED = f"{ORG}/auto-merged"


@pytest.fixture(scope="session", autouse=True)
def repos() -> None:
    """A recipe repo and a merged repo of the BERT pair."""
    push_recipe("bert", RECIPE)
    publish(published("bert").recipe, MERGED, token=TOKEN)


def asked_about(hub: LoopbackHub, repo_id: str) -> list[str]:
    return [f"{request.method} {request.path}" for request in hub.requests if f"/{repo_id}" in request.path]


@pytest.mark.parametrize("family", LOADED)
def test_a_recipe_repo_becomes_an_ordinary_model(family: str) -> None:
    repo_id = push_recipe(family, f"{ORG}/auto-{family}-recipe")
    model = AutoCocktailModel.from_pretrained(repo_id)
    assert type(model).__name__ == architecture(family)
    assert type(model).__module__.startswith("transformers.")
    assert_holds(model, expected(family))
    assert model.name_or_path == repo_id
    assert not model.training


def test_an_encoder_without_its_decoder_stays_one() -> None:
    model = AutoCocktailModel.from_pretrained(push_recipe("t5-encoder", f"{ORG}/auto-t5-encoder-recipe"))
    assert type(model) is transformers.T5EncoderModel
    assert_holds(model, expected("t5-encoder"))


@pytest.mark.parametrize("kind", ["mapping", "Recipe", "CocktailConfig", "config.json", "YAML", "JSON", "folder"])
def test_a_recipe_comes_in_many_forms(kind: str, tmp_path: Path) -> None:
    given = published("bert").recipe
    recipe = Recipe.from_dict(given)
    (tmp_path / "recipe.yaml").write_text(dump_yaml(recipe))
    (tmp_path / "recipe.json").write_text(json.dumps(given))
    folder = tmp_path / "folder"
    CocktailConfig.from_recipe(recipe).save_pretrained(folder)
    source: Any = {
        "mapping": given,
        "Recipe": recipe,
        "CocktailConfig": CocktailConfig(ingredients=list(published("bert").ids), weights=list(SHARES)),
        "config.json": json.loads((folder / "config.json").read_text()),
        "YAML": tmp_path / "recipe.yaml",
        "JSON": str(tmp_path / "recipe.json"),
        "folder": folder,
    }[kind]
    assert_holds(AutoCocktailModel.from_pretrained(source), expected("bert"))


def test_paths_in_a_recipe_file_start_where_the_file_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, folder in zip(("a", "b"), pair("bert").folders, strict=True):
        (tmp_path / "models" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "models" / name).symlink_to(folder, target_is_directory=True)
    text = "ingredients:\n- {model: ./models/a, weight: 0.75}\n- {model: ./models/b, weight: 0.25}\n"
    (tmp_path / "recipe.yaml").write_text(text)
    monkeypatch.chdir(tmp_path.parent)
    assert_holds(AutoCocktailModel.from_pretrained(tmp_path / "recipe.yaml"), expected("bert"))


def test_a_merged_repo_is_loaded_as_it_is(hub: LoopbackHub) -> None:
    hub.clear_requests()
    model = AutoCocktailModel.from_pretrained(MERGED)
    assert_holds(model, expected("bert"))
    assert model.name_or_path == MERGED
    assert not asked_about(hub, f"{ORG}/bert-")


def test_a_merged_folder_is_loaded_as_it_is(hub: LoopbackHub, tmp_path: Path) -> None:
    folder = mix(published("bert").recipe, output=tmp_path / "mix").path
    hub.clear_requests()
    assert_holds(AutoCocktailModel.from_pretrained(folder), expected("bert"))
    assert hub.requests == []


def test_weights_that_were_trained_since_are_loaded_as_what_they_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo_id = f"{ORG}/auto-trained"
    publish(published("bert").recipe, repo_id, token=TOKEN)
    fill(transformers.AutoModel.from_pretrained(repo_id), 9).save_pretrained(tmp_path)  # without us
    push(tmp_path, repo_id)
    assert "cocktail" not in (tmp_path / "config.json").read_text()
    words = f"'{repo_id}' was trained, or changed in another way, since it was mixed: model.safetensors has other"
    for offline in (False, True):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="cocktail_hub.integrations.auto"):
            model = AutoCocktailModel.from_pretrained(repo_id)
        assert caplog.messages[-1].startswith(words)
        assert_holds(model, weights_of(tmp_path))
        assert not hasattr(model, "cocktail")
    monkeypatch.undo()
    with pytest.raises(RecipeError, match=words):
        AutoCocktailModel.from_pretrained(repo_id, push_to_hub=f"{ORG}/auto-trained-again", token=TOKEN)


def test_a_mix_of_local_folders_loads_from_its_merged_repo(tmp_path: Path) -> None:
    publish(pair("bert").local_recipe, f"{ORG}/auto-local", token=TOKEN)
    assert_holds(AutoCocktailModel.from_pretrained(f"{ORG}/auto-local"), expected("bert"))
    with pytest.raises(RecipeError, match="must not read folders of this machine"):
        mix(f"{ORG}/auto-local")


def test_a_recipe_of_the_hub_cannot_name_folders_of_this_machine(tmp_path: Path) -> None:
    CocktailConfig(recipe=pair("bert").local_recipe).save_pretrained(tmp_path)
    push(tmp_path, f"{ORG}/auto-spy")
    for load in (AutoCocktailModel, transformers.AutoModel):
        with pytest.raises(RecipeError, match="must not read folders of this machine"):
            load.from_pretrained(f"{ORG}/auto-spy")
    config = transformers.AutoConfig.from_pretrained(f"{ORG}/auto-spy")
    with pytest.raises(RecipeError, match="must not read folders of this machine"):
        AutoCocktailModel.from_pretrained(config)


def test_an_ordinary_model_is_called_one_and_its_class_is_named() -> None:
    named = f"'{published('bert').ids[0]}' is not a recipe: it is an ordinary BertModel"
    with pytest.raises(SourceError, match=named) as caught:
        AutoCocktailModel.from_pretrained(published("bert").ids[0])
    assert "use transformers.BertModel or AutoModel" in str(caught.value)
    with pytest.raises(SourceError, match="is not a recipe: it is an ordinary BertModel"):
        AutoCocktailModel.from_pretrained(pair("bert").folders[0])


def test_a_list_of_models_and_one_of_weights_are_enough() -> None:
    ids, weights = list(published("bert").ids), [0.75, 0.25]
    model = AutoCocktailModel.from_pretrained(ids, weights=weights)
    made = mix(ids, weights=weights)
    assert made.recipe.weights == (0.75, 0.25)
    tensors = model.state_dict()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in made.load().state_dict().items())
    assert check(ids, weights=weights).models[1].weight == 0.25


def test_a_folder_that_is_not_there_is_called_missing() -> None:
    with pytest.raises(SourceError, match=r"There is not a recipe at './nowhere'"):
        AutoCocktailModel.from_pretrained("./nowhere")


def test_the_task_chooses_the_class() -> None:
    recipe = published("masked").recipe
    assert type(AutoCocktailModel.from_pretrained(recipe)) is transformers.BertForMaskedLM
    assert type(AutoCocktailModel.from_pretrained(recipe, task="feature-extraction")) is transformers.BertModel
    with pytest.raises(RecipeError, match=r"Unknown `task` 'fil-mask'. Did you mean 'fill-mask'\?"):
        AutoCocktailModel.from_pretrained(recipe, task="fil-mask")


def test_an_unknown_task_is_refused_before_anything_is_read(hub: LoopbackHub) -> None:
    with pytest.raises(RecipeError, match="Unknown `task`"):
        AutoCocktailModel.from_pretrained(RECIPE, task="poetry")
    assert hub.requests == []


def test_a_second_load_asks_for_the_recipe_only_and_merges_nothing(hub: LoopbackHub) -> None:
    AutoCocktailModel.from_pretrained(RECIPE)
    before = {mix.digest: mix.path.stat().st_ino for mix in Cache().mixes()}
    hub.clear_requests()
    assert_holds(AutoCocktailModel.from_pretrained(RECIPE), expected("bert"))
    assert not asked_about(hub, f"{ORG}/bert-")
    assert not hub.sent("GET .*/resolve/")
    assert len(hub.requests) <= 2
    after = {mix.digest: mix.path.stat().st_ino for mix in Cache().mixes()}
    assert before == after


def test_without_cache_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COCKTAIL_HUB_CACHE", str(tmp_path / "cache"))
    model = AutoCocktailModel.from_pretrained(RECIPE, cache=False)
    assert_holds(model, expected("bert"))
    left = {path.parent.name for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    assert left <= {"locks", "loads"}


def test_without_cache_a_mix_that_is_cached_is_used(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    AutoCocktailModel.from_pretrained(RECIPE)
    hub.clear_requests()
    assert_holds(AutoCocktailModel.from_pretrained(RECIPE, cache=False), expected("bert"))
    assert not asked_about(hub, f"{ORG}/bert-")


def test_without_cache_weights_cannot_stay_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COCKTAIL_HUB_CACHE", str(tmp_path / "cache"))
    places = {"embeddings": "cpu", "encoder": "disk", "pooler": "cpu"}
    with pytest.raises(
        RecipeError, match="`cache=False` cannot be combined with weights that are offloaded to the disk"
    ):
        AutoCocktailModel.from_pretrained(RECIPE, cache=False, device_map=places, offload_folder=tmp_path / "off")


def test_a_model_is_published_in_the_same_call() -> None:
    AutoCocktailModel.from_pretrained(RECIPE, push_to_hub=f"{ORG}/auto-pushed", token=TOKEN)
    plain = transformers.AutoModel.from_pretrained(f"{ORG}/auto-pushed")
    assert_holds(plain, expected("bert"))


def test_labels_of_the_recipe_reach_the_model() -> None:
    repo_id = push_recipe("classifier", f"{ORG}/auto-labels", id2label={"0": "no", "1": "yes"})
    assert AutoCocktailModel.from_pretrained(repo_id).config.id2label == {0: "no", 1: "yes"}
    assert mix(repo_id).load().config.label2id == {"no": 0, "yes": 1}
    auto = transformers.AutoModelForSequenceClassification.from_pretrained(repo_id)
    assert auto.config.id2label == {0: "no", 1: "yes"}


def test_a_recipe_without_labels_keeps_those_of_the_ingredients() -> None:
    repo_id = push_recipe("classifier", f"{ORG}/auto-unlabelled")
    assert AutoCocktailModel.from_pretrained(repo_id).config.id2label == {0: "bad", 1: "good"}
    auto = transformers.AutoModelForSequenceClassification.from_pretrained(repo_id)
    assert auto.config.id2label == {0: "bad", 1: "good"}


def test_the_number_of_labels_beats_the_labels_of_the_recipe() -> None:
    repo_id = push_recipe("classifier", f"{ORG}/auto-labels", id2label={"0": "no", "1": "yes"})
    for load in (AutoCocktailModel, transformers.AutoModelForSequenceClassification):
        model = load.from_pretrained(repo_id, num_labels=3, ignore_mismatched_sizes=True)
        assert model.config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
        assert model.classifier.out_features == 3


def test_a_config_object_carries_its_keywords_to_the_model() -> None:
    config = transformers.AutoConfig.from_pretrained(RECIPE, attn_implementation="eager")
    config.output_hidden_states = True
    for load in (
        lambda: AutoCocktailModel.from_pretrained(config),
        lambda: AutoCocktailModel.from_pretrained(RECIPE, config=config),
        lambda: transformers.AutoModel.from_pretrained(RECIPE, config=config),
    ):
        model = load()
        assert model.config._attn_implementation == "eager"
        assert model.config.output_hidden_states is True


def test_a_changed_recipe_in_a_config_is_the_one_that_is_mixed() -> None:
    config = transformers.AutoConfig.from_pretrained(RECIPE)
    for ingredient, weight in zip(config.recipe["ingredients"], (0.0, 1.0), strict=True):
        ingredient["weight"] = weight
    second = weights_of(pair("bert").folders[1])
    assert_holds(transformers.AutoModel.from_pretrained(RECIPE, config=config), second)
    assert_holds(AutoCocktailModel.from_pretrained(config), second)


def test_a_model_from_a_config_alone_has_the_shape_of_the_mix() -> None:
    config = transformers.AutoConfig.from_pretrained(RECIPE)
    model = transformers.AutoModel.from_config(config)
    assert type(model) is transformers.BertModel
    assert {name: t.shape for name, t in model.named_parameters()} == {
        name: t.shape for name, t in expected("bert").items()
    }


def test_a_model_from_a_config_has_what_was_asked_of_the_config() -> None:
    push_recipe("classifier", "acme/auto-classifier")
    config = transformers.AutoConfig.from_pretrained("acme/auto-classifier", num_labels=5)
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    assert model.config.num_labels == model.classifier.out_features == 5


def test_an_architecture_of_another_version_is_loaded_by_its_kind(tmp_path: Path) -> None:
    folders = []
    for letter, source in zip("ab", pair("llama").folders, strict=True):
        folder = tmp_path / letter
        transformers.AutoModelForCausalLM.from_pretrained(source).save_pretrained(folder)
        config = json.loads((folder / "config.json").read_text())
        config["architectures"] = ["LlamaWithPatchesForCausalLM"]
        (folder / "config.json").write_text(json.dumps(config))
        folders.append(folder)
    recipe = {"ingredients": [{"model": str(f), "weight": w} for f, w in zip(folders, SHARES, strict=True)]}
    assert type(AutoCocktailModel.from_pretrained(recipe)) is transformers.LlamaForCausalLM


def test_the_class_itself_makes_no_model() -> None:
    with pytest.raises(OSError, match=r"AutoCocktailModel is created by `AutoCocktailModel.from_pretrained\(recipe\)`"):
        AutoCocktailModel()


def test_two_threads_may_make_the_same_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Making a mix is safe in threads; `from_pretrained` of transformers itself is not."""
    monkeypatch.setenv("COCKTAIL_HUB_CACHE", str(tmp_path))
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(mix, [RECIPE, RECIPE])
    assert first.path == second.path
    assert {first.report["cached"], second.report["cached"]} == {True, False}
    assert_holds(first.load(), expected("bert"))


def test_a_model_of_the_users_own_is_no_obstacle(tmp_path: Path) -> None:
    """`AutoModel` keeps loading ordinary models."""
    model = fill(transformers.BertModel(transformers.AutoConfig.from_pretrained(pair("bert").folders[0])), 9)
    model.save_pretrained(tmp_path)
    words_tokenizer().save_pretrained(tmp_path)
    again = transformers.AutoModel.from_pretrained(tmp_path)
    assert torch.equal(again.pooler.dense.weight, model.pooler.dense.weight)

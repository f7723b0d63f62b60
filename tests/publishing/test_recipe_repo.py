"""Recipe repos: what is in them, and what stays open."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import transformers
from huggingface_hub import HfApi, ModelCard
from models import (
    ORG,
    SHARES,
    TEXTS,
    TOKEN,
    pair,
    published,
    push,
    pushed_files,
    read_pushed,
    save,
    words_tokenizer,
)

from cocktail_hub import AutoCocktailModel, mix, publish
from cocktail_hub.errors import PublishError, ScoringError

if TYPE_CHECKING:
    from cocktail_hub.publishing.card.facts import Form

pytestmark = pytest.mark.whole

API = HfApi(token=TOKEN)
EXAMPLES = [{"query": "where is the cat", "pos": [TEXTS[0]], "neg": [TEXTS[1]]}] * 2


def weighing(family: str, folder: Path) -> dict[str, Any]:
    """A recipe that leaves the weights open, with its examples in a file."""
    (folder / "few.jsonl").write_text("\n".join(map(json.dumps, EXAMPLES)))
    models = [{"model": model} for model in published(family).ids]
    return {"ingredients": models, "weighting": {"examples": str(folder / "few.jsonl")}}


def test_a_recipe_repo_holds_a_few_kilobytes() -> None:
    publish(published("classifier").recipe, f"{ORG}/publish-recipe", as_="recipe", token=TOKEN)
    assert pushed_files(f"{ORG}/publish-recipe") == {
        "README.md",
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    config = read_pushed(f"{ORG}/publish-recipe", "config.json")
    assert list(config) == ["model_type", "architectures", "id2label", "label2id", "recipe", "native"]
    assert config["model_type"] == "cocktail"
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert config["id2label"] == {"0": "bad", "1": "good"}
    heads = [API.repo_info(model).sha for model in published("classifier").ids]
    assert config["recipe"]["ingredients"] == [
        {"model": model, "revision": head, "requested": "main", "weight": weight}
        for model, head, weight in zip(published("classifier").ids, heads, SHARES, strict=True)
    ]
    card = ModelCard.load(f"{ORG}/publish-recipe")
    assert card.data.library_name == "cocktail-hub"
    assert card.data.base_model == list(published("classifier").ids)
    assert card.data.to_dict()["base_model_relation"] == "merge"


def test_generation_config_goes_along_with_a_recipe(tmp_path: Path) -> None:
    folder = save("llama", 6, tmp_path / "first")
    transformers.GenerationConfig(max_new_tokens=9, eos_token_id=3).save_pretrained(folder)
    push(folder, f"{ORG}/publish-generator")
    recipe = published("llama").recipe
    recipe["ingredients"][0]["model"] = f"{ORG}/publish-generator"
    publish(recipe, f"{ORG}/publish-generation-recipe", as_="recipe", token=TOKEN)
    assert read_pushed(f"{ORG}/publish-generation-recipe", "generation_config.json")["max_new_tokens"] == 9
    model = AutoCocktailModel.from_pretrained(f"{ORG}/publish-generation-recipe")
    assert model.generation_config.max_new_tokens == 9


def test_a_tokenizer_that_is_found_by_the_model_type_is_found_in_a_recipe_repo(tmp_path: Path) -> None:
    """Old repos have a vocabulary and no `tokenizer_class`; their model type says which class reads it."""
    ids = []
    for letter, source in zip("ab", pair("bert").folders, strict=True):
        folder = tmp_path / letter
        transformers.AutoModel.from_pretrained(source).save_pretrained(folder)
        vocabulary = sorted(words_tokenizer().get_vocab().items(), key=lambda item: item[1])
        (folder / "vocab.txt").write_text("\n".join(word for word, _ in vocabulary))
        (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
        ids.append(f"{ORG}/publish-old-{letter}")
        push(folder, ids[-1])
    recipe = {"ingredients": [{"model": m, "weight": w} for m, w in zip(ids, SHARES, strict=True)]}
    publish(recipe, f"{ORG}/publish-old-recipe", as_="recipe", token=TOKEN)
    own = transformers.AutoTokenizer.from_pretrained(ids[0])
    found = transformers.AutoTokenizer.from_pretrained(f"{ORG}/publish-old-recipe")
    assert type(found) is type(own) is transformers.BertTokenizer
    assert found("the Cat")["input_ids"] == own("the Cat")["input_ids"]
    assert read_pushed(f"{ORG}/publish-old-recipe", "tokenizer_config.json")["do_lower_case"] is False


@pytest.mark.parametrize("form", ["recipe", "both"])
def test_a_recipe_with_local_models_is_refused(form: Form) -> None:
    with pytest.raises(PublishError, match="Nobody else has that folder") as caught:
        publish(pair("bert").local_recipe, f"{ORG}/publish-local-{form}", as_=form, token=TOKEN)
    assert str(pair("bert").folders[0]) in str(caught.value)
    assert not API.repo_exists(f"{ORG}/publish-local-{form}")


def test_open_weights_stay_open_and_their_examples_lie_beside_them(tmp_path: Path) -> None:
    repo_id = f"{ORG}/publish-open"
    publish(weighing("bert", tmp_path), repo_id, as_="recipe", token=TOKEN)
    recipe = read_pushed(repo_id, "config.json")["recipe"]
    assert recipe["weighting"]["examples"] == "examples.jsonl"
    assert "weight" not in recipe["ingredients"][0]
    assert read_pushed(repo_id, "examples.jsonl") == (tmp_path / "few.jsonl").read_text()
    card = read_pushed(repo_id, "README.md")
    assert card.count("computed on first use") == 3
    assert str(tmp_path) not in card
    ModelCard(card).validate()


def test_open_weights_are_computed_where_the_recipe_is_loaded(tmp_path: Path) -> None:
    repo_id = f"{ORG}/publish-open-loaded"
    publish(weighing("bert", tmp_path), repo_id, as_="recipe", token=TOKEN)
    (tmp_path / "few.jsonl").unlink()
    made = mix(repo_id)
    assert abs(sum(made.recipe.weights or ()) - 1) < 1e-9
    assert AutoCocktailModel.from_pretrained(repo_id).cocktail == made.recipe.to_dict()


def test_examples_that_must_not_go_along_stop_an_open_recipe(tmp_path: Path) -> None:
    with pytest.raises(PublishError, match="which is not to be published"):
        publish(weighing("bert", tmp_path), f"{ORG}/publish-hidden", as_="recipe", examples=False, token=TOKEN)


@pytest.mark.parametrize("linked", [False, True])
def test_a_recipe_in_a_folder_publishes_no_file_outside_of_it(tmp_path: Path, linked: bool) -> None:
    recipe = weighing("bert", tmp_path)
    (tmp_path / "cloned").mkdir()
    if linked:
        (tmp_path / "cloned" / "few.jsonl").symlink_to(tmp_path / "few.jsonl")
    recipe["weighting"]["examples"] = "few.jsonl" if linked else "../few.jsonl"
    (tmp_path / "cloned" / "recipe.json").write_text(json.dumps(recipe))
    with pytest.raises(PublishError, match=r"names the examples '.*few.jsonl', which are outside of that folder"):
        publish(tmp_path / "cloned" / "recipe.json", f"{ORG}/publish-outside", as_="recipe", token=TOKEN)


def test_a_file_without_examples_is_not_published(tmp_path: Path) -> None:
    recipe = weighing("bert", tmp_path)
    (tmp_path / "few.jsonl").write_text("-----BEGIN KEY-----\n")
    with pytest.raises(ScoringError):
        publish(recipe, f"{ORG}/publish-no-examples", as_="recipe", token=TOKEN)


def test_an_anchor_stays_open_with_the_weights(tmp_path: Path) -> None:
    source = weighing("bert", tmp_path)
    anchor = {"model": source["ingredients"].pop(0)["model"], "share": 0.5}
    source["weighting"] = {"rule": "uniform"}
    publish(source | {"anchor": anchor}, f"{ORG}/publish-anchor", as_="recipe", token=TOKEN)
    recipe = read_pushed(f"{ORG}/publish-anchor", "config.json")["recipe"]
    assert recipe["anchor"]["share"] == 0.5
    assert mix(f"{ORG}/publish-anchor").recipe.weights == (0.5, 0.5)

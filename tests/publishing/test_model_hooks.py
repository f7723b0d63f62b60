"""A model that was loaded from a recipe publishes itself with recipe and card, as long as it is that mix."""

from __future__ import annotations

import copy
import inspect
import io
import logging
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers
from huggingface_hub import HfApi, ModelCard, hf_hub_download
from models import ORG, TOKEN, assert_holds, expected, published, push_recipe

from cocktail_hub import AutoCocktailModel, CocktailConfig, MixOptions, mix
from cocktail_hub.errors import PublishError, SourceError
from cocktail_hub.publishing.card.header import START
from cocktail_hub.recipe import as_resolved, read_recipe
from cocktail_hub.storage.cache import Cache

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.whole

RECIPE = f"{ORG}/attached-recipe"
CLASSIFIER = f"{ORG}/attached-classifier-recipe"


@pytest.fixture(scope="session", autouse=True)
def repos() -> None:
    """A recipe repo of the BERT pair, and one of classifiers."""
    push_recipe("bert", RECIPE)
    push_recipe("classifier", CLASSIFIER)


def files(repo_id: str) -> set[str]:
    return set(HfApi(token=TOKEN).list_repo_files(repo_id)) - {".gitattributes"}


def test_a_loaded_model_is_published_whole_in_one_commit() -> None:
    model = AutoCocktailModel.from_pretrained(RECIPE)
    info = model.push_to_hub(f"{ORG}/attached-whole", token=TOKEN)
    assert files(f"{ORG}/attached-whole") >= {"README.md", "recipe.json", "model.safetensors", "tokenizer.json"}
    assert len(HfApi().list_repo_commits(f"{ORG}/attached-whole")) == 2
    assert info.oid == HfApi().repo_info(f"{ORG}/attached-whole").sha
    assert_holds(transformers.AutoModel.from_pretrained(f"{ORG}/attached-whole"), expected("bert"))


def test_a_model_of_an_auto_class_is_published_likewise() -> None:
    model = transformers.AutoModel.from_pretrained(RECIPE)
    model.push_to_hub(f"{ORG}/attached-auto", as_="both", token=TOKEN)
    assert "recipe.json" in files(f"{ORG}/attached-auto")


def test_a_loaded_model_can_be_published_as_a_recipe() -> None:
    AutoCocktailModel.from_pretrained(RECIPE).push_to_hub(f"{ORG}/attached-small", as_="recipe", token=TOKEN)
    assert "model.safetensors" not in files(f"{ORG}/attached-small")


@pytest.mark.parametrize("kind", ["model", "config"])
def test_every_keyword_of_transformers_own_push_is_taken(kind: str) -> None:
    repo_id = f"{ORG}/attached-keywords-{kind}"
    HfApi(token=TOKEN).create_repo(repo_id)
    model: Any = AutoCocktailModel.from_pretrained(RECIPE)
    model.add_model_tags("own")
    given: dict[str, Any] = {
        "commit_message": "Mix cats",
        "commit_description": "and dogs",
        "private": True,
        "token": TOKEN,
        "revision": "main",
        "create_pr": True,
        "max_shard_size": "10KB",
        "tags": ["cats", "merge"],
    }
    pushed = transformers.utils.hub.PushToHubMixin.push_to_hub
    assert given.keys() | {"self", "repo_id"} == inspect.signature(pushed).parameters.keys()
    config = CocktailConfig(recipe=published("bert").recipe)
    info = (model if kind == "model" else config).push_to_hub(repo_id, **given)
    (commit, *_) = HfApi().list_repo_commits(repo_id, revision=info.pr_revision)
    assert (commit.title, commit.message) == ("Mix cats", "and dogs")
    card = ModelCard.load(hf_hub_download(repo_id, "README.md", revision=info.pr_revision))
    own = ["own"] if kind == "model" else []
    assert card.data.tags == ["merge", "lm-cocktail", "cocktail-hub", *own, "cats"]
    cut = "model.safetensors.index.json" in HfApi().list_repo_files(repo_id, revision=info.pr_revision)
    assert cut == (kind == "model")


def test_a_model_is_pushed_while_it_is_saved(tmp_path: Path) -> None:
    model = AutoCocktailModel.from_pretrained(RECIPE)
    model.save_pretrained(tmp_path, push_to_hub=True, repo_id=f"{ORG}/attached-while", token=TOKEN, tags="cats")
    assert "recipe.json" in files(f"{ORG}/attached-while")
    step(model)
    model.save_pretrained(tmp_path, push_to_hub=True, repo_id=f"{ORG}/attached-while", token=TOKEN)
    assert "recipe.json" not in files(f"{ORG}/attached-while")


def test_a_merged_repo_is_published_again_with_its_recipe() -> None:
    AutoCocktailModel.from_pretrained(RECIPE).push_to_hub(f"{ORG}/attached-first", token=TOKEN)
    AutoCocktailModel.from_pretrained(f"{ORG}/attached-first").push_to_hub(f"{ORG}/attached-second", token=TOKEN)
    assert files(f"{ORG}/attached-first") == files(f"{ORG}/attached-second")


def step(model: Any) -> None:
    """One step of training."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.tensor([[2, 6, 3]])).last_hidden_state.sum().backward()
    optimizer.step()


def edit(model: Any) -> None:
    """A change that torch does not count."""
    model.pooler.dense.weight.data.mul_(2)


def relabel(model: Any) -> None:
    """A change of the config."""
    model.config.id2label = {0: "other"}


@pytest.mark.parametrize(
    "change",
    [step, edit, relabel, lambda model: model.half(), lambda model: model.resize_token_embeddings(30)],
    ids=["training", "data", "config", "half", "resized"],
)
def test_a_changed_model_is_pushed_without_the_recipe(
    change: Callable[[Any], Any], caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    model = AutoCocktailModel.from_pretrained(RECIPE)
    change(model)
    with pytest.raises(PublishError, match="The model has changed since it was mixed"):
        model.push_to_hub(f"{ORG}/attached-changed", as_="recipe", token=TOKEN)
    repo_id = f"{ORG}/attached-{request.node.callspec.id}"
    with caplog.at_level(logging.WARNING, logger="cocktail_hub.publishing.model_hooks"):
        model.push_to_hub(repo_id, token=TOKEN)
    assert "pushed without the recipe" in caplog.text
    assert "recipe.json" not in files(repo_id)
    assert "cocktail-hub" not in (ModelCard.load(repo_id).data.tags or [])


@pytest.mark.parametrize(
    "use",
    [
        lambda model: model.train(),
        lambda model: model(torch.tensor([[2, 6, 3]])),
        lambda model: model.to("cpu"),
        lambda model: model.requires_grad_(False),
        lambda model: model.set_attn_implementation("eager"),
        lambda model: setattr(model.config, "use_cache", False),
    ],
    ids=["train", "forward", "to", "requires_grad", "attention", "cache"],
)
def test_a_model_that_was_only_used_is_still_the_mix(use: Callable[[Any], Any]) -> None:
    model = AutoCocktailModel.from_pretrained(RECIPE)
    use(model)
    model.push_to_hub(f"{ORG}/attached-used", token=TOKEN)
    assert "recipe.json" in files(f"{ORG}/attached-used")


def test_a_trained_model_pushed_over_its_mix_takes_the_recipe_away() -> None:
    repo_id = f"{ORG}/attached-over"
    AutoCocktailModel.from_pretrained(RECIPE).push_to_hub(repo_id, token=TOKEN)
    model = AutoCocktailModel.from_pretrained(repo_id)
    step(model)
    model.push_to_hub(repo_id, token=TOKEN)
    assert "recipe.json" not in files(repo_id)
    card = ModelCard.load(repo_id)
    assert "cocktail_hub" not in card.content
    assert card.data.base_model is None
    assert "cocktail-hub" not in (card.data.tags or [])
    with pytest.raises(SourceError, match="is not a recipe"):
        AutoCocktailModel.from_pretrained(repo_id)
    assert_holds(transformers.AutoModel.from_pretrained(repo_id), model.state_dict())


def test_a_trained_model_is_saved_without_the_recipe(tmp_path: Path) -> None:
    model = AutoCocktailModel.from_pretrained(RECIPE)
    model.save_pretrained(tmp_path / "mix")
    assert as_resolved(read_recipe(tmp_path / "mix" / "recipe.json")).digest == mix(RECIPE).recipe.digest
    assert model.cocktail == mix(RECIPE).recipe.to_dict()
    step(model)
    model.save_pretrained(tmp_path / "mix")
    assert {path.name for path in (tmp_path / "mix").iterdir()} == {"config.json", "model.safetensors"}


def test_a_mix_in_several_files_is_saved_in_the_same(tmp_path: Path) -> None:
    made = mix(RECIPE, output=tmp_path / "mix", options=MixOptions(max_shard_size="10KB"))
    AutoCocktailModel.from_pretrained(made.path).save_pretrained(tmp_path / "saved")
    names = {path.name for path in made.path.glob("model*")}
    assert {path.name for path in (tmp_path / "saved").iterdir()} == {
        *names,
        "config.json",
        "recipe.json",
        ".cocktail.json",
    }
    assert len(names) > 2
    AutoCocktailModel.from_pretrained(made.path).save_pretrained(tmp_path / "whole", max_shard_size="1GB")
    assert {path.name for path in (tmp_path / "whole").iterdir()} == {"config.json", "model.safetensors"}


def test_a_trained_model_saved_over_its_mix_leaves_no_card_and_a_readme_of_the_user_s(tmp_path: Path) -> None:
    made = mix(RECIPE, output=tmp_path / "mix")
    model = AutoCocktailModel.from_pretrained(made.path)
    step(model)
    card = (made.path / "README.md").read_text()
    for text in (card, f"# My cats\n\nLovely.\n\n{card[card.index(START) :]}"):
        (made.path / "README.md").write_text(text)
        model.save_pretrained(made.path)
        assert not (made.path / "recipe.json").exists()
        left = (made.path / "README.md").read_text() if (made.path / "README.md").is_file() else ""
        assert left == ("" if text == card else "# My cats\n\nLovely.\n")
    with pytest.raises(PublishError, match="was trained, or changed"):
        made.push_to_hub(f"{ORG}/attached-saved-over", token=TOKEN)


def test_a_model_that_was_moved_is_still_the_mix() -> None:
    """`Module.to` another device puts new tensors in the place of buffers, and new data into parameters."""
    model = AutoCocktailModel.from_pretrained(published("llama").recipe)
    model._apply(lambda tensor: tensor.clone())
    model.model.rotary_emb.inv_freq.copy_(model.model.rotary_emb.inv_freq * 1.0)
    model.push_to_hub(f"{ORG}/attached-moved", token=TOKEN)
    assert "recipe.json" in files(f"{ORG}/attached-moved")


def test_a_model_with_a_new_head_is_not_the_mix() -> None:
    model = AutoCocktailModel.from_pretrained(CLASSIFIER, num_labels=4, ignore_mismatched_sizes=True)
    assert not hasattr(model, "cocktail")
    model.push_to_hub(f"{ORG}/attached-head", token=TOKEN)
    assert "recipe.json" not in files(f"{ORG}/attached-head")
    masked = AutoCocktailModel.from_pretrained(RECIPE, task="fill-mask")
    assert not hasattr(masked, "cocktail")


def test_a_model_without_its_head_still_publishes_the_whole_mix() -> None:
    model = transformers.AutoModel.from_pretrained(CLASSIFIER)
    model.push_to_hub(f"{ORG}/attached-headless", token=TOKEN)
    again = transformers.AutoModelForSequenceClassification.from_pretrained(f"{ORG}/attached-headless")
    assert_holds(again, expected("classifier"))


def test_a_mix_that_left_the_cache_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COCKTAIL_HUB_CACHE", str(tmp_path))
    model = AutoCocktailModel.from_pretrained(RECIPE)
    Cache().prune(max_bytes=0)
    model.push_to_hub(f"{ORG}/attached-pruned", token=TOKEN)
    unkept = AutoCocktailModel.from_pretrained(published("bert").recipe, cache=False)
    unkept.push_to_hub(f"{ORG}/attached-unkept", token=TOKEN)
    for repo_id in (f"{ORG}/attached-pruned", f"{ORG}/attached-unkept"):
        assert_holds(transformers.AutoModel.from_pretrained(repo_id), expected("bert"))


def test_a_model_can_be_copied_saved_and_pickled(tmp_path: Path) -> None:
    model = AutoCocktailModel.from_pretrained(RECIPE)
    assert_holds(copy.deepcopy(model), expected("bert"))
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    assert_holds(torch.load(buffer, weights_only=False), expected("bert"))
    model.save_pretrained(tmp_path)
    again = transformers.AutoModel.from_pretrained(tmp_path)
    assert_holds(again, expected("bert"))
    assert AutoCocktailModel.from_pretrained(tmp_path).cocktail == model.cocktail


def test_a_model_may_be_loaded_in_inference_mode() -> None:
    with torch.inference_mode():
        model = AutoCocktailModel.from_pretrained(RECIPE)
    model.push_to_hub(f"{ORG}/attached-inference", token=TOKEN)
    assert "recipe.json" in files(f"{ORG}/attached-inference")

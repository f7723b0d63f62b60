"""CocktailConfig: a recipe that transformers reads, writes and hands keywords to."""

from __future__ import annotations

import copy
import json
import pickle
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from models import TOKEN, pair, published, push_recipe, read_pushed

from cocktail_hub import CocktailConfig, Recipe, publish
from cocktail_hub.errors import RecipeError

if TYPE_CHECKING:
    from pathlib import Path

TWO = {"ingredients": ["org/a", {"model": "org/b", "revision": "v1"}], "weights": [0.75, 0.25]}


def test_a_recipe_in_short_is_spelled_out() -> None:
    config = CocktailConfig(**TWO)
    assert config.ingredients == ["org/a", "org/b"]
    assert config.weights == [0.75, 0.25]
    assert config.recipe == {
        "schema": 1,
        "method": "linear",
        "ingredients": [{"model": "org/a", "weight": 0.75}, {"model": "org/b", "revision": "v1", "weight": 0.25}],
    }
    assert config.to_recipe() == Recipe.from_dict(config.recipe)
    assert config.to_recipe() == CocktailConfig.from_recipe(config.to_recipe()).to_recipe()


def test_every_key_of_a_recipe_can_be_given_in_short() -> None:
    keys: dict[str, Any] = {
        "task": "text-ranking",
        "method": "task_arithmetic",
        "base": "org/base",
        "layers": [{"match": "head.*", "weights": [1.0, 0.0]}],
        "dtype": "bfloat16",
        "tokenizer": "org/b",
        "seed": 3,
    }
    config = CocktailConfig(**TWO, **keys)
    recipe = config.to_recipe()
    assert (recipe.task, recipe.method, recipe.dtype, recipe.tokenizer, recipe.seed) == (
        "text-ranking",
        "task_arithmetic",
        "bfloat16",
        "org/b",
        3,
    )
    assert recipe.base is not None
    assert config.dtype is None
    assert not {"task", "method", "seed"} & config.to_dict().keys()


def test_weights_stay_open_with_a_weighting() -> None:
    config = CocktailConfig(ingredients=["org/a", "org/b"], weighting={"rule": "uniform"})
    assert config.weights is None


def test_a_dtype_of_torch_is_written_by_name() -> None:
    assert CocktailConfig(**TWO, dtype=torch.float16).to_recipe().dtype == "float16"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"ingredients": ["org/a", "org/b"], "weights": [1.0]}, r"`weights` has 1 numbers for 2 `ingredients`"),
        ({"ingredients": ["org/a", "org/b"], "weights": [0.5, 0.4]}, r"sum to 0\.9, not to 1"),
        ({**TWO, "methd": "ties"}, r"Unknown key 'methd'. Did you mean 'method'\?"),
        ({"models": ["org/a", "org/b"]}, r"Unknown key 'models'. List the models under `ingredients`.\n"),
        ({"models": ["org/a"], "weights": [1.0]}, r"Unknown key 'models'. List the models under `ingredients`.\n"),
        ({"ingredient": ["org/a", "org/b"]}, r"Unknown key 'ingredient'. Did you mean 'ingredients'\?"),
        ({**TWO, "merge_method": "ties"}, r"Unknown key 'merge_method'. The key is `method`.\n"),
        ({**TWO, "weightin": {}}, r"Unknown key 'weightin'. Did you mean 'weighting'\?"),
        ({**TWO, "recipe": {"ingredients": []}}, r"Give either `recipe`, or `ingredients` and `weights`, not both"),
        ({"recipe": {"ingredients": ["org/a"]}}, r"Method 'linear' takes 2 or more `ingredients`, got 1"),
        ({"recipe": {"ingredient": []}}, r"Did you mean 'ingredients'\?"),
        ({"weights": [0.5, 0.5]}, r"`weights` has 2 numbers for 0 `ingredients`"),
        ({**TWO, "task": "poetry"}, r"`task` must be one of"),
    ],
)
def test_a_wrong_recipe_says_what_to_fix(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        CocktailConfig(**keys)


def test_the_type_of_the_recipe_is_checked() -> None:
    with pytest.raises(StrictDataclassError, match="expected a dict, got list"):
        CocktailConfig(recipe=["org/a", "org/b"])  # type: ignore[arg-type]


def test_an_empty_config_exists_but_holds_no_recipe() -> None:
    with pytest.raises(RecipeError, match="This CocktailConfig is empty"):
        CocktailConfig().to_recipe()


def test_a_config_is_read_as_it_was_written(tmp_path: Path) -> None:
    config = CocktailConfig(**TWO, architectures=["BertModel"], id2label={0: "no", 1: "yes"})
    config.save_pretrained(tmp_path)
    for again in (transformers.AutoConfig.from_pretrained(tmp_path), CocktailConfig.from_pretrained(tmp_path)):
        assert type(again) is CocktailConfig
        assert again.to_recipe() == config.to_recipe()
        assert again.architectures == ["BertModel"]
        assert again.id2label == {0: "no", 1: "yes"}
    written = json.loads((tmp_path / "config.json").read_text())
    labels = {"id2label", "label2id"}
    assert written.keys() - labels == {"architectures", "model_type", "recipe", "transformers_version"}


def test_keywords_that_a_config_absorbs_are_kept_for_the_mix_and_not_written(tmp_path: Path) -> None:
    CocktailConfig(**TWO).save_pretrained(tmp_path)
    keywords = {"attn_implementation": "eager", "num_labels": 5, "output_attentions": True, "dtype": torch.float16}
    config, unused = transformers.AutoConfig.from_pretrained(
        tmp_path, return_unused_kwargs=True, device_map="cpu", **keywords
    )
    assert unused["device_map"] == "cpu"
    assert config.take_overrides() == keywords
    config.save_pretrained(tmp_path / "again")
    written = json.loads((tmp_path / "again" / "config.json").read_text())
    assert not any("override" in key or "attn" in key for key in written)
    assert "_overrides" not in config.to_dict()
    assert "_overrides" not in str(config)


def test_what_is_set_on_a_config_later_counts(tmp_path: Path) -> None:
    CocktailConfig(**TWO).save_pretrained(tmp_path)
    config = transformers.AutoConfig.from_pretrained(tmp_path, num_labels=5, output_hidden_states=True)
    config.num_labels = 3
    config.output_hidden_states = False
    config.return_dict = False
    assert config.take_overrides() == {"num_labels": 3, "output_hidden_states": False, "return_dict": False}
    assert CocktailConfig(**TWO).take_overrides() == {}


def test_a_name_and_a_recipe_are_no_keywords_for_the_model(tmp_path: Path) -> None:
    CocktailConfig(**TWO).save_pretrained(tmp_path)
    other = {"ingredients": [{"model": "org/c", "weight": 0.5}, {"model": "org/d", "weight": 0.5}]}
    config = transformers.AutoConfig.from_pretrained(tmp_path, name_or_path="org/x", recipe=other)
    assert config.ingredients == ["org/c", "org/d"]
    assert config.take_overrides() == {}


def test_configs_are_copied_with_their_keywords(tmp_path: Path) -> None:
    CocktailConfig(**TWO).save_pretrained(tmp_path)
    config = transformers.AutoConfig.from_pretrained(tmp_path, attn_implementation="eager")
    assert copy.deepcopy(config).take_overrides() == {"attn_implementation": "eager"}
    assert copy.deepcopy(config).to_recipe() == config.to_recipe()


def test_one_load_does_not_change_the_config_for_the_next() -> None:
    repo_id = push_recipe("bert", "acme/configuration-recipe")
    config = transformers.AutoConfig.from_pretrained(repo_id)
    before = config.to_dict()
    transformers.AutoModel.from_pretrained(repo_id, config=config, attn_implementation="eager")
    assert config.to_dict() == before
    assert config.ingredients == list(published("bert").ids)


@pytest.mark.whole
@pytest.mark.parametrize("family", ["bert", "llama", "t5", "classifier"])
def test_a_published_recipe_answers_like_the_config_of_the_mix(family: str) -> None:
    repo_id = f"acme/configuration-native-{family}"
    publish(published(family).recipe, repo_id, as_="recipe", token=TOKEN)
    config = transformers.AutoConfig.from_pretrained(repo_id)
    own = transformers.AutoConfig.from_pretrained(pair(family).folders[0])
    named = {"hidden_size", "vocab_size", "max_position_embeddings", "num_hidden_layers", "num_attention_heads"}
    assert not {"_name_or_path", "transformers_version"} & read_pushed(repo_id, "config.json")["native"].keys()
    for key in own.to_dict().keys() | {key for key in named if hasattr(own, key)}:
        if key not in ("_name_or_path", "dtype", "model_type", "transformers_version"):
            assert getattr(config, key) == getattr(own, key), key
    with pytest.raises(AttributeError, match="'nonsense'"):
        config.nonsense  # noqa: B018 - the access is the test
    assert copy.deepcopy(config).vocab_size == pickle.loads(pickle.dumps(config)).vocab_size == own.vocab_size
    assert config.take_overrides() == {}


def test_the_dtype_of_a_recipe_is_that_of_the_config_of_the_mix() -> None:
    publish({**published("bert").recipe, "dtype": "bfloat16"}, "acme/configuration-dtype", as_="recipe", token=TOKEN)
    assert read_pushed("acme/configuration-dtype", "config.json")["native"]["dtype"] == "bfloat16"


def test_what_is_set_on_the_config_of_a_published_recipe_reaches_the_mix() -> None:
    publish(published("bert").recipe, "acme/configuration-set", as_="recipe", token=TOKEN)
    config = transformers.AutoConfig.from_pretrained("acme/configuration-set", attention_probs_dropout_prob=0.3)
    config.hidden_dropout_prob = 0.7
    model = transformers.AutoModel.from_pretrained("acme/configuration-set", config=config)
    assert (model.config.attention_probs_dropout_prob, model.config.hidden_dropout_prob) == (0.3, 0.7)


def test_a_recipe_that_does_not_know_the_config_of_the_mix_says_so() -> None:
    config = CocktailConfig(**TWO)
    assert not hasattr(config, "hidden_size")
    with pytest.raises(AttributeError, match=r"^This CocktailConfig has no 'hidden_size': it is a recipe without the "):
        config.hidden_size  # noqa: B018 - the access is the test


def test_a_class_in_the_model_s_own_code_is_known_by_its_values() -> None:
    config = CocktailConfig(**TWO, native={"model_type": "own-code", "width": 8})
    assert config.width == 8
    assert not hasattr(config, "hidden_size")

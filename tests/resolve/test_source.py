"""Recipes loaded from everywhere, and the errors where there is none."""

from __future__ import annotations

import itertools
import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from huggingface_hub import CommitOperationAdd, HfApi

from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.errors import CheckpointError, RecipeError, SourceError
from cocktail_hub.hub import Hub, HubFiles
from cocktail_hub.integrations.config import CocktailConfig
from cocktail_hub.recipe import ModelReference, Recipe, dump_yaml
from cocktail_hub.resolve.source import (
    load_changed,
    load_recipe_source,
    refuse_local,
    source_of_config,
    with_weights_given,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cocktail_hub.testing import LoopbackHub

_NUMBERS = itertools.count()
DIGEST = "sha256:" + "a" * 64
COMMIT = "c" * 40
RECIPE: dict[str, Any] = {"ingredients": [{"model": "org/a", "weight": 0.75}, {"model": "org/b", "weight": 0.25}]}
CONFIG: dict[str, Any] = {"model_type": "cocktail", "architectures": ["BertModel"], "recipe": RECIPE}
RESOLVED: dict[str, Any] = {
    "ingredients": [
        {"model": "org/a", "revision": COMMIT, "requested": "main", "weight": 0.75},
        {"model": "./b", "digest": DIGEST, "weight": 0.25},
    ]
}
RECIPE_OF_TWO = Recipe.from_dict(RECIPE)


@pytest.fixture
def options(token: str) -> Hub:
    return Hub(token=token)


@pytest.fixture
def push(token: str) -> Callable[[dict[str, Any]], str]:
    """Make a repo with some JSON files; returns its id."""

    def commit(files: dict[str, Any]) -> str:
        api, repo = HfApi(token=token), f"alice/source-{next(_NUMBERS)}"
        api.create_repo(repo)
        additions = [CommitOperationAdd(path, _bytes(content)) for path, content in files.items()]
        api.create_commit(repo, additions, commit_message="Add")
        return repo

    return commit


def _bytes(content: Any) -> bytes:
    return content if isinstance(content, bytes) else json.dumps(content).encode()


def write(folder: Path, files: dict[str, Any]) -> Path:
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(_bytes(content))
    return folder


def models(recipe: Recipe) -> list[str]:
    return [reference.model for reference in recipe.references]


# -- values --------------------------------------------------------------------------------------------------------


def test_a_recipe_is_taken_as_it_is(options: Hub) -> None:
    found = load_recipe_source(RECIPE_OF_TWO, options)
    assert found.recipe is RECIPE_OF_TWO
    assert (found.name, found.config, found.files, found.commit) == ("recipe", {}, None, None)


@pytest.mark.parametrize("source", [RECIPE, CONFIG, CocktailConfig(recipe=RECIPE)], ids=["mapping", "config", "class"])
def test_mappings_and_configs_hold_a_recipe(source: Any, options: Hub) -> None:
    assert load_recipe_source(source, options).recipe == RECIPE_OF_TWO


def test_labels_of_a_config_are_kept(options: Hub) -> None:
    labels = {"id2label": {"0": "no", "1": "yes"}, "label2id": {"no": 0, "yes": 1}}
    assert load_recipe_source(CONFIG | labels, options).labels == {
        "id2label": {0: "no", 1: "yes"},
        "label2id": {"no": 0, "yes": 1},
    }
    made_up = {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}
    assert load_recipe_source(CONFIG | made_up, options).labels == {}


def test_a_list_is_a_recipe_of_its_models(options: Hub) -> None:
    models = ["org/a", {"model": "org/b", "revision": "v1"}]
    listed = with_weights_given(models, [0.75, 0.25])
    assert load_recipe_source(listed, options).recipe.weights == (0.75, 0.25)
    assert [i.label for i in load_recipe_source(tuple(listed), options).recipe.ingredients] == ["org/a", "org/b@v1"]
    with pytest.raises(RecipeError, match="`weights` has 1 numbers for 2 `ingredients`"):
        with_weights_given(models, [1.0])
    with pytest.raises(RecipeError, match=r"no `weight`.*\n.*\nGive every ingredient a `weight`"):
        load_recipe_source(models, options)


def test_weights_beside_a_recipe_are_refused(options: Hub) -> None:
    with pytest.raises(RecipeError, match=r"`weights` is given beside a str, which is not a list of models\."):
        with_weights_given("me/recipe", [0.5, 0.5])
    assert with_weights_given("me/recipe", None) == "me/recipe"


def test_models_and_changes_are_a_recipe(options: Hub) -> None:
    changes = {"weights": [2.0, 1.0], "normalize": True, "dtype": "bfloat16", "ingredients.1.revision": "v2"}
    found = load_changed(["org/a@v1", "org/b"], changes, options).recipe
    assert ([i.label for i in found.ingredients], found.weights) == (["org/a@v1", "org/b@v2"], (2.0, 1.0))
    assert (found.normalize, found.dtype, found.weighting) == (True, "bfloat16", None)
    changes = {"method": "ties", "base": "org/base", "parameters.density": 0.5, "weighting.examples": "e.jsonl"}
    found = load_changed(["org/a", "org/b"], changes, options).recipe
    assert (found.spec.base, found.base, found.parameters["density"]) == (
        "needed",
        ModelReference(model="org/base"),
        0.5,
    )
    assert (found.weights, found.weighting and found.weighting.examples) == (None, "e.jsonl")
    equal = load_changed(["org/a", "org/b"], {}, options).recipe
    assert equal.weights == (0.5, 0.5)


def test_a_recipe_is_changed_and_says_no_more_where_its_weights_came_from(options: Hub, tmp_path: Path) -> None:
    told = RECIPE | {"evidence": {"rule": "softmax"}}
    path = str(write(tmp_path, {"recipe.json": told}) / "recipe.json")
    found = load_changed([path], {"weights": [0.5, 0.5]}, options).recipe
    assert (found.weights, found.evidence) == ((0.5, 0.5), None)
    assert load_changed([path], {"seed": 3}, options).recipe.seed == 3
    scored = load_changed([path], {"weighting.examples": "mine.jsonl"}, options).recipe
    assert (scored.weights, scored.weighting and scored.weighting.examples) == (None, "mine.jsonl")
    with pytest.raises(RecipeError, match=r"`weights` has 3 numbers for 2 `ingredients`"):
        load_changed([path], {"weights": [0.5, 0.2, 0.3]}, options)


@pytest.mark.parametrize("key", ["ingredients.2.weight", "ingredients.a.weight", "method.name", "base.x.y"])
def test_a_key_that_is_not_there_cannot_be_set(key: str, options: Hub) -> None:
    with pytest.raises(RecipeError, match=f"`{key}` is not in the recipe.*\n.*cannot be set.*\n.*docs/recipe.md"):
        load_changed(["org/a", "org/b"], {"method": "linear", "base": "org/c", key: 1}, options)


@pytest.mark.parametrize("source", [3, None, {"org/a", "org/b"}, object()])
def test_what_cannot_be_a_recipe_is_named_by_its_type(source: Any, options: Hub) -> None:
    with pytest.raises(
        RecipeError, match=rf"A recipe cannot be read from a {type(source).__name__}\.\nGive a `Recipe`"
    ):
        load_recipe_source(source, options)


# -- files and folders ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["recipe.yaml", "recipe.yml", "recipe.json", "recipe"])
def test_a_file_is_read_whatever_its_name(tmp_path: Path, options: Hub, name: str) -> None:
    (tmp_path / name).write_text(dump_yaml(RECIPE_OF_TWO))
    found = load_recipe_source(tmp_path / name, options)
    assert found.recipe == RECIPE_OF_TWO
    assert found.name == str(tmp_path / name)


def test_the_folder_of_a_file_is_not_searched(tmp_path: Path, options: Hub) -> None:
    """A recipe may lie in a home folder with a million files."""
    (tmp_path / "recipe.yaml").write_text(dump_yaml(RECIPE_OF_TWO))
    assert load_recipe_source(tmp_path / "recipe.yaml", options).files is None


def test_a_file_that_is_not_there_is_named(tmp_path: Path, options: Hub) -> None:
    with pytest.raises(SourceError, match=r"Cannot read the recipe '.*none\.yaml'"):
        load_recipe_source(tmp_path / "none.yaml", options)


def test_a_file_of_weights_beside_the_recipe_is_refused_with_its_folder(tmp_path: Path, options: Hub) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "model.safetensors").write_bytes(b"")
    for written in ("a/model.safetensors", "./a/model.safetensors"):
        (tmp_path / "r.yaml").write_text(
            f"ingredients: [{{model: {written}, weight: 0.5}}, {{model: org/b, weight: 0.5}}]"
        )
        with pytest.raises(RecipeError, match=r"is a file of weights, not a model\.\n.*\nName the folder: '.*a'\."):
            load_recipe_source(tmp_path / "r.yaml", options)


def test_the_address_of_a_recipe_is_refused_with_its_id(options: Hub, hub: LoopbackHub) -> None:
    with pytest.raises(RecipeError, match=r"A recipe's repo must be a Hub id .*\n.*\nWrite 'me/my-mix'\."):
        load_recipe_source("https://huggingface.co/me/my-mix", options)
    assert hub.requests == []


def test_a_folder_that_is_not_there_is_named(options: Hub) -> None:
    with pytest.raises(
        SourceError, match=r"(?s)There is not a recipe at '\./none'\..*write 'org/name' without a leading"
    ):
        load_recipe_source("./none", options)


def test_relative_paths_start_at_the_folder_of_the_recipe(
    tmp_path: Path, options: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    write(here, {"a/config.json": {}, "inner/b/config.json": {}, "examples.jsonl": {}})
    monkeypatch.chdir(tmp_path)
    recipe = {
        "ingredients": ["./a", "inner/b", "../c", "org/hub", {"model": "org/lora", "base": "./base"}, "/elsewhere/d"],
        "anchor": "./anchor",
        "weighting": {"examples": "examples.jsonl"},
        "config": "inner/b",
        "tokenizer": "./a",
    }
    write(here, {"recipe.json": recipe})
    found = load_recipe_source("here/recipe.json", options).recipe
    assert models(found) == [
        *(str(here / "a"), str(here / "inner/b"), str(tmp_path / "c"), "org/hub", "org/lora", "/elsewhere/d"),
        str(here / "anchor"),
    ]
    assert found.ingredients[4].base is not None
    assert found.ingredients[4].base.model == str(here / "base")
    assert (found.config, found.tokenizer) == (str(here / "inner/b"), str(here / "a"))
    assert found.weighting is not None
    assert found.weighting.examples == str(here / "examples.jsonl")


def test_a_folder_of_the_same_name_elsewhere_is_not_meant(
    tmp_path: Path, options: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`org/a` of the recipe is a repo: the folder of that name is in the working directory, not beside the recipe."""
    (tmp_path / "started" / "org" / "a").mkdir(parents=True)
    write(tmp_path / "here", {"recipe.json": RECIPE})
    monkeypatch.chdir(tmp_path / "started")
    first = load_recipe_source(tmp_path / "here" / "recipe.json", options).recipe.ingredients[0]
    assert (first.model, first.revision, first.local) == ("org/a", "main", False)


def test_a_recipe_folder_is_read_with_its_other_files(tmp_path: Path, options: Hub) -> None:
    recipe = {"ingredients": [{"model": "./a", "weight": 0.5}, {"model": "org/b", "weight": 0.5}]}
    write(tmp_path, {"config.json": CONFIG | {"recipe": recipe}, "a/config.json": {}})
    found = load_recipe_source(tmp_path, options)
    assert models(found.recipe) == [str(tmp_path / "a"), "org/b"]
    assert isinstance(found.files, LocalFiles)
    assert not found.merged


def test_a_subfolder_is_read_and_its_paths_start_there(tmp_path: Path, options: Hub) -> None:
    recipe = {"ingredients": [{"model": "./a", "weight": 0.5}, {"model": "org/b", "weight": 0.5}]}
    write(tmp_path, {"mixes/one/config.json": CONFIG | {"recipe": recipe}, "mixes/one/a/config.json": {}})
    found = load_recipe_source(tmp_path, options, subfolder="mixes/one")
    assert found.folder == "mixes/one"
    assert models(found.recipe) == [str(tmp_path / "mixes/one/a"), "org/b"]


def test_a_merged_folder_has_weights_and_the_recipe_of_them(tmp_path: Path, options: Hub) -> None:
    write(tmp_path, {"config.json": {"model_type": "bert"}, "recipe.json": RESOLVED, "model.safetensors": b"x"})
    found = load_recipe_source(str(tmp_path), options)
    assert found.merged
    assert models(found.recipe) == ["org/a", str(tmp_path / "b")]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            {"config.json": {"model_type": "bert", "architectures": ["BertModel"]}},
            (
                "is not a recipe: it is an ordinary BertModel.\nThere is nothing to mix.\n"
                "To load it, use transformers.BertModel or AutoModel; to mix it, name another model beside it."
            ),
        ),
        ({"config.json": {"model_type": "bert"}}, "is not a recipe: it is an ordinary model."),
        (
            {"modules.json": [], "config.json": {"architectures": ["BertModel"]}},
            (
                "it is a sentence-transformers model.\nThere is nothing to mix.\n"
                "To load it, use sentence_transformers.SentenceTransformer; to mix it, name another model beside it."
            ),
        ),
        (
            {"adapter_config.json": {}},
            "it is a PEFT adapter.\nThere is nothing to mix.\nTo load it, use peft.",
        ),
        (
            {"README.md": b"x"},
            (
                "is not a recipe: it has neither config.json nor recipe.json.\nThere is nothing to mix.\n"
                "Check its name, or the `subfolder` of the recipe."
            ),
        ),
    ],
)
def test_what_is_no_recipe_says_what_loads_it(tmp_path: Path, options: Hub, files: dict[str, Any], words: str) -> None:
    with pytest.raises(SourceError, match=re.escape(words)):
        load_recipe_source(write(tmp_path, files), options)


def test_a_damaged_config_is_refused(tmp_path: Path, options: Hub) -> None:
    with pytest.raises(CheckpointError, match=r"'config.json' of '.*' is not JSON"):
        load_recipe_source(write(tmp_path, {"config.json": b"{"}), options)


def test_a_damaged_recipe_beside_weights_is_refused(tmp_path: Path, options: Hub) -> None:
    with pytest.raises(RecipeError, match=r"recipe\.json' is not valid YAML or JSON"):
        load_recipe_source(write(tmp_path, {"config.json": {}, "recipe.json": b'{"ingredients": [\xff'}), options)


# -- the Hub -------------------------------------------------------------------------------------------------------


def test_a_recipe_repo_is_read_at_its_commit(
    push: Callable[..., str], options: Hub, token: str, hub: LoopbackHub
) -> None:
    repo = push({"config.json": CONFIG, "examples.jsonl": b"{}\n"})
    commit = HfApi(token=token).repo_info(repo).sha
    hub.clear_requests()
    found = load_recipe_source(repo, options)
    assert found.recipe == RECIPE_OF_TWO
    assert (found.name, found.commit, found.merged) == (repo, commit, False)
    assert isinstance(found.files, HubFiles)
    assert "examples.jsonl" in found.files.sizes
    assert hub.sent("GET /_cdn/") == 0


def test_an_older_revision_of_a_recipe_is_another_recipe(push: Callable[..., str], options: Hub, token: str) -> None:
    repo = push({"config.json": CONFIG})
    first = HfApi(token=token).repo_info(repo).sha
    HfApi(token=token).create_commit(repo, [CommitOperationAdd("config.json", b"{}")], commit_message="x")
    assert load_recipe_source(repo, options, revision=first).recipe == RECIPE_OF_TWO
    with pytest.raises(SourceError, match="is not a recipe"):
        load_recipe_source(repo, options)


def test_a_recipe_in_a_subfolder_of_a_repo(push: Callable[..., str], options: Hub) -> None:
    found = load_recipe_source(push({"mixes/one/config.json": CONFIG}), options, subfolder="mixes/one")
    assert (found.recipe, found.folder) == (RECIPE_OF_TWO, "mixes/one")


def test_a_plain_model_on_the_hub_names_the_class_to_use(push: Callable[..., str], options: Hub) -> None:
    repo = push({"config.json": {"model_type": "bert", "architectures": ["BertForMaskedLM"]}})
    with pytest.raises(
        SourceError, match=rf"(?s)'{repo}' is not a recipe: it is an ordinary BertForMaskedLM.*AutoModel"
    ):
        load_recipe_source(repo, options)


def test_a_repo_that_is_not_there_is_named(options: Hub) -> None:
    with pytest.raises(SourceError, match="'alice/nothing' is not on the Hub"):
        load_recipe_source("alice/nothing", options)


@pytest.mark.parametrize(
    "change",
    [
        {"ingredients": [{"model": "../../etc", "weight": 0.5}, {"model": "org/b", "weight": 0.5}]},
        {"ingredients": [{"model": "/home/me/a", "weight": 0.5}, {"model": "org/b", "weight": 0.5}]},
        {"ingredients": [{"model": "~/a", "weight": 0.5}, {"model": "org/b", "weight": 0.5}]},
        {"ingredients": [{"model": "C:\\a", "weight": 0.5}, {"model": "org/b", "weight": 0.5}]},
        {"ingredients": [{"model": "org/a", "digest": DIGEST, "weight": 0.5}, {"model": "org/b", "weight": 0.5}]},
        {"ingredients": [{"model": "org/a", "base": "./x", "weight": 0.5}, {"model": "org/b", "weight": 0.5}]},
        {**RECIPE, "method": "ties", "base": "./base"},
        {**RECIPE, "anchor": "./anchor"},
    ],
)
def test_a_recipe_from_the_hub_cannot_name_a_folder(
    push: Callable[..., str], options: Hub, change: dict[str, Any]
) -> None:
    repo = push({"config.json": CONFIG | {"recipe": change}})
    with pytest.raises(RecipeError, match=rf"(?s)The recipe '{repo}' names the local folder '.*must not read folders"):
        load_recipe_source(repo, options)


def test_a_hub_id_in_a_recipe_from_the_hub_is_never_a_folder_here(
    push: Callable[..., str], options: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "org" / "a").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    first, second = load_recipe_source(push({"config.json": CONFIG}), options).recipe.ingredients
    assert (first.revision, first.local) == ("main", False)
    assert (second.revision, second.local) == (None, False)


def test_a_merged_repo_may_name_folders_but_cannot_be_mixed_from_them(push: Callable[..., str], options: Hub) -> None:
    repo = push({"config.json": {"model_type": "bert"}, "recipe.json": RESOLVED, "model.safetensors": b"x"})
    found = load_recipe_source(repo, options)
    assert found.merged
    with pytest.raises(RecipeError, match=r"names the local folder '\./b'"):
        refuse_local(found.recipe, found.name)


def test_a_recipe_file_without_weights_is_a_recipe_for_mixing(push: Callable[..., str], options: Hub) -> None:
    assert load_recipe_source(push({"recipe.json": RECIPE}), options).recipe == RECIPE_OF_TWO
    with pytest.raises(RecipeError, match="names the local folder"):
        load_recipe_source(push({"recipe.json": RESOLVED}), options)


# -- a config that transformers has read ---------------------------------------------------------------------------


def test_a_config_remembers_where_its_examples_are(push: Callable[..., str], options: Hub) -> None:
    api = options.api
    asked = {"ingredients": ["org/a", "org/b"], "weighting": {"examples": "e.jsonl"}}
    repo = push({"config.json": CONFIG | {"recipe": asked}, "e.jsonl": b"old"})
    first = api.repo_info(repo).sha
    api.create_tag(repo, tag="v1")
    api.create_commit(repo, [CommitOperationAdd("e.jsonl", b"new")], commit_message="Other examples")
    config = CocktailConfig.from_pretrained(repo, revision="v1", token=options.token)
    assert load_recipe_source(config, options).files.commit == first
    assert "_recipe_revision" not in config.to_dict()


def test_an_edited_config_is_taken_with_its_edits(tmp_path: Path, options: Hub) -> None:
    recipe = {"ingredients": [{"model": "./a", "weight": 0.5}, {"model": "org/b", "weight": 0.5}]}
    write(tmp_path, {"config.json": CONFIG | {"recipe": recipe}})
    changed = {"ingredients": [{"model": "./a", "weight": 0.25}, {"model": "org/b", "weight": 0.75}]}
    found = source_of_config(CocktailConfig(recipe=changed), tmp_path, options)
    assert found.recipe.weights == (0.25, 0.75)
    assert models(found.recipe) == [str(tmp_path / "a"), "org/b"]


def test_a_config_from_the_hub_cannot_name_a_folder_either(push: Callable[..., str], options: Hub) -> None:
    repo = push({"config.json": CONFIG})
    changed = {"ingredients": [{"model": "./a", "weight": 0.25}, {"model": "org/b", "weight": 0.75}]}
    with pytest.raises(RecipeError, match=rf"The recipe '{repo}' names the local folder '\./a'"):
        source_of_config(CocktailConfig(recipe=changed), repo, options)


def test_a_config_loaded_from_a_folder_remembers_it(tmp_path: Path, options: Hub) -> None:
    recipe = {"ingredients": [{"model": "./a", "weight": 0.5}, {"model": "org/b", "weight": 0.5}]}
    write(tmp_path, {"config.json": CONFIG | {"recipe": recipe}})
    assert models(load_recipe_source(CocktailConfig.from_pretrained(tmp_path), options).recipe) == [
        str(tmp_path / "a"),
        "org/b",
    ]


def test_a_config_loaded_from_the_hub_follows_the_rules_of_the_hub(
    push: Callable[..., str], options: Hub, token: str
) -> None:
    repo = push({"config.json": CONFIG})
    config = CocktailConfig.from_pretrained(repo, token=token)
    assert load_recipe_source(config, options).name == repo
    config.recipe = {"ingredients": [{"model": "./a", "weight": 0.5}, {"model": "org/b", "weight": 0.5}]}
    with pytest.raises(RecipeError, match=rf"The recipe '{repo}' names the local folder"):
        load_recipe_source(config, options)

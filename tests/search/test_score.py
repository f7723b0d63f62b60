"""Open weights from end to end, on the test Hub: scored once, merged once, loaded ever after."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import embedders
import models
import pytest
import torch
import yaml
from click.testing import CliRunner
from huggingface_hub import HfApi, hf_hub_download

from cocktail_hub import (
    AutoCocktailModel,
    CocktailConfig,
    Recipe,
    check,
    mix,
    publish,
    score,
)
from cocktail_hub.cli import main
from cocktail_hub.errors import CacheError, DiskSpaceError, RecipeError, ScoringError, SourceError
from cocktail_hub.evaluation import scorer
from cocktail_hub.merge import run as merging
from cocktail_hub.recipe import parse_recipe
from cocktail_hub.storage.cache import Cache

pytestmark = pytest.mark.whole

PASSAGES = [
    {"query": "where is the cat", "pos": ["the cat sat on the mat", "mat"], "neg": ["a dog ran", "paris", "yes"]},
    {"query": "who ran", "pos": ["a dog ran in the park"], "neg": ["the cat sat", "rome is it"]},
    {"query": "what is it", "pos": ["it is paris"], "neg": ["no", "the pod keeps crashing"]},
]
ANSWERS = [
    {"input": "where is the pod", "output": "in the park"},
    {"input": "the cat sat on", "output": "the mat"},
    {"input": "is it paris", "output": "no it is rome"},
]
WEIGHTS = r"GET .*\.safetensors|GET /_cdn/"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Nothing is cached from the test before: no losses, no weights, no mixes."""
    monkeypatch.setenv("COCKTAIL_HUB_CACHE", str(tmp_path / "cocktail"))
    return tmp_path / "cocktail"


@pytest.fixture
def scored(monkeypatch):
    """Names of the ingredients that are loaded to be scored, in order."""
    names, original = [], scorer.score_folder

    def spy(folder, *args, name, **kwargs):
        names.append(name)
        return original(folder, *args, name=name, **kwargs)

    monkeypatch.setattr(scorer, "score_folder", spy)
    return names


@pytest.fixture
def merged(monkeypatch):
    """One entry per merge."""
    runs, original = [], merging.execute

    def spy(*args, **kwargs):
        runs.append(args)
        return original(*args, **kwargs)

    monkeypatch.setattr(merging, "execute", spy)
    return runs


def open_recipe(*ids: str, **weighting) -> dict:
    return {"ingredients": [{"model": name} for name in ids], "weighting": weighting}


def local_recipe(family: str, **weighting) -> dict:
    return open_recipe(*map(str, models.pair(family).folders), **weighting)


def push_files(repo_id: str, files: dict[str, bytes | str], repo_type: str = "model") -> str:
    api = HfApi(token=models.TOKEN)
    api.create_repo(repo_id, repo_type=repo_type, exist_ok=True)
    for name, content in files.items():
        data = content if isinstance(content, bytes) else content.encode()
        commit = api.upload_file(path_or_fileobj=data, path_in_repo=name, repo_id=repo_id, repo_type=repo_type)
    return commit.oid


def push_open(repo_id: str, recipe: dict, **files: str) -> str:
    """A recipe repo with open weights, its models pinned."""
    api = HfApi(token=models.TOKEN)
    for ingredient in recipe["ingredients"]:
        ingredient |= {"revision": api.repo_info(ingredient["model"]).sha, "requested": "main"}
    config = {"model_type": "cocktail", "architectures": ["BertModel"], "recipe": recipe}
    push_files(repo_id, {"config.json": json.dumps(config)} | {k.replace("__", "."): v for k, v in files.items()})
    return repo_id


def jsonl(rows: list[dict]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def softmax(losses, temperature: float) -> list[float]:
    return torch.softmax(-torch.tensor(list(losses), dtype=torch.float64) / temperature, dim=0).tolist()


# -- once, and never again -------------------------------------------------------------------------------------------


def test_a_recipe_repo_with_open_weights_is_scored_and_merged_the_first_time_only(hub, token, scored, merged):
    ids = models.published("bert").ids
    recipe = open_recipe(*ids, examples="examples.jsonl", temperature=1.0)
    repo = push_open("alice/open-bert", recipe, examples__jsonl=jsonl(PASSAGES))
    first = AutoCocktailModel.from_pretrained(repo, token=token)
    assert scored == list(ids)
    assert len(merged) == 1
    evidence = first.cocktail["evidence"]
    weights = softmax((row["loss"] for row in evidence["ingredients"]), 1.0)
    assert [i["weight"] for i in first.cocktail["ingredients"]] == pytest.approx(weights, rel=1e-12)
    models.assert_holds(first, models.average(models.pair("bert").folders, weights))
    hub.clear_requests()
    second = AutoCocktailModel.from_pretrained(repo, token=token)
    assert len(scored) == 2
    assert len(merged) == 1
    assert hub.sent(WEIGHTS) == 0
    assert {request.path.split("?")[0] for request in hub.requests} == {f"/api/models/{repo}"}  # has it changed?
    models.assert_holds(second, first.state_dict())


def test_a_disk_too_small_for_the_models_is_said_before_any_is_downloaded(hub, tmp_path, monkeypatch):
    ids = models.published("bert").ids
    full = SimpleNamespace(disk_usage=lambda _: SimpleNamespace(free=1000))
    monkeypatch.setattr("cocktail_hub.storage.disk.shutil", full)  # the client has its own
    hub.clear_requests()
    with pytest.raises(DiskSpaceError, match="bytes for the downloads"):
        score(open_recipe(*ids, examples=PASSAGES), token=models.TOKEN, cache_dir=tmp_path / "hub")
    assert hub.sent("GET /_cdn/") < 100_000, "headers alone"


def test_a_folder_that_is_taken_is_said_before_anything_is_scored(tmp_path, scored):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(CacheError, match="exists and is not empty"):
        mix(local_recipe("bert", examples=PASSAGES), output=tmp_path / "mine")
    with pytest.raises(ScoringError, match="needs at least 2 examples, got 1"):
        mix(local_recipe("bert", examples=PASSAGES[:1], temperature="auto"))
    assert scored == []


def test_what_was_read_from_which_columns_is_said():
    pairs = [{"anchor": row["query"], "positive": row["pos"][0]} for row in PASSAGES]
    found = score(local_recipe("bert", examples=pairs))
    shape = "query from `anchor`, pos from `positive`, neg from the other examples"
    assert found.recipe.evidence["examples"]["shape"] == shape
    assert str(found).endswith(f"\nof the examples: {shape}")


@pytest.mark.parametrize(
    ("weighting", "words"),
    [
        ({"examples": PASSAGES[:1], "temperature": "auto"}, "needs at least 2 examples, got 1"),
        ({"examples": [{"query": "who ran", "pos": ["a dog"]}]}, "Example 0 has no negatives"),
        ({"examples": "nowhere.jsonl"}, "nowhere.jsonl"),
    ],
)
def test_a_check_says_what_scoring_would_refuse(weighting, words, scored):
    with pytest.raises((RecipeError, ScoringError, SourceError), match=words):
        check(local_recipe("bert", **weighting))
    assert check(local_recipe("bert", examples=PASSAGES)).models[0].weight is None
    assert scored == []


def test_the_second_time_works_without_the_hub(hub, token, scored, merged):
    repo = push_open(
        "alice/open-offline", open_recipe(*models.published("bert").ids, examples="e.jsonl"), e__jsonl=jsonl(PASSAGES)
    )
    AutoCocktailModel.from_pretrained(repo, token=token)
    hub.clear_requests()
    AutoCocktailModel.from_pretrained(repo, local_files_only=True)
    assert hub.requests == []
    assert (len(scored), len(merged)) == (2, 1)


def test_the_second_time_needs_neither_headers_nor_torch(tmp_path, own_cache):
    """The weights are known by the pinned recipe and the digest of the examples alone."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(local_recipe("bert", examples=PASSAGES)))
    first = mix(recipe)
    code = (
        "import sys; from cocktail_hub import mix; made = mix(sys.argv[1]); "
        "print(made.path, made.report['cached'], 'torch' in sys.modules)"
    )
    run = [sys.executable, "-c", code, str(recipe)]
    result = subprocess.run(run, capture_output=True, text=True, check=True, env={**os.environ})
    assert result.stdout.split() == [str(first.path), "True", "False"]


def test_the_weights_outlive_the_mix(scored, merged):
    recipe = local_recipe("bert", examples=PASSAGES)
    first = mix(recipe)
    Cache().prune(max_bytes=0)
    again = mix(recipe)
    assert again.recipe == first.recipe
    assert (len(scored), len(merged)) == (2, 2)


def test_force_makes_everything_again_but_the_losses(scored, merged):
    from cocktail_hub import MixOptions

    recipe = local_recipe("bert", examples=PASSAGES)
    first = mix(recipe)
    again = mix(recipe, options=MixOptions(force=True))
    assert again.recipe.weights == first.recipe.weights
    assert (len(scored), len(merged)) == (2, 2)


def test_other_examples_or_another_temperature_give_other_weights(scored):
    weights = [
        mix(local_recipe("bert", examples=examples, temperature=temperature)).recipe.weights
        for examples, temperature in ((PASSAGES, 1.0), (PASSAGES, 2.0), (PASSAGES[:2], 1.0))
    ]
    assert len(set(weights)) == 3
    assert len(scored) == 4  # the temperature does not change a loss


def test_a_changed_file_of_examples_is_scored_again(tmp_path, scored):
    examples = tmp_path / "examples.jsonl"
    recipe = local_recipe("bert", examples=str(examples))
    examples.write_text(jsonl(PASSAGES))
    first = mix(recipe)
    examples.write_text(jsonl(PASSAGES[:2]))
    assert mix(recipe).recipe.weights != first.recipe.weights
    assert len(scored) == 4


def test_adding_an_ingredient_costs_one_scoring(tmp_path, scored):
    folders = list(models.pair("bert").folders)
    third = models.save("bert", 3, tmp_path / "third")
    mix(open_recipe(*map(str, folders), examples=PASSAGES))
    mix(open_recipe(*map(str, [*folders, third]), examples=PASSAGES))
    assert scored == [*map(str, folders), str(third)]


def test_an_ingredient_added_in_front_costs_one_scoring_when_the_tokenizer_stays(tmp_path, scored):
    folders = list(models.pair("bert").folders)
    third = models.save("bert", 3, tmp_path / "third")
    mix(open_recipe(*map(str, folders), examples=PASSAGES))
    mix(open_recipe(*map(str, [third, *folders]), examples=PASSAGES))
    assert scored == [*map(str, folders), str(third)]


# -- where examples lie ----------------------------------------------------------------------------------------------


def test_examples_of_a_hub_dataset(token, tmp_path):
    rows = [{"question": e["query"], "right": e["pos"], "wrong": e["neg"]} for e in PASSAGES]
    commit = push_files(
        "alice/questions",
        {"data/train.jsonl": jsonl(rows), "data/test.jsonl": jsonl(rows[:1]), "dataset_infos.json": "{}"},
        "dataset",
    )
    push_files("alice/questions", {"data/train.jsonl": jsonl(rows[:2])}, "dataset")
    columns = {"query": "question", "pos": "right", "neg": "wrong"}
    where = {"examples": "alice/questions", "split": "train", "columns": columns}
    inline = mix(local_recipe("bert", examples=PASSAGES))
    pinned = mix(local_recipe("bert", **where, revision=commit), token=token)
    assert pinned.recipe.weights == inline.recipe.weights
    found = pinned.recipe.evidence["examples"]
    assert found["source"] == "datasets/alice/questions/data/train.jsonl"
    assert (found["revision"], found["count"]) == (commit, 3)
    newest = mix(local_recipe("bert", **where), token=token)
    assert newest.recipe.evidence["examples"]["count"] == 2


def test_a_dataset_that_does_not_say_which_file_lists_them(token):
    push_files("alice/many", {"train.jsonl": jsonl(PASSAGES), "test.csv": "query,pos,neg\n"}, "dataset")
    with pytest.raises(SourceError, match=r"2 files of the dataset 'alice/many' fit.*\n.*test.csv, train.jsonl"):
        mix(local_recipe("bert", examples="alice/many"), token=token)
    with pytest.raises(SourceError, match=r"0 files .* fit `split: dev`"):
        mix(local_recipe("bert", examples="alice/many", split="dev"), token=token)
    by_name = mix(local_recipe("bert", examples="alice/many", split="train.jsonl"), token=token)
    assert by_name.recipe.evidence["examples"]["count"] == 3


def test_a_path_is_taken_from_the_recipe_file(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "mine.jsonl").write_text(jsonl(PASSAGES))
    (tmp_path / "sub" / "recipe.yaml").write_text(yaml.safe_dump(local_recipe("bert", examples="mine.jsonl")))
    monkeypatch.chdir(tmp_path)
    found = mix("sub/recipe.yaml").recipe.evidence["examples"]
    assert (found["source"], found["count"]) == ("mine.jsonl", 3)


def test_a_path_to_nothing_says_so():
    with pytest.raises(SourceError, match=r"There is no file of examples at 'gone.jsonl'"):
        mix(local_recipe("bert", examples="gone.jsonl"))


@pytest.mark.parametrize("path", ["/etc/passwd", "../examples.jsonl", "~/examples.jsonl", "./gone.jsonl"])
def test_a_hub_recipe_reads_no_file_of_this_machine(path, token, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for folder in (tmp_path, tmp_path / "here"):
        (folder / "examples.jsonl").write_text(jsonl(PASSAGES))
        (folder / "gone.jsonl").write_text(jsonl(PASSAGES))
    repo = push_open("alice/open-evil", open_recipe(*models.published("bert").ids, examples=path))
    with pytest.raises(RecipeError, match="must not read the files of this machine"):
        mix(repo, token=token)
    config = CocktailConfig.from_pretrained(repo, token=token)
    with pytest.raises(RecipeError, match="must not read the files of this machine"):
        mix(config, token=token)
    for source in (repo, config):  # nor is it published under another name
        with pytest.raises(RecipeError, match="must not read the files of this machine"):
            publish(source, "alice/open-stolen", as_="recipe", token=token)


def test_a_copy_of_an_open_recipe_takes_its_examples_along(token, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples.jsonl").write_text("something private")
    recipe = open_recipe(*models.published("bert").ids, examples="examples.jsonl")
    repo = push_open("alice/open-copied", recipe, examples__jsonl=jsonl(PASSAGES))
    publish(repo, "alice/open-copy", as_="recipe", token=token)
    assert Path(hf_hub_download("alice/open-copy", "examples.jsonl", token=token)).read_text() == jsonl(PASSAGES)


def test_examples_that_are_gone_are_not_published_as_a_path(token, tmp_path):
    recipe = open_recipe(*models.published("bert").ids, examples=str(tmp_path / "gone.jsonl"))
    with pytest.raises(SourceError, match="There is no file of examples"):
        publish(recipe, "alice/open-gone", as_="recipe", token=token)


def test_a_hub_recipe_without_its_examples_says_so(token):
    repo = push_open("alice/open-lacking", open_recipe(*models.published("bert").ids, examples="examples.jsonl"))
    with pytest.raises(SourceError, match=r"has no file 'examples.jsonl', which its recipe names"):
        mix(repo, token=token)


def test_examples_in_a_subfolder_of_the_repo(token):
    api = HfApi(token=models.TOKEN)
    repo = push_open("alice/open-sub", open_recipe(*models.published("bert").ids, examples="examples.jsonl"))
    config = Path(api.hf_hub_download(repo, "config.json")).read_text()
    push_files(repo, {"deep/config.json": config, "deep/examples.jsonl": jsonl(PASSAGES)})
    made = mix(repo, subfolder="deep", token=token)
    assert made.recipe.evidence["examples"]["source"] == "alice/open-sub/deep/examples.jsonl"


# -- rules -----------------------------------------------------------------------------------------------------------


def test_the_anchor_keeps_its_share_and_is_not_scored(tmp_path, scored):
    anchor = models.save("bert", 9, tmp_path / "anchor")
    folders = models.pair("bert").folders
    recipe = local_recipe("bert", examples=PASSAGES, temperature=1.0) | {"anchor": {"model": str(anchor), "share": 0.5}}
    made = mix(recipe)
    assert scored == list(map(str, folders))
    inner = softmax((row["loss"] for row in made.recipe.evidence["ingredients"]), 1.0)
    assert made.recipe.weights == pytest.approx([0.5, *(0.5 * weight for weight in inner)], rel=1e-12)
    assert made.recipe.evidence["anchor"] == {"model": str(anchor), "share": 0.5}
    expected = models.average([anchor, *folders], made.recipe.weights)
    models.assert_holds(made.load(), expected)
    assert mix(recipe).report["cached"]
    assert "keeps 0.5 of the mix" in str(score(recipe))


def test_equal_weights_need_no_examples(scored):
    made = mix(local_recipe("bert", rule="uniform"))
    assert made.recipe.weights == (0.5, 0.5)
    assert made.recipe.evidence == {"rule": "uniform"}
    assert scored == []
    assert mix(local_recipe("bert", rule="uniform")).report["cached"]


MANY = [example | {"query": f"{example['query']} {number}"} for number in range(7) for example in PASSAGES]


def test_weights_from_the_mixed_outputs(scored, own_cache):
    recipe = local_recipe("bert", examples=MANY, rule="ensemble")
    made = mix(recipe)
    evidence = made.recipe.evidence
    assert evidence["rule"] == "ensemble"
    assert set(evidence["gain"]) == {"mean", "low", "high", "unit"}
    assert "cross-validated on 21 examples" in evidence["sentence"]
    assert evidence["sentence"].endswith("a local optimum, as the loss of averaged vectors is not convex")
    assert all(len(row["outputs"]) == 64 for row in evidence["ingredients"])
    models.assert_holds(made.load(), models.average(models.pair("bert").folders, made.recipe.weights))
    assert score(recipe).recipe == made.recipe
    assert len(scored) == 2  # the outputs are cached
    damaged = next(own_cache.glob("losses/*/*.npz"))
    damaged.write_bytes(damaged.read_bytes()[:-9])
    assert score(recipe).recipe == made.recipe
    assert len(scored) == 3


def test_too_few_examples_for_mixed_outputs_leave_the_weights_equal(scored):
    found = score(local_recipe("bert"), PASSAGES, rule="ensemble")
    assert found.recipe.weights == (0.5, 0.5)
    assert "3 examples are too few" in str(found)
    score(local_recipe("bert", examples=PASSAGES))
    assert len(scored) == 2  # the losses are those of `softmax`


def test_the_outputs_of_an_anchor_are_a_part_of_the_mix(tmp_path, scored):
    anchor = models.save("bert", 9, tmp_path / "anchor")
    recipe = local_recipe("bert", examples=MANY, rule="ensemble") | {"anchor": {"model": str(anchor), "share": 0.5}}
    made = mix(recipe)
    assert scored == [str(anchor), *map(str, models.pair("bert").folders)]
    assert made.recipe.weights[0] == 0.5
    assert sum(made.recipe.weights) == pytest.approx(1)
    assert [row["model"] for row in made.recipe.evidence["ingredients"]] == list(map(str, models.pair("bert").folders))


def test_a_prior_for_other_ingredients_is_refused(scored):
    recipe = local_recipe("bert", examples=MANY, rule="ensemble", prior=[1, 1, 1])
    with pytest.raises(ScoringError, match=r"`weighting\.prior` has 3 weights for 2 ingredients"):
        check(recipe)
    assert scored == []


def test_a_recipe_that_says_nothing_of_weights_is_scored_on_the_examples_given(tmp_path):
    folders = list(map(str, models.pair("bert").folders))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"ingredients": folders}))
    for source in ({"ingredients": folders}, folders, tmp_path / "recipe.yaml"):
        assert score(source, PASSAGES).weights.rule == "softmax"
    assert score(open_recipe(*folders, temperature=2.0), PASSAGES).weights.temperature == 2
    with pytest.raises(RecipeError, match="have no `weight`, and there is no `weighting`"):
        score(folders)


def test_the_temperature_from_the_noise():
    found = score(local_recipe("bert", examples=PASSAGES, temperature="auto"))
    assert found.weights.auto
    assert found.weights.temperature == pytest.approx(found.weights.noise)
    weights = softmax((one.mean for one in found.losses), found.weights.temperature)
    assert found.recipe.weights == pytest.approx(weights, rel=1e-12)


def test_weights_that_mean_little_come_with_a_warning():
    found = score(local_recipe("llama", examples=ANSWERS, temperature=500.0))
    assert found.weights.sentence.startswith("temperature 500 cannot tell these apart: 0.50")
    assert found.recipe.evidence["sentence"] == found.weights.sentence
    assert found.weights.sentence in str(found)


@pytest.mark.parametrize(("family", "examples"), [("bert", PASSAGES), ("reranker", PASSAGES), ("t5", ANSWERS)])
def test_the_batch_size_does_not_change_the_weights(family, examples, tmp_path, monkeypatch):
    found = []
    for size in (1, 2, 16):
        monkeypatch.setenv("COCKTAIL_HUB_CACHE", str(tmp_path / f"cache-{size}"))
        found.append(score(local_recipe(family, examples=examples, batch_size=size, temperature=1.0)).recipe.weights)
    assert found[1] == pytest.approx(found[0], rel=1e-5)
    assert found[2] == pytest.approx(found[0], rel=1e-5)


def test_the_seed_counts_only_where_negatives_are_chosen():
    def weights(seed: int, negatives: int) -> tuple[float, ...]:
        recipe = local_recipe("reranker", examples=PASSAGES, seed=seed, negatives=negatives)
        return score(recipe).recipe.weights

    assert weights(0, 3) == weights(1, 3)
    assert len({weights(seed, 1) for seed in range(6)}) > 1
    assert weights(4, 1) == weights(4, 1)


@pytest.mark.parametrize("family", ["reranker", "t5", "bart", "llama", "bert"])
def test_every_kind_is_scored_by_what_it_is(family):
    examples = PASSAGES if family in ("reranker", "bert") else ANSWERS
    found = score(local_recipe(family, examples=examples))
    assert [one.name for one in found.losses] == list(map(str, models.pair(family).folders))
    assert len(found.losses[0].per_example) == 3


# -- what goes wrong -------------------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_names_model_and_example_and_leaves_nothing(tmp_path, own_cache):
    from safetensors.torch import load_file, save_file

    broken = models.save("llama", 5, tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    tensors["model.norm.weight"].fill_(float("nan"))
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    recipe = open_recipe(str(models.pair("llama").folders[0]), str(broken), examples=ANSWERS)
    with pytest.raises(ScoringError, match="example 0") as caught:
        mix(recipe)
    assert caught.value.model == str(broken)
    assert not any((own_cache / "staging").glob("*"))
    assert not (own_cache / "mixes").exists()
    assert not (own_cache / "weights").exists()
    assert len(list((own_cache / "losses").rglob("*.json"))) == 1  # the other one need not be scored again


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([{"input": "a"}], "Example 0 has no key 'output'"),
        ([ANSWERS[0], {"input": "a", "output": " "}], "'output' of example 1 is empty"),
        ([{"input": "a", "output": 5}], "is of type int, not a text"),
    ],
)
def test_a_wrong_example_is_named(examples, message):
    with pytest.raises(ScoringError, match=message):
        mix(local_recipe("llama", examples=examples))


def test_a_sparse_encoder_is_not_scored_as_a_dense_one():
    with pytest.raises(ScoringError, match="is a SparseEncoder, which cannot be scored on examples"):
        mix(open_recipe(*embedders.published("sparse"), examples=PASSAGES), token=models.TOKEN)


def test_a_merged_repo_that_remembers_folders_reaches_into_none(token):
    here = {"ingredients": [{"model": f"./{name}", "digest": "xxh128:" + "a" * 32, "weight": 0.5} for name in "ab"]}
    recipe = json.dumps(here).encode()
    files = {"config.json": b'{"model_type": "bert"}', "recipe.json": recipe, "model.safetensors": b"x"}
    repo = "alice/remembers-folders"
    push_files(repo, files)
    for act in (check, lambda repo, token: score(repo, PASSAGES, token=token)):
        with pytest.raises(RecipeError, match="must not read folders of this machine"):
            act(repo, token=token)


def test_models_that_cannot_be_scored_say_so():
    with pytest.raises(ScoringError, match="Models for the task 'text-classification' cannot be scored"):
        mix(local_recipe("classifier", examples=PASSAGES))


# -- score() ---------------------------------------------------------------------------------------------------------


def test_given_weights_are_computed_anew():
    recipe = models.pair("bert").local_recipe
    found = score(recipe, PASSAGES, temperature=1.0)
    assert found.recipe.weights == pytest.approx(softmax((one.mean for one in found.losses), 1.0), rel=1e-12)


def test_a_caller_may_name_a_local_file_for_a_hub_recipe(token, tmp_path, monkeypatch):
    (tmp_path / "mine.jsonl").write_text(jsonl(PASSAGES))
    monkeypatch.chdir(tmp_path)
    repo = push_open("alice/open-mine", open_recipe(*models.published("bert").ids, examples="theirs.jsonl"))
    for examples in ("mine.jsonl", tmp_path / "mine.jsonl"):
        assert score(repo, examples, token=token).recipe.evidence["examples"]["count"] == 3


def test_examples_given_for_a_uniform_recipe_count():
    found = score(local_recipe("bert", rule="uniform"), PASSAGES)
    assert found.weights.rule == "softmax"


@pytest.mark.parametrize("suffix", ["list", "mapping", "file"])
def test_a_recipe_without_weights_or_examples_is_scored_by_what_the_call_gives(suffix, tmp_path):
    folders = list(map(str, models.pair("bert").folders))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"ingredients": folders}))
    source = {"list": folders, "mapping": {"ingredients": folders}, "file": tmp_path / "recipe.yaml"}[suffix]
    found = score(source, PASSAGES, temperature=1.0)
    assert found.recipe.weights == pytest.approx(softmax((one.mean for one in found.losses), 1.0), rel=1e-12)
    assert score(source, rule="uniform").recipe.weights == (0.5, 0.5)
    with pytest.raises(RecipeError, match=r"`weighting` has no `examples`"):
        score(source, rule="softmax")
    with pytest.raises(RecipeError, match=r"The ingredients have no `weight`, and there is no `weighting`"):
        score(source)


def test_columns_of_the_recipes_examples_do_not_apply_to_the_callers(tmp_path):
    recipe = local_recipe("bert", examples="gone.jsonl", columns={"query": "question"})
    assert score(recipe, PASSAGES).recipe.weights
    renamed = [{"question": e["query"], "pos": e["pos"], "neg": e["neg"]} for e in PASSAGES]
    assert score(recipe, renamed, columns={"query": "question"}).recipe.weights


def test_a_scored_recipe_is_never_scored_again(tmp_path, scored):
    found = score(local_recipe("bert", examples=PASSAGES))
    scored.clear()
    made = mix(found.recipe)
    assert scored == []
    assert made.recipe.weights == found.recipe.weights


# -- cocktail score --------------------------------------------------------------------------------------------------


@pytest.fixture
def recipe_file(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(local_recipe("bert", examples=PASSAGES, temperature=1.0)))
    return path


def run(*arguments: object):
    return CliRunner().invoke(main, ["score", *map(str, arguments)])


def test_the_command_prints_a_table(recipe_file):
    result = run(recipe_file)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["ingredient", "loss", "±", "s.e.", "weight"]
    assert lines[1].startswith(str(models.pair("bert").folders[0]))
    assert lines[3].startswith("effective number of ingredients: ")


def test_the_command_prints_json(recipe_file):
    result = run(recipe_file, "--json", "--temperature", "2")
    found = json.loads(result.stdout)
    assert found["evidence"]["temperature"] == 2.0
    assert sum(i["weight"] for i in found["ingredients"]) == pytest.approx(1.0)


def test_the_command_writes_a_recipe_that_is_never_scored_again(recipe_file, tmp_path, scored):
    output = tmp_path / "scored.yaml"
    assert run(recipe_file, "-o", output).exit_code == 0
    recipe = parse_recipe(output.read_text())
    assert recipe.weights is not None
    assert all(pin.pinned for pin in recipe.all_references)
    assert recipe.evidence["rule"] == "softmax"
    scored.clear()
    made = mix(output)
    assert scored == []
    assert made.recipe.weights == recipe.weights == score(recipe_file).recipe.weights


def test_the_command_takes_examples_from_a_file(recipe_file, tmp_path):
    examples = tmp_path / "other.jsonl"
    examples.write_text(jsonl(PASSAGES[:2]))
    result = run(recipe_file, "--examples", examples, "--json")
    assert json.loads(result.stdout)["evidence"]["examples"] == {
        "count": 2,
        "digest": score(recipe_file, PASSAGES[:2]).recipe.evidence["examples"]["digest"],
        "source": "other.jsonl",
    }


def test_the_command_says_what_is_wrong(recipe_file):
    assert run(recipe_file, "--temperature", "warm").exit_code == 2
    assert "neither a number nor 'auto'" in run(recipe_file, "--temperature", "warm").output
    assert "There is no folder" in run(recipe_file, "-o", recipe_file.parent / "gone" / "out.yaml").output
    failed = run(recipe_file, "--examples", "gone.jsonl")
    assert failed.exit_code == 1
    assert "There is no file of examples at 'gone.jsonl'" in failed.output


def test_a_recipe_value_is_scored_like_a_file(recipe_file):
    assert score(Recipe.from_dict(local_recipe("bert", examples=PASSAGES, temperature=1.0))).recipe.weights == (
        score(recipe_file).recipe.weights
    )

"""Publishing: recipe repos and merged repos, each in one commit, safe to repeat, and what is in them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import embedders
import pytest
import torch
import transformers
import yaml
from huggingface_hub import HfApi, ModelCard, hf_hub_download, snapshot_download
from models import (
    ORG,
    SHARES,
    TOKEN,
    assert_holds,
    expected,
    fill,
    pair,
    published,
    push,
    pushed_files,
    read_pushed,
    save,
    words_tokenizer,
)

from cocktail_hub import (
    AutoCocktailModel,
    CocktailConfig,
    Mix,
    MixOptions,
    Recipe,
    mix,
    publish,
)
from cocktail_hub.errors import PublishError, RecipeError
from cocktail_hub.hub import Hub
from cocktail_hub.publishing.card.header import END, START

if TYPE_CHECKING:
    from cocktail_hub.publishing.card.facts import Form
    from cocktail_hub.testing import LoopbackHub

pytestmark = pytest.mark.whole

API = HfApi(token=TOKEN)


def commits(repo_id: str, **keywords: Any) -> list[str]:
    return [commit.title for commit in API.list_repo_commits(repo_id, **keywords)]


# -- what is in a repo -----------------------------------------------------------------------------------------------


def test_a_merged_repo_is_an_ordinary_model_that_says_what_it_is_made_of() -> None:
    publish(published("classifier").recipe, f"{ORG}/publish-merged", token=TOKEN)
    assert pushed_files(f"{ORG}/publish-merged") == {
        ".cocktail.json",
        "README.md",
        "config.json",
        "model.safetensors",
        "recipe.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    config, recipe = (read_pushed(f"{ORG}/publish-merged", name) for name in ("config.json", "recipe.json"))
    assert config["model_type"] == "bert"
    assert "cocktail" not in config  # whoever trains the model would save it again
    assert Recipe.from_dict(recipe).weights == SHARES
    card = ModelCard.load(f"{ORG}/publish-merged")
    assert card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "text-classification"
    assert {"merge", "lm-cocktail", "cocktail-hub"} <= set(card.data.tags)


def test_both_is_a_merged_repo_that_is_offered_as_a_recipe() -> None:
    publish(published("bert").recipe, f"{ORG}/publish-both", as_="both", token=TOKEN)
    assert "`recipe.json` makes them again from the ingredients" in read_pushed(f"{ORG}/publish-both", "README.md")
    assert_holds(AutoCocktailModel.from_pretrained(f"{ORG}/publish-both"), expected("bert"))
    assert mix(f"{ORG}/publish-both").recipe.digest == mix(published("bert").recipe).recipe.digest


@pytest.mark.parametrize("form", ["recipe", "merged", "both"])
def test_the_hub_accepts_the_card(form: Form) -> None:
    publish(published("bert").recipe, f"{ORG}/publish-card-{form}", as_=form, token=TOKEN)
    ModelCard.load(f"{ORG}/publish-card-{form}").validate()


def test_generation_config_and_chat_template_go_along(tmp_path: Path) -> None:
    folder = save("llama", 5, tmp_path / "first")
    transformers.GenerationConfig(max_new_tokens=7, eos_token_id=3).save_pretrained(folder)
    recipe = {
        "ingredients": [
            {"model": str(folder), "weight": 0.5},
            {"model": str(pair("llama").folders[1]), "weight": 0.5},
        ]
    }
    publish(recipe, f"{ORG}/publish-generation", token=TOKEN)
    model = transformers.AutoModelForCausalLM.from_pretrained(f"{ORG}/publish-generation")
    assert model.generation_config.max_new_tokens == 7
    tokenizer = transformers.AutoTokenizer.from_pretrained(f"{ORG}/publish-generation")
    assert tokenizer.apply_chat_template([{"role": "user", "content": "the cat"}], tokenize=False) == "the cat "


def test_the_address_of_a_repo_is_no_place_to_publish_to() -> None:
    with pytest.raises(RecipeError) as caught:
        publish(pair("bert").local_recipe, f"https://huggingface.co/{ORG}/mine", token=TOKEN)
    first, *_, last = str(caught.value).splitlines()
    assert first == (
        f"The repo to publish to must be a Hub id such as 'org/name', got the address 'https://huggingface.co/{ORG}/mine'."
    )
    assert last == f"Write '{ORG}/mine'."


def test_processor_files_go_along(tmp_path: Path) -> None:
    folders = []
    for name, source in zip("ab", pair("bert").folders, strict=True):
        folder = tmp_path / name
        transformers.AutoModel.from_pretrained(source).save_pretrained(folder)
        (folder / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": name}))
        folders.append(folder)
    recipe = {"ingredients": [{"model": str(f), "weight": w} for f, w in zip(folders, SHARES, strict=True)]}
    publish(recipe, f"{ORG}/publish-processor", token=TOKEN)
    assert read_pushed(f"{ORG}/publish-processor", "preprocessor_config.json") == {"image_processor_type": "a"}


@pytest.mark.parametrize("form", ["recipe", "merged"])
def test_config_and_tokenizer_may_come_from_another_ingredient(form: Form, tmp_path: Path) -> None:
    second = tmp_path / "second"
    config = transformers.AutoConfig.from_pretrained(pair("bert").folders[1], hidden_dropout_prob=0.5)
    fill(transformers.BertModel(config), 3).save_pretrained(second)
    words_tokenizer(max_length=7).save_pretrained(second)
    push(second, f"{ORG}/publish-donor")
    first = published("bert").ids[0]
    models = [{"model": first, "weight": 0.5}, {"model": f"{ORG}/publish-donor", "weight": 0.5}]
    recipe = {"ingredients": models, "config": f"{ORG}/publish-donor", "tokenizer": f"{ORG}/publish-donor"}
    repo_id = f"{ORG}/publish-donated-{form}"
    publish(recipe, repo_id, as_=form, token=TOKEN)
    assert transformers.AutoTokenizer.from_pretrained(repo_id).model_max_length == 7
    assert AutoCocktailModel.from_pretrained(repo_id).config.hidden_dropout_prob == 0.5


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's own
def test_adapters_are_mixed_as_whole_models_and_their_recipe_needs_no_peft_file(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base, ids = published("llama").ids[0], []
    for seed, letter in enumerate("ab"):
        model = transformers.AutoModelForCausalLM.from_pretrained(pair("llama").folders[0])
        adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
        fill(torch.nn.ParameterList(p for name, p in adapted.named_parameters() if "lora_" in name), seed)
        adapted.peft_config["default"].base_model_name_or_path = base
        adapted.save_pretrained(tmp_path / letter)
        (tmp_path / letter / "README.md").unlink()
        ids.append(f"{ORG}/publish-lora-{letter}")
        push(tmp_path / letter, ids[-1])
    recipe = {"ingredients": [{"model": model, "weight": 0.5} for model in ids]}
    publish(recipe, f"{ORG}/publish-lora-recipe", as_="recipe", token=TOKEN)
    publish(recipe, f"{ORG}/publish-lora-merged", token=TOKEN)
    assert not {path for path in pushed_files(f"{ORG}/publish-lora-recipe") if "adapter" in path}
    auto = transformers.AutoModelForCausalLM
    mixed, merged = (auto.from_pretrained(f"{ORG}/publish-lora-{form}") for form in ("recipe", "merged"))
    assert not [name for name, _ in mixed.named_parameters() if "lora" in name]
    assert_holds(mixed, merged.state_dict())


# -- how it gets there -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["recipe", "merged", "both"])
def test_a_publication_is_one_commit_and_repeating_it_is_none(form: Form) -> None:
    repo_id = f"{ORG}/publish-once-{form}"
    first = publish(published("bert").recipe, repo_id, as_=form, token=TOKEN)
    assert len(commits(repo_id)) == 2  # the Hub's own initial commit, and this one
    assert first.oid == API.repo_info(repo_id).sha
    publish(published("bert").recipe, repo_id, as_=form, token=TOKEN)
    assert len(commits(repo_id)) == 2


def test_message_branch_and_visibility_are_the_caller_s() -> None:
    repo_id = f"{ORG}/publish-options"
    publish(
        published("bert").recipe,
        repo_id,
        as_="recipe",
        private=True,
        revision="next",
        commit_message="Mix cats and dogs",
        token=TOKEN,
    )
    assert API.repo_info(repo_id).private is True
    assert commits(repo_id, revision="next")[0] == "Mix cats and dogs"
    assert "config.json" not in API.list_repo_files(repo_id, revision="main")


def test_a_pull_request_changes_nothing_yet() -> None:
    repo_id = f"{ORG}/publish-proposal"
    API.create_repo(repo_id)
    info = publish(published("bert").recipe, repo_id, as_="recipe", create_pr=True, token=TOKEN)
    assert info.pr_num == 1
    assert "config.json" not in pushed_files(repo_id)
    assert read_pushed(repo_id, "config.json", revision="refs/pr/1")["model_type"] == "cocktail"


def test_weights_are_cut_as_wished() -> None:
    for source in (published("bert").recipe, mix(published("bert").recipe)):
        repo_id = f"{ORG}/publish-shards-{type(source).__name__.lower()}"
        publish(source, repo_id, max_shard_size="10KB", token=TOKEN)
        found = pushed_files(repo_id)
        assert "model.safetensors.index.json" in found
        assert "model.safetensors" not in found
        assert_holds(transformers.AutoModel.from_pretrained(repo_id), expected("bert"))


def test_an_earlier_publication_of_other_shards_leaves_nothing_behind() -> None:
    repo_id = f"{ORG}/publish-again"
    publish(published("bert").recipe, repo_id, max_shard_size="10KB", token=TOKEN)
    publish(published("bert").recipe, repo_id, token=TOKEN)
    assert {path for path in pushed_files(repo_id) if "model" in path} == {"model.safetensors"}


def test_a_readme_of_the_user_s_is_kept_and_only_our_section_changes() -> None:
    repo_id = f"{ORG}/publish-readme"
    API.create_repo(repo_id)
    mine = "---\nlicense: mit\ntags:\n- cats\n---\n\n# My cats\n\nLovely.\n"
    API.upload_file(path_or_fileobj=mine.encode(), path_in_repo="README.md", repo_id=repo_id)
    publish(published("bert").recipe, repo_id, as_="recipe", token=TOKEN)
    text = read_pushed(repo_id, "README.md")
    assert text.index("# My cats\n\nLovely.") < text.index(START) < text.index(END)
    assert yaml.safe_load(text.split("---")[1])["tags"][0] == "cats"
    assert yaml.safe_load(text.split("---")[1])["license"] == "mit"
    other = published("bert").recipe
    for ingredient in other["ingredients"]:
        ingredient["weight"] = 0.5
    publish(other, repo_id, as_="recipe", token=TOKEN)
    again = read_pushed(repo_id, "README.md")
    assert again.startswith(text[: text.index(START)])
    assert (again.count(START), again.count(END)) == (1, 1)
    assert "| 0.75 |" in text
    assert "| 0.75 |" not in again


def test_a_commit_that_fails_is_tried_again(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cocktail_hub.hub.errors.FIRST_WAIT", 0.01)
    hub.fail("POST .*/commit/main", status=503, times=1)
    publish(published("bert").recipe, f"{ORG}/publish-retried", as_="recipe", token=TOKEN)
    assert "config.json" in pushed_files(f"{ORG}/publish-retried")


@pytest.mark.parametrize("form", ["recipe", "merged"])
def test_without_a_login_nothing_is_read_or_published(form: Form, hub: LoopbackHub) -> None:
    source = published("bert").recipe
    hub.clear_requests()
    with pytest.raises(PublishError, match=r"You are not logged in\.\n.*\nRun `hf auth login`, or give a token\."):
        publish(source, f"{ORG}/publish-denied", as_=form, token=False)
    assert hub.requests == []


@pytest.mark.parametrize("form", ["recipe", "merged"])
def test_a_name_without_a_namespace_is_published_under_ones_own(form: Form) -> None:
    name = f"publish-short-{form}"
    info = publish(published("bert").recipe, name, as_=form, token=TOKEN)
    me = API.whoami()["name"]
    assert API.repo_info(f"{me}/{name}").sha == info.oid
    assert f"{me}/{name}" in read_pushed(f"{me}/{name}", "README.md")


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"`as_` must be one of merged, recipe, both, adapter, got 'weights'"):
        publish(published("bert").recipe, f"{ORG}/publish-form", as_="weights")  # type: ignore[arg-type]


# -- from where ------------------------------------------------------------------------------------------------------


def test_a_config_publishes_itself_as_a_recipe(tmp_path: Path) -> None:
    config = CocktailConfig(ingredients=list(published("classifier").ids), weights=list(SHARES))
    config.id2label, config.label2id = {0: "no", 1: "yes"}, {"no": 0, "yes": 1}
    config.push_to_hub(f"{ORG}/publish-config", token=TOKEN)
    assert read_pushed(f"{ORG}/publish-config", "config.json")["id2label"] == {"0": "no", "1": "yes"}
    assert AutoCocktailModel.from_pretrained(f"{ORG}/publish-config").config.label2id == {"no": 0, "yes": 1}
    config.save_pretrained(tmp_path, push_to_hub=True, repo_id=f"{ORG}/publish-config-saved", token=TOKEN)
    assert "tokenizer.json" in pushed_files(f"{ORG}/publish-config-saved")


def test_labels_of_the_recipe_reach_the_merged_repo() -> None:
    config = CocktailConfig(ingredients=list(published("classifier").ids), weights=list(SHARES))
    config.id2label, config.label2id = {0: "no", 1: "yes"}, {"no": 0, "yes": 1}
    publish(config, f"{ORG}/publish-labels", token=TOKEN)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(f"{ORG}/publish-labels")
    assert model.config.id2label == {0: "no", 1: "yes"}


def test_a_mix_publishes_itself_in_every_form() -> None:
    made = mix(published("bert").recipe)
    assert isinstance(made, Mix)
    made.push_to_hub(f"{ORG}/publish-mix", token=TOKEN)
    made.push_to_hub(f"{ORG}/publish-mix-recipe", as_="recipe", token=TOKEN)
    for repo_id in (f"{ORG}/publish-mix", f"{ORG}/publish-mix-recipe"):
        assert_holds(AutoCocktailModel.from_pretrained(repo_id), expected("bert"))


def test_a_recipe_repo_can_be_published_again_under_another_name() -> None:
    publish(published("bert").recipe, f"{ORG}/publish-first", as_="recipe", token=TOKEN)
    publish(f"{ORG}/publish-first", f"{ORG}/publish-second", as_="recipe", token=TOKEN)
    first, second = (read_pushed(f"{ORG}/publish-{name}", "config.json") for name in ("first", "second"))
    assert first == second


# -- what stays on this machine --------------------------------------------------------------------------------------


def test_weights_of_local_models_are_published_without_paths() -> None:
    repo_id = f"{ORG}/publish-local-merged"
    publish(pair("bert").local_recipe, repo_id, token=TOKEN)
    recipe = read_pushed(repo_id, "recipe.json")
    assert [i["model"] for i in recipe["ingredients"]] == ["./bert-a", "./bert-b"]
    for name in ("recipe.json", "config.json", "README.md"):
        text = Path(hf_hub_download(repo_id, name)).read_text()
        assert str(pair("bert").folders[0].parent) not in text
    assert "base_model" not in ModelCard.load(repo_id).data.to_dict()


def test_no_token_is_written_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("COCKTAIL_HUB_CACHE", str(tmp_path / "cache"))
    repo_id = f"{ORG}/publish-secret"
    hub = Hub(token=TOKEN, cache_dir=tmp_path / "hub")
    with caplog.at_level("DEBUG", logger="cocktail_hub"):
        for low_disk in (True, False):
            publish(published("llama").recipe, repo_id, options=MixOptions(hub=hub, low_disk=low_disk))
    assert TOKEN not in caplog.text
    mine = [path for path in tmp_path.rglob("*") if path.is_file()]
    sent = [Path(hf_hub_download(repo_id, name)) for name in API.list_repo_files(repo_id)]
    assert len(mine) > 5 < len(sent)
    assert not [path for path in (*mine, *sent) if TOKEN.encode() in path.read_bytes()]


def test_a_token_in_a_commit_message_is_not_published() -> None:
    repo, token = f"{ORG}/publish-said", "hf_" + "a1" * 17
    words = {"commit_message": f"Try {token}", "commit_description": f"With {token}."}
    publish(published("bert").recipe, repo, as_="recipe", token=TOKEN, **words)
    (commit,) = [found for found in API.list_repo_commits(repo) if found.title.startswith("Try")]
    assert (commit.title, commit.message) == ("Try hf_***", "With hf_***.")


@pytest.mark.parametrize("form", ["merged", "recipe"])
def test_the_evidence_is_drawn_beside_the_card(form: str) -> None:
    pytest.importorskip("matplotlib")
    rows = [{"model": name, "weight": 0.5, "loss": 1.0} for name in published("bert").ids]
    recipe = published("bert").recipe | {"evidence": {"rule": "softmax", "ingredients": rows}}
    repo = f"{ORG}/publish-drawn-{form}"
    for _ in range(2):
        publish(recipe, repo, as_=form, token=TOKEN)
    assert Path(hf_hub_download(repo, "evidence.png")).read_bytes().startswith(b"\x89PNG")
    assert "](evidence.png)" in Path(hf_hub_download(repo, "README.md")).read_text(encoding="utf-8")
    assert len(API.list_repo_commits(repo)) == 2, "nothing changed the second time"


def test_paths_in_the_evidence_are_not_published() -> None:
    rows = [{"model": "/home/alice/tuned", "loss": 1.0}, {"model": "acme/b", "loss": 1.5}]
    recipe = published("bert").recipe | {"evidence": {"rule": "softmax", "ingredients": rows}}
    publish(recipe, f"{ORG}/publish-evidence", as_="recipe", token=TOKEN)
    for name in API.list_repo_files(f"{ORG}/publish-evidence"):
        assert b"/home/alice" not in Path(hf_hub_download(f"{ORG}/publish-evidence", name)).read_bytes()


def test_what_lies_beside_a_mix_is_not_published(tmp_path: Path) -> None:
    made = mix(published("bert").recipe, output=tmp_path / "mix", token=TOKEN)
    (made.path / ".env").write_text("SECRET=1")
    (made.path / "runs").mkdir()
    (made.path / "runs" / "log.txt").write_text("mine")
    publish(mix(published("bert").recipe, output=tmp_path / "mix", token=TOKEN), f"{ORG}/publish-beside", token=TOKEN)
    assert {".env", "runs/log.txt"}.isdisjoint(API.list_repo_files(f"{ORG}/publish-beside"))
    folder = snapshot_download(f"{ORG}/publish-beside", local_dir=tmp_path / "again")  # with a .cache in it
    model = AutoCocktailModel.from_pretrained(folder)
    model.push_to_hub(f"{ORG}/publish-beside-again", token=TOKEN)
    assert "model.safetensors" in API.list_repo_files(f"{ORG}/publish-beside-again")


# -- without this package --------------------------------------------------------------------------------------------


def test_a_merged_repo_needs_nothing_of_ours() -> None:
    publish(published("llama").recipe, f"{ORG}/publish-plain-llama", token=TOKEN)
    publish(embedders.recipe("dense"), f"{ORG}/publish-plain-dense", token=TOKEN)
    publish(embedders.recipe("cross"), f"{ORG}/publish-plain-cross", token=TOKEN)
    llama, dense, cross = (f"{ORG}/publish-plain-{name}" for name in ("llama", "dense", "cross"))
    code = f"""
import json, sys, transformers
from sentence_transformers import CrossEncoder, SentenceTransformer
llama = transformers.AutoModelForCausalLM.from_pretrained({llama!r})
dense = SentenceTransformer({dense!r}, device="cpu").encode(["the cat"]).tolist()
cross = CrossEncoder({cross!r}, device="cpu").predict([("the cat", "the dog")]).tolist()
head = llama.lm_head.weight[0].tolist()
assert not [name for name in sys.modules if name.startswith("cocktail_hub")]
print(json.dumps([head, dense, cross]))
"""
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    head, vectors, scores = json.loads(done.stdout)
    assert head == expected("llama")["lm_head.weight"][0].tolist()
    near = pytest.approx
    assert vectors[0] == near(embedders.expected("dense").encode("the cat").tolist(), abs=1e-6)
    assert scores == near(embedders.expected("cross").predict([("the cat", "the dog")]).tolist(), abs=1e-6)


def test_weights_that_were_trained_are_not_published_as_the_mix(tmp_path: Path) -> None:
    made = mix(published("bert").recipe, output=tmp_path / "mix", token=TOKEN)
    fill(transformers.AutoModel.from_pretrained(made.path), 9).save_pretrained(made.path)  # without us
    words = r"^The model in '.+' was trained, .+: model\.safetensors has other weights than were mixed\.\nPublished as"
    with pytest.raises(PublishError, match=words):
        made.push_to_hub(f"{ORG}/publish-trained", token=TOKEN)
    assert not API.repo_exists(f"{ORG}/publish-trained")


@pytest.mark.parametrize("as_", ["merged", "recipe"])
def test_the_card_says_what_the_check_found(hub: LoopbackHub, tmp_path: Path, as_: str) -> None:
    folders = [save("bert", seed, tmp_path / f"noted-{seed}") for seed in range(2)]
    settings = folders[1] / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"strip_accents": False}))
    settings = folders[0] / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"strip_accents": True}))
    for folder in folders:
        push(folder, f"acme/{folder.name}")
    recipe = {"ingredients": [{"model": f"acme/{folder.name}", "weight": 0.5} for folder in folders]}
    publish(recipe, f"acme/noted-as-{as_}", as_=as_, token=TOKEN)  # type: ignore[arg-type]
    card = read_pushed(f"acme/noted-as-{as_}", "README.md")
    words = "says otherwise in 'acme/noted-0' than in 'acme/noted-1': strip\\_accents True / False."
    assert words.replace("\\_", "_") in card.partition("## What to know")[2].replace("\\_", "_")

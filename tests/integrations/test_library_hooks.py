"""Every way of loading a mix, training it or not, and saving it: card, recipe and weights agree.

What is saved is the mix with its recipe, or other weights about which nothing of ours is said.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import embedders
import pytest
import torch
import transformers
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from models import ORG, TEXTS, TOKEN
from safetensors.torch import load_file
from sentence_transformers import CrossEncoder, SentenceTransformer

from cocktail_hub import AutoCocktailModel, mix, publish, verify
from cocktail_hub.errors import RecipeError, SourceError
from cocktail_hub.publishing.card.header import START
from cocktail_hub.recipe import as_resolved, read_recipe

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.whole

AutoModel = transformers.AutoModelForSequenceClassification
LOADERS: dict[str, tuple[str, str, Any]] = {
    "AutoCocktailModel of a recipe": ("cross", "recipe", AutoCocktailModel.from_pretrained),
    "AutoCocktailModel of weights": ("cross", "merged", AutoCocktailModel.from_pretrained),
    "AutoModel of a recipe": ("cross", "recipe", AutoModel.from_pretrained),
    "AutoModel of weights": ("cross", "merged", AutoModel.from_pretrained),
    "mix and load": ("cross", "recipe", lambda repo_id: mix(repo_id).load()),
    "mix and load as a SentenceTransformer": (
        "dense",
        "recipe",
        lambda repo_id: mix(repo_id).load_sentence_transformer(),
    ),
    "CrossEncoder of a recipe": ("cross", "recipe", CrossEncoder),
    "CrossEncoder of weights": ("cross", "merged", CrossEncoder),
    "SentenceTransformer of a recipe": ("dense", "recipe", SentenceTransformer),
    "SentenceTransformer of weights": ("dense", "merged", SentenceTransformer),
}
"""Loader -> kind of embedder, form of its repo, function."""
UNKNOWN = (
    "AutoModel of weights",
    "CrossEncoder of weights",
    "SentenceTransformer of weights",
    "mix and load as a SentenceTransformer",
)
"""The library loads ordinary weights without us."""


def save(model: Any, folder: Path, repo_id: str) -> Path:
    model.save_pretrained(str(folder))
    return folder


def push(model: Any, folder: Path, repo_id: str) -> Path:
    options = {} if isinstance(model, transformers.PreTrainedModel) else {"exist_ok": True}
    model.push_to_hub(repo_id, token=TOKEN, **options)
    return Path(snapshot_download(repo_id, local_dir=folder, token=TOKEN))


def trainer(model: Any, folder: Path, repo_id: str) -> transformers.Trainer:
    model = model if isinstance(model, transformers.PreTrainedModel) else model.transformers_model
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), use_cpu=True, report_to="none", hub_model_id=repo_id, hub_token=TOKEN
    )
    return transformers.Trainer(model=model, args=arguments)


def save_in_trainer(model: Any, folder: Path, repo_id: str) -> Path:
    trainer(model, folder, repo_id).save_model()
    return folder


def push_in_trainer(model: Any, folder: Path, repo_id: str) -> Path:
    trainer(model, folder, repo_id).push_to_hub()
    return Path(snapshot_download(repo_id, local_dir=folder.with_name("pushed"), token=TOKEN))


SAVERS: dict[str, Callable[[Any, Path, str], Path]] = {
    "save_pretrained": save,
    "push_to_hub": push,
    "Trainer.save_model": save_in_trainer,
    "Trainer.push_to_hub": push_in_trainer,
}
CELLS = [
    (loader, saver)
    for loader, (kind, _, _) in LOADERS.items()
    for saver in SAVERS
    if kind != "dense" or not saver.startswith("Trainer")  # that of transformers saves one of the modules
]


def step(model: torch.nn.Module) -> None:
    """Change every weight a little, as training does."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)


def tensors(folder: Path) -> dict[str, list[Any]]:
    files = {path.relative_to(folder).as_posix(): load_file(path) for path in folder.rglob("*.safetensors")}
    return {f"{path} {name}": tensor.tolist() for path, file in files.items() for name, tensor in file.items()}


def assert_agrees(folder: Path, kind: str, *, trained: bool) -> None:
    """Check what a folder says of its weights."""
    config = json.loads((folder / "config.json").read_text())
    card = (folder / "README.md").read_text() if (folder / "README.md").is_file() else ""
    assert config["model_type"] == "bert"
    assert "cocktail" not in config
    assert "contains no weights" not in card
    made = mix(embedders.recipe(kind))
    assert (tensors(folder) == tensors(made.path)) is not trained
    if trained:
        assert START not in card
        assert not (folder / "recipe.json").exists()
        assert not (folder / ".cocktail.json").exists()
        with pytest.raises(SourceError, match="is not a recipe: it is"):
            AutoCocktailModel.from_pretrained(folder)
    elif (folder / "recipe.json").is_file():
        assert as_resolved(read_recipe(folder / "recipe.json")).digest == made.recipe.digest
        assert AutoCocktailModel.from_pretrained(folder).cocktail["ingredients"] == made.recipe.to_dict()["ingredients"]


@pytest.fixture(scope="module", autouse=True)
def repos() -> dict[tuple[str, str], str]:
    """(kind, form) -> repo."""
    found = {(kind, form): f"{ORG}/saved-{kind}-{form}" for kind in ("cross", "dense") for form in ("recipe", "merged")}
    for (kind, form), repo_id in found.items():
        publish(embedders.recipe(kind), repo_id, as_=form, token=TOKEN)
    return found


@pytest.mark.parametrize("trained", [False, True], ids=["untouched", "trained"])
@pytest.mark.parametrize(("loader", "saver"), CELLS)
def test_card_recipe_and_weights_agree(
    loader: str, saver: str, trained: bool, repos: dict[tuple[str, str], str], tmp_path: Path
) -> None:
    kind, form, load = LOADERS[loader]
    model = load(repos[kind, form])
    if trained:
        step(model)
    repo_id = f"{ORG}/saved-{'-'.join((loader, saver, str(trained))).lower().replace(' ', '-')}"
    folder = SAVERS[saver](model, tmp_path / "saved", repo_id)
    assert_agrees(folder, kind, trained=trained)
    if not trained and loader not in UNKNOWN:
        assert (folder / "recipe.json").is_file()


@pytest.mark.parametrize("trained", [False, True], ids=["untouched", "trained"])
@pytest.mark.parametrize(("loader", "saver"), [cell for cell in CELLS if "push" in cell[1]])
def test_a_repo_that_a_model_is_pushed_over_says_what_it_is_now(
    loader: str, saver: str, trained: bool, tmp_path: Path
) -> None:
    kind, form, load = LOADERS[loader]
    repo_id = f"{ORG}/over-{'-'.join((loader, saver, str(trained))).lower().replace(' ', '-')}"
    publish(embedders.recipe(kind), repo_id, as_=form, token=TOKEN)
    model = load(repo_id)
    if trained:
        step(model)
    folder = SAVERS[saver](model, tmp_path / "saved", repo_id)
    if trained and form == "merged" and loader.startswith(("AutoModel", saver.replace("Trainer.push_to_hub", "Cross"))):
        assert_is_found_out(folder, repo_id)
    else:
        assert_agrees(folder, kind, trained=trained)


def assert_is_found_out(folder: Path, repo_id: str) -> None:
    """Check that weights are not taken for the mix of a recipe that was left beside them."""
    assert (folder / "recipe.json").is_file()
    for source in (folder, repo_id):
        with pytest.raises(RecipeError, match="was trained, or changed in another way, since it was mixed: model"):
            publish(source, f"{ORG}/over-refused", token=TOKEN)
        assert verify(source, token=TOKEN).changed == ("model.safetensors has other weights than were mixed",)
    model = AutoCocktailModel.from_pretrained(repo_id)
    assert not hasattr(model, "cocktail")
    model.push_to_hub(repo_id, token=TOKEN)
    assert {"recipe.json", ".cocktail.json"}.isdisjoint(HfApi().list_repo_files(repo_id))


@pytest.mark.parametrize("saver", ["save_pretrained", "push_to_hub"])
def test_a_module_behind_the_transformer_counts(saver: str, repos: dict[tuple[str, str], str], tmp_path: Path) -> None:
    model = SentenceTransformer(repos["dense", "recipe"])
    step(model[2])
    folder = SAVERS[saver](model, tmp_path / "saved", f"{ORG}/saved-module-{saver.replace('_', '-')}")
    assert_agrees(folder, "dense", trained=True)
    assert (folder / "README.md").read_text().count("This is a [sentence-transformers]") == 1


def test_what_is_pushed_computes_the_same(repos: dict[tuple[str, str], str]) -> None:
    model = SentenceTransformer(repos["dense", "recipe"])
    address = model.push_to_hub(f"{ORG}/saved-same", token=TOKEN, commit_message="Mix", revision="next", private=True)
    (commit, *_) = HfApi(token=TOKEN).list_repo_commits(f"{ORG}/saved-same", revision="next")
    assert commit.title == "Mix"
    assert address.endswith(commit.commit_id)
    again = SentenceTransformer(f"{ORG}/saved-same", revision="next", token=TOKEN)
    assert torch.equal(model.encode(TEXTS, convert_to_tensor=True), again.encode(TEXTS, convert_to_tensor=True))
    assert again.prompts == model.prompts
    assert verify(f"{ORG}/saved-same", revision="next", token=TOKEN).same
    with pytest.raises(HfHubHTTPError, match="409"):
        model.push_to_hub(f"{ORG}/saved-same", token=TOKEN)


def test_a_push_of_other_weights_is_proposed_whole(repos: dict[tuple[str, str], str]) -> None:
    repo_id = f"{ORG}/saved-proposed"
    publish(embedders.recipe("dense"), repo_id, token=TOKEN)
    model = SentenceTransformer(repo_id)
    step(model)
    address = model.push_to_hub(repo_id, token=TOKEN, create_pr=True)
    revision = f"refs/pr/{address.rpartition('/')[2]}"
    assert "recipe.json" not in HfApi().list_repo_files(repo_id, revision=revision)
    assert START not in Path(hf_hub_download(repo_id, "README.md", revision=revision)).read_text()
    assert "recipe.json" in HfApi().list_repo_files(repo_id)


def test_a_card_is_written_only_where_one_is_wanted(repos: dict[tuple[str, str], str], tmp_path: Path) -> None:
    SentenceTransformer(repos["dense", "recipe"]).save_pretrained(str(tmp_path), create_model_card=False)
    assert not (tmp_path / "README.md").exists()
    assert (tmp_path / "recipe.json").is_file()


def test_ordinary_models_are_saved_and_pushed_as_ever(tmp_path: Path) -> None:
    (folder, _) = embedders.pair("dense")
    model = SentenceTransformer(str(folder))
    model.save_pretrained(str(tmp_path))
    assert "This is a [sentence-transformers]" in (tmp_path / "README.md").read_text()
    model.push_to_hub(f"{ORG}/saved-ordinary", token=TOKEN)
    assert len(HfApi().list_repo_commits(f"{ORG}/saved-ordinary")) == 2

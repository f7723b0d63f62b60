from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from cocktail_hub.errors import RecipeError, SourceError
from cocktail_hub.recipe import Anchor, Ingredient, ModelReference, as_path, is_local, is_path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize("model", ["./m", "../m", ".", "~/m", "/data/m", "C:\\m", "C:/m", "sub\\m"])
def test_a_path_is_local_whether_it_exists_or_not(model: str) -> None:
    assert is_path(model)
    assert is_local(model)
    assert ModelReference(model=model).local


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("a" * 3000, r"'a{80}\.\.\.' cannot be looked for"),
        ("~nobody-has-this-name/m", "Could not determine home directory"),
        ("a\0b", "embedded null"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="other names there")
def test_a_name_that_no_file_can_have_is_refused(model: str, words: str) -> None:
    with pytest.raises(SourceError, match=words):
        ModelReference(model=model)


def test_a_tilde_stands_for_a_home_at_the_start_alone() -> None:
    assert as_path("~/m") == Path.home() / "m"
    assert as_path("./~root") == Path("~root")
    assert ModelReference(model="./~nobody-has-this-name").local


@pytest.mark.parametrize("model", ["org/name", "gpt2", "org/name.v1", "Org-1/name_2"])
def test_a_hub_id_is_no_path(model: str) -> None:
    assert not is_path(model)
    assert not is_local(model)
    assert not ModelReference(model=model).local


def test_a_hub_id_that_is_a_folder_here_is_local_unless_it_has_a_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pinned recipe means the same wherever it is read."""
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert ModelReference(model="org/name").local
    assert not ModelReference(model="org/name", revision=COMMIT).local


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("org/name", {"model": "org/name"}),
        ("org/name@v1", {"model": "org/name", "revision": "v1"}),
        ("org/name@refs/pr/1", {"model": "org/name", "revision": "refs/pr/1"}),
        ({"model": "org/name@v1"}, {"model": "org/name", "revision": "v1"}),
        ({"model": "org/name@v1", "revision": None}, {"model": "org/name", "revision": "v1"}),
        ("./at@home", {"model": "./at@home"}),
        ({"model": "org/a", "base": "org/b@v2"}, {"model": "org/a", "base": {"model": "org/b", "revision": "v2"}}),
    ],
)
def test_a_model_is_named_in_short_or_by_a_mapping(value: Any, expected: dict[str, Any]) -> None:
    assert ModelReference.from_value(value, "base").to_dict() == expected


def test_two_revisions_of_one_ingredient_are_refused() -> None:
    with pytest.raises(RecipeError, match="must be a Hub id such as 'org/name' or a local folder, got 'org/a@v1'"):
        ModelReference.from_value({"model": "org/a@v1", "revision": "v2"}, "base")


@pytest.mark.parametrize(
    ("address", "meant"),
    [
        ("https://huggingface.co/org/name", "org/name"),
        ("huggingface.co/org/name/", "org/name"),
        ("https://hf.co/org/name/tree/v1", "org/name@v1"),
        ("http://www.huggingface.co/org/na.me?library=x", "org/na.me"),
    ],
)
def test_an_address_is_refused_with_the_id_in_it(address: str, meant: str) -> None:
    with pytest.raises(RecipeError) as caught:
        ModelReference.from_value(address, "base")
    assert str(caught.value).startswith("`model` must be a Hub id such as 'org/name', got the address")
    assert str(caught.value).endswith(f"\nWrite '{meant}'.")


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "q4.gguf"])
def test_a_file_of_weights_is_refused_with_its_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    for written in (name, f"./{name}", str(tmp_path / name)):
        with pytest.raises(RecipeError, match=rf"{re.escape(name)}' is a file of weights, not a model") as caught:
            ModelReference(model=written)
        assert str(caught.value).endswith(f"\nName the folder: '{tmp_path}'.")
    assert not ModelReference(model=name, revision="main").local


def test_a_digest_makes_a_folder_of_any_name() -> None:
    assert ModelReference(model="org/gone", digest=DIGEST).local


def test_a_folder_with_a_digest_has_no_revision() -> None:
    with pytest.raises(RecipeError, match="'org/a' is a local folder, but has the `revision` 'main'"):
        ModelReference(model="org/a", revision="main", digest=DIGEST)


@pytest.mark.parametrize(
    ("pin", "pinned"),
    [
        (ModelReference(model="org/a"), False),
        (ModelReference(model="org/a", revision="main"), False),
        (ModelReference(model="org/a", revision=COMMIT[:12]), False),
        (ModelReference(model="org/a", revision=COMMIT.upper()), False),
        (ModelReference(model="org/a", revision=COMMIT), True),
        (ModelReference(model="./a"), False),
        (ModelReference(model="./a", digest=DIGEST), True),
        (ModelReference(model="org/a", revision=COMMIT, base=ModelReference(model="org/b", revision="main")), False),
        (ModelReference(model="org/a", revision=COMMIT, base=ModelReference(model="org/b", revision=COMMIT)), True),
    ],
)
def test_only_a_whole_commit_or_a_digest_pins(pin: ModelReference, pinned: bool) -> None:
    assert pin.pinned is pinned


@pytest.mark.parametrize(
    ("pin", "label"),
    [
        (ModelReference(model="org/a"), "org/a"),
        (ModelReference(model="org/a", revision="main"), "org/a"),
        (ModelReference(model="org/a", revision="release-2026-01-31"), "org/a@release-2026-01-31"),
        (ModelReference(model="org/a", revision=COMMIT), "org/a@0123456789ab"),
        (ModelReference(model="org/a", revision=COMMIT, requested="v1"), "org/a@v1"),
        (ModelReference(model="org/a", revision=COMMIT, requested="main"), "org/a"),
    ],
)
def test_the_label_is_what_people_asked_for(pin: ModelReference, label: str) -> None:
    assert pin.label == label


def test_the_identity_knows_commits_and_digests_but_no_names_of_branches_or_folders() -> None:
    repo = ModelReference(model="org/a", revision=COMMIT, requested="v1")
    assert repo.identity() == {"model": "org/a", "revision": COMMIT}
    folder = ModelReference(model="/home/me/a", digest=DIGEST, base=repo)
    assert folder.identity() == {"digest": DIGEST, "base": {"model": "org/a", "revision": COMMIT}}


@pytest.mark.parametrize("share", [-0.1, 1.1, "half", None, float("nan")])
def test_the_share_of_an_anchor_is_a_number_from_0_to_1(share: Any) -> None:
    with pytest.raises(RecipeError, match=re.escape("`anchor.share` must be ")):
        Anchor(model="org/a", share=share)


def test_numbers_of_other_libraries_become_floats() -> None:
    numpy = pytest.importorskip("numpy")
    weight = Ingredient(model="org/a", weight=numpy.float32(0.5)).weight
    assert type(weight) is float
    assert weight == 0.5


# -- layers, and recipes in place of a model -----------------------------------------------------------------------

INNER = {"ingredients": [{"model": "org/a", "weight": 0.5}, {"model": "org/b", "weight": 0.5}]}


def test_a_range_of_layers_is_a_part_of_what_the_content_is() -> None:
    found = ModelReference.from_value({"model": "org/a", "layer_range": [0, 8]}, "base")
    assert found.layer_range == (0, 8)
    assert found.to_dict() == {"model": "org/a", "layer_range": [0, 8]}
    assert found.identity()["layer_range"] == [0, 8]


@pytest.mark.parametrize("value", [[3], [3, 3], [4, 2], [0, 1, 2]])
def test_a_range_of_layers_that_is_none_is_refused(value: list[int]) -> None:
    with pytest.raises(RecipeError, match=r"`layer_range of 'org/a'` must be two numbers, the second one larger"):
        ModelReference(model="org/a", layer_range=value)


def test_a_recipe_in_place_of_a_model_has_any_name() -> None:
    found = ModelReference.from_value({"model": "stage 1", "recipe": INNER}, "base")
    assert ModelReference.from_value(found.to_dict(), "base") == found
    assert not found.local
    assert ModelReference.from_value({"recipe": INNER}, "base").model == "recipe"


def test_a_recipe_in_place_of_a_model_has_no_digest() -> None:
    with pytest.raises(RecipeError, match="has a `recipe`, and a `digest` beside it"):
        ModelReference(model="x", recipe=INNER, digest="xxh128:" + 32 * "0")

from __future__ import annotations

from pathlib import Path

import pytest

from cocktail_hub.cli.ui.form import Form
from cocktail_hub.errors import RecipeError
from cocktail_hub.recipe import Recipe

THREE = Form().with_models(["org/a", "org/b", "org/c"])


def test_models_start_with_weights_as_equal_as_hundredths_can_be() -> None:
    assert THREE.parts == (33, 33, 34)
    assert THREE.with_models(["org/a", "org/b", "org/c"]) is THREE
    assert THREE.with_models([" org/a ", "", "org/b"]).parts == (50, 50)
    assert Form().with_models([]).parts == ()


@pytest.mark.parametrize(
    ("parts", "place", "part", "then"),
    [
        ((50, 50), 1, 25, (75, 25)),
        ((25, 25, 50), 0, 40, (40, 20, 40)),
        ((33, 33, 34), 2, 1, (49, 50, 1)),
        ((100, 0, 0), 0, 50, (50, 25, 25)),
        ((0, 0, 100), 1, 100, (0, 100, 0)),
        ((100,), 0, 30, (100,)),
    ],
)
def test_the_others_share_the_rest_in_their_proportions(
    parts: tuple[int, ...], place: int, part: int, then: tuple[int, ...]
) -> None:
    form = Form(models=tuple("abc"[: len(parts)]), parts=parts).with_part(place, part)
    assert form.parts == then
    assert sum(form.parts) == 100


def test_the_recipe_has_what_its_method_takes() -> None:
    form = Form(method="linear", base="org/base", parameters={"density": 0.5}).with_models(["org/a", "org/b"])
    assert form.recipe == {
        "method": "linear",
        "ingredients": [{"model": "org/a", "weight": 0.5}, {"model": "org/b", "weight": 0.5}],
    }
    ties = Form(method="ties", base="org/base", parameters={"density": 0.5}).with_models(["org/a", "org/b"]).recipe
    assert (ties["base"], ties["parameters"]) == ({"model": "org/base"}, {"density": 0.5})
    assert Recipe.from_dict(ties).method == "ties"


@pytest.mark.parametrize("model", ["/etc/models", "./mine", "~/mine", "a/b/c", "..", "c:\\models"])
def test_paths_of_another_machine_are_refused(model: str) -> None:
    with pytest.raises(RecipeError, match="is a path, and this page takes models from the Hub alone"):
        Form().with_models(["org/a", model]).refuse_local()


def test_a_folder_that_is_named_like_a_repo_is_refused_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    form = Form(base="org/base").with_models(["org/a", "org/b"])
    form.refuse_local()
    (tmp_path / "org" / "base").mkdir(parents=True)
    with pytest.raises(RecipeError, match="'org/base' is a path"):
        form.refuse_local()

"""Everything that is raised on purpose: a tree that callers can rely on, and that survives other processes."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

from cocktail_hub import errors
from cocktail_hub.errors import (
    CacheError,
    CheckpointError,
    CocktailError,
    DiskSpaceError,
    IncompatibleError,
    MergeError,
    MissingExtraError,
    PublishError,
    RecipeError,
    ScoringError,
    SourceError,
    did_you_mean,
    nearest,
)

TREE = {
    RecipeError: ValueError,
    SourceError: OSError,
    IncompatibleError: ValueError,
    CheckpointError: ValueError,
    ScoringError: ValueError,
    MergeError: RuntimeError,
    DiskSpaceError: MergeError,
    CacheError: RuntimeError,
    PublishError: RuntimeError,
    MissingExtraError: ImportError,
}


def test_the_tree_is_the_one_that_is_drawn() -> None:
    found = {value for _, value in inspect.getmembers(errors, inspect.isclass) if issubclass(value, Exception)}
    assert found == {CocktailError, *TREE}
    drawing = errors.__doc__ or ""
    assert all(kind.__name__ in drawing for kind in found)


@pytest.mark.parametrize(("kind", "builtin"), TREE.items())
def test_every_error_is_ours_and_one_of_pythons(kind: type[CocktailError], builtin: type[Exception]) -> None:
    assert issubclass(kind, CocktailError)
    assert issubclass(kind, builtin)


@pytest.mark.parametrize(
    "error",
    [
        *(kind("what\nwhy\nhow") for kind in TREE),
        IncompatibleError("what", model="org/a", tensor="head.weight"),
        CheckpointError("what", model="org/a"),
        ScoringError("what", model="org/a", example=3),
        MissingExtraError.of("ray", extra="ray", purpose="merge on several machines"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_every_error_survives_another_process_with_all_it_knows(error: CocktailError) -> None:
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is type(error)
        assert str(twin) == str(error)
        assert vars(twin) == vars(error)


def test_a_missing_extra_names_the_line_that_installs_it() -> None:
    error = MissingExtraError.of("ray", extra="ray", purpose="merge on several machines")
    assert str(error) == (
        "The package 'ray' is not installed.\nIt is needed to merge on several machines.\n"
        'Install it from a checkout of cocktail_hub with: pip install ".[ray]"'
    )


@pytest.mark.parametrize(
    ("word", "hint", "close"),
    [
        ("temprature", "Did you mean 'temperature'?", "temperature"),
        ("sed", "Did you mean 'seed'?", "seed"),
        ("zzz", "Accepted: temperature, seed.", None),
        ("", "Accepted: temperature, seed.", None),
    ],
)
def test_a_slip_is_answered_with_the_nearest_word(word: str, hint: str, close: str | None) -> None:
    assert did_you_mean(word, ["temperature", "seed"]) == hint
    assert nearest(word, iter(["temperature", "seed"])) == close


def test_no_more_than_two_hundred_words_are_listed() -> None:
    assert did_you_mean("zzz", [f"{number}" for number in range(200)]).endswith(", 199.")
    assert did_you_mean("zzz", [f"{number}" for number in range(1201)]).endswith(", 199 and 1,001 more.")

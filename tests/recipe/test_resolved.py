"""Resolved recipes and their digest: same digest, same bytes."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cocktail_hub.errors import RecipeError
from cocktail_hub.recipe import (
    Ingredient,
    ModelReference,
    Recipe,
    ResolvedRecipe,
    as_resolved,
    canonical_json,
    dump_yaml,
    parse_recipe,
)
from cocktail_hub.recipe.recipe import DTYPES
from cocktail_hub.recipe.task import TASKS

C1, C2, C3 = ("1" * 40, "2" * 40, "3" * 40)
D1, D2 = ("sha256:" + "d" * 64, "sha256:" + "e" * 64)
RESOLVED: dict[str, Any] = {
    "ingredients": [
        {"model": "org/a", "revision": C1, "requested": "main", "weight": 0.75},
        {"model": "/home/me/b", "digest": D1, "weight": 0.25},
    ],
    "layers": [{"match": "x.*", "weights": [1.0, 0.0]}, {"match": ".*", "weights": [0.5, 0.5]}],
    "missing": {"pooler.*": "first", "head": "drop"},
}


def resolved(**changes: Any) -> ResolvedRecipe:
    return ResolvedRecipe.from_dict({**RESOLVED, **changes})


def ingredients(*changes: dict[str, Any]) -> list[dict[str, Any]]:
    return [old | new for old, new in zip(RESOLVED["ingredients"], changes, strict=True)]


# -- what counts as resolved ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({"ingredients": [{"model": "org/a", "weight": 1}, {"model": "org/b", "weight": 0}]}, "'org/a' is not pinned"),
        ({**RESOLVED, "method": "task_arithmetic", "base": "org/c"}, "'org/c' is not pinned to a commit or a content"),
        (
            {
                "ingredients": [{"model": "a", "revision": C1}, {"model": "b", "revision": C2}],
                "weighting": {"rule": "uniform"},
            },
            "The weights are still to be computed, so the recipe is not resolved.",
        ),
        (
            {**RESOLVED, "layers": [], "anchor": {"model": "org/c", "revision": C3}},
            "The weights are still to be computed",
        ),
        (
            {**RESOLVED, "ingredients": ingredients({"base": "org/c"}, {})},
            "'org/a' is not pinned to a commit or a content digest",
        ),
    ],
)
def test_a_recipe_with_something_open_is_not_resolved(recipe: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(words)):
        as_resolved(Recipe.from_dict(recipe))


def test_resolving_changes_nothing_but_the_class() -> None:
    recipe = Recipe.from_dict(RESOLVED)
    assert as_resolved(recipe).to_dict() == recipe.to_dict()
    assert isinstance(as_resolved(recipe), ResolvedRecipe)


# -- the digest ----------------------------------------------------------------------------------------------------


def test_the_digest_stays_what_it_is_from_release_to_release() -> None:
    """A change of this digest invalidates every cached mix: raise MERGE_FORMAT, and say why."""
    assert resolved().digest == "301255a6d472aa62997bd92c2fc0bd1625b3787d69fc7662efb75bf4fd5e2587"


@pytest.mark.parametrize(
    "changes",
    [
        {"task": "text-generation"},
        {"evidence": {"losses": [1.0, 2.0]}},
        {"ingredients": ingredients({"requested": "v1"}, {})},
        {"ingredients": ingredients({}, {"model": "./elsewhere"})},
        {"tokenizer": "org/a"},
        {"config": "first"},
        {"dtype": None},
        {"seed": 0},
        {"missing": {"head": "drop", "pooler.*": "first"}},
    ],
)
def test_what_does_not_decide_the_bytes_is_not_in_the_digest(changes: dict[str, Any]) -> None:
    assert resolved(**changes).digest == resolved().digest


CHANGES: list[dict[str, Any]] = [
    {"ingredients": ingredients({"weight": 0.7500001}, {"weight": 0.2499999})},
    {"ingredients": ingredients({"revision": C2}, {})},
    {"ingredients": ingredients({"model": "org/c"}, {})},
    {"ingredients": ingredients({}, {"digest": D2})},
    {"ingredients": ingredients({"base": {"model": "org/c", "revision": C3}}, {})},
    {"ingredients": RESOLVED["ingredients"][::-1]},
    {"layers": RESOLVED["layers"][::-1]},
    {"layers": RESOLVED["layers"][:1]},
    {"layers": [{"match": "x.*", "weights": [0.0, 1.0]}, RESOLVED["layers"][1]]},
    {"missing": {"pooler.*": "drop", "head": "drop"}},
    {"missing": {}},
    {"dtype": "bfloat16"},
    {"tokenizer": "/home/me/b"},
    {"config": "/home/me/b"},
    {"seed": 1},
    {"method": "task_arithmetic", "base": {"model": "org/c", "revision": C3}},
]


def test_everything_that_decides_the_bytes_changes_the_digest() -> None:
    digests = [resolved(**changes).digest for changes in CHANGES]
    assert len({resolved().digest, *digests}) == 1 + len(CHANGES)


def test_the_base_and_the_parameters_of_a_method_are_in_the_digest() -> None:
    base = {"model": "org/base", "revision": C3}
    ties = {"method": "ties", "base": base}
    recipes = [
        resolved(**ties),
        resolved(**ties, parameters={"density": 0.5}),
        resolved(**ties, parameters={"lambda": 0.5}),
        resolved(**ties | {"method": "task_arithmetic"}),
        resolved(**ties | {"base": base | {"revision": C2}}),
    ]
    assert len({recipe.digest for recipe in recipes}) == len(recipes)


def test_a_parameter_at_its_default_is_no_other_mix() -> None:
    ties = {"method": "ties", "base": {"model": "org/base", "revision": C3}}
    spelled = resolved(**ties, parameters={"density": 0.2, "lambda": 1})
    assert spelled.digest == resolved(**ties).digest


def test_resolving_writes_the_defaults_out_so_that_later_ones_change_no_old_mix() -> None:
    made = as_resolved(
        Recipe.from_dict({**RESOLVED, "layers": [], "method": "ties", "base": {"model": "org/c", "revision": C3}})
    )
    assert made.to_dict()["parameters"] == {
        "density": 0.2,
        "lambda": 1.0,
        "trim": "tensor",
        "elect": "unweighted",
        "merge": "mean",
        "exact_k": False,
    }
    assert made.digest == ResolvedRecipe.from_dict({**made.to_dict(), "parameters": {}}).digest


def test_two_folders_of_equal_content_are_one_ingredient_to_the_digest() -> None:
    swapped = ingredients({"model": "/x", "digest": D1, "revision": None, "requested": None, "weight": 0.25}, {})
    one = resolved(ingredients=[swapped[0], RESOLVED["ingredients"][1] | {"weight": 0.75}], tokenizer="/x")
    assert one.identity["ingredients"][0]["digest"] == one.identity["ingredients"][1]["digest"]
    assert "/x" not in canonical_json(one.identity)
    assert "/home" not in canonical_json(one.identity)


@pytest.mark.parametrize(("name", "index"), [("first", 0), ("org/a", 0), ("/home/me/b", 1)])
def test_the_donor_is_an_index_into_the_ingredients(name: str, index: int) -> None:
    assert resolved(tokenizer=name).donor("tokenizer") == index


def test_keys_of_the_tokenizer_determine_the_digest_by_places_not_paths() -> None:
    keys = {"tokenizer": "union", "tokens": {"<s>": "/home/me/b"}, "chat_template": "/home/me/b"}
    found = resolved(**keys).identity
    assert (found["tokenizer"], found["tokens"], found["chat_template"]) == ("union", {"<s>": [1, "", False]}, 1)
    digests = {resolved(**{key: keys[key]}).digest for key in keys} | {resolved(pad_to_multiple_of=8).digest}
    assert len(digests | {resolved().digest}) == 5
    assert not resolved().identity.keys() & {"tokens", "pad_to_multiple_of", "chat_template"}


def test_the_base_can_give_the_tokenizer() -> None:
    recipe = resolved(method="ties", base={"model": "org/base", "revision": C3}, tokenizer="org/base")
    assert recipe.donor("tokenizer") == -1


def test_the_digest_does_not_depend_on_the_hash_seed() -> None:
    code = f"from cocktail_hub.recipe import *\nprint(ResolvedRecipe.from_dict({RESOLVED!r}).digest)"
    command = [sys.executable, "-c", code]
    digests = [
        subprocess.run(command, env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True).stdout.strip()
        for seed in ("1", "2")
    ]
    assert digests == [resolved().digest] * 2


def test_canonical_json_is_one_text_for_one_value() -> None:
    assert canonical_json({"b": [1.0, "\N{SNOWMAN}"], "a": None}) == '{"a":null,"b":[1.0,"\N{SNOWMAN}"]}'
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json(float("nan"))


# -- round trips ---------------------------------------------------------------------------------------------------

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
HEX = st.integers(0, 2**256 - 1).map(lambda number: f"{number:064x}")
COMMITS = HEX.map(lambda digits: digits[:40])
REPOS = st.builds(
    ModelReference,
    model=st.integers(0, 99).map("org/model-{}".format),
    revision=COMMITS,
    requested=st.sampled_from([None, "main", "refs/pr/1", "1e5", "2024-01-01"]) | COMMITS,
)
NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
"""Of folders: no system has one with a zero byte, so that is refused."""
FOLDERS = st.builds(ModelReference, model=NAMES.map("./{}".format), digest=HEX.map("sha256:{}".format))
PINS = st.one_of(REPOS, FOLDERS, st.builds(lambda pin, base: replace(pin, base=base), REPOS, REPOS))
EXACT = [[1.0, 0.0], [0.75, 0.25], [1.5, -0.5], [1e-300, 1.0], [0.1, 0.2, 0.7], [1e-05, 0.99999]]


@st.composite
def recipes(draw: st.DrawFn) -> ResolvedRecipe:
    """Resolved recipes of every kind."""
    weights = draw(st.sampled_from(EXACT))
    references = draw(st.lists(PINS, min_size=len(weights), max_size=len(weights), unique_by=lambda pin: pin.model))
    entries = [Ingredient.from_value(pin, "x") for pin in references]
    rules = st.fixed_dictionaries({"match": TEXTS.map("x{}".format).map(re.escape), "weights": st.just(weights)})
    return ResolvedRecipe(
        ingredients=tuple(replace(entry, weight=w) for entry, w in zip(entries, weights, strict=True)),
        task=draw(st.none() | st.sampled_from(list(TASKS))),
        layers=draw(st.lists(rules, max_size=2)),  # type: ignore[arg-type]
        missing=draw(st.dictionaries(TEXTS.map(re.escape), st.sampled_from(["first", "drop"]), max_size=3)),
        dtype=draw(st.sampled_from(DTYPES)),
        config=draw(st.sampled_from(["first", *(pin.model for pin in references)])),
        tokenizer=draw(st.sampled_from(["first", *(pin.model for pin in references)])),
        seed=draw(st.integers(0, 2**63 - 1)),
        evidence=draw(st.none() | st.dictionaries(TEXTS, JSON, max_size=3)),
    )


def shuffled(value: Any) -> Any:
    """The same JSON value with the keys of every mapping the other way round."""
    if isinstance(value, dict):
        return {key: shuffled(value[key]) for key in reversed(value)}
    return [shuffled(inner) for inner in value] if isinstance(value, list) else value


FEW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@FEW
@given(recipes())
def test_yaml_and_json_give_the_recipe_back_in_any_order_of_keys(recipe: ResolvedRecipe) -> None:
    assert as_resolved(parse_recipe(dump_yaml(recipe))) == recipe
    assert as_resolved(parse_recipe(recipe.to_json())) == recipe
    other = ResolvedRecipe.from_dict(shuffled(recipe.to_dict()))
    assert other == recipe
    assert other.to_json() == recipe.to_json()
    assert other.digest == recipe.digest


@FEW
@given(recipes())
def test_neither_names_of_branches_nor_folders_nor_evidence_are_in_the_digest(recipe: ResolvedRecipe) -> None:
    renamed = {pin.model: f"./{i}" if pin.digest else pin.model for i, pin in enumerate(recipe.ingredients)}
    other = replace(
        recipe,
        task=None,
        evidence=None,
        ingredients=tuple(
            replace(i, model=renamed[i.model], requested=None, base=replace(i.base, requested="x") if i.base else None)
            for i in recipe.ingredients
        ),
        config=renamed.get(recipe.config, "first"),
        tokenizer=renamed.get(recipe.tokenizer, "first"),
    )
    assert other.digest == recipe.digest


@FEW
@given(recipes())
def test_the_order_of_adding_up_is_in_the_digest(recipe: ResolvedRecipe) -> None:
    one = replace(recipe, layers=(), config="first", tokenizer="first")
    turned = replace(one, ingredients=one.ingredients[::-1])
    same = [i.identity() | {"weight": i.weight} for i in one.ingredients]
    assert (turned.digest == one.digest) == (same == same[::-1])

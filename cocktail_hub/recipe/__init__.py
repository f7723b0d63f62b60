"""Recipes: which models to mix, with which weights, by which method. No network, no torch."""

from cocktail_hub.recipe.files import SUFFIXES, parse_recipe, read_recipe
from cocktail_hub.recipe.recipe import (
    DTYPES,
    MERGE_FORMAT,
    MISNAMED,
    SCHEMA,
    Recipe,
    ResolvedRecipe,
    as_resolved,
    canonical_json,
    dump_yaml,
    recipe_from_mapping,
    with_given_weights,
)
from cocktail_hub.recipe.reference import (
    COMMIT,
    Anchor,
    Ingredient,
    ModelReference,
    as_path,
    is_local,
    is_path,
    is_weight_file,
    refuse_address,
)
from cocktail_hub.recipe.task import TASKS
from cocktail_hub.recipe.tensor_rules import LayerRule
from cocktail_hub.recipe.weighting import Weighting

__all__ = [
    "COMMIT",
    "DTYPES",
    "MERGE_FORMAT",
    "MISNAMED",
    "SCHEMA",
    "SUFFIXES",
    "TASKS",
    "Anchor",
    "Ingredient",
    "LayerRule",
    "ModelReference",
    "Recipe",
    "ResolvedRecipe",
    "Weighting",
    "as_path",
    "as_resolved",
    "canonical_json",
    "dump_yaml",
    "is_local",
    "is_path",
    "is_weight_file",
    "parse_recipe",
    "read_recipe",
    "recipe_from_mapping",
    "refuse_address",
    "with_given_weights",
]

"""CocktailConfig: a recipe as a transformers config, so that a repo with nothing but a recipe is a model repo."""
# No `from __future__ import annotations` here: transformers checks the types of fields only if they are real types.

import difflib
import json
import os
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from cocktail_hub.errors import RecipeError
from cocktail_hub.evaluation.loading import config_of
from cocktail_hub.recipe import MISNAMED, Recipe, with_given_weights
from cocktail_hub.recipe.validation import plain

_NOT_OVERRIDES = ("return_unused_kwargs", "_from_auto", "name_or_path", "recipe")
_FORWARDED = {
    "attn_implementation": "_attn_implementation",
    "chunk_size_feed_forward": "chunk_size_feed_forward",
    "dtype": "dtype",
    "experts_implementation": "_experts_implementation",
    "output_attentions": "output_attentions",
    "output_hidden_states": "output_hidden_states",
    "problem_type": "problem_type",
    "return_dict": "return_dict",
}
"""Keyword -> attribute of any config that says how a model is loaded or run; on a recipe, it applies to the mix."""
_RECIPE_KEYS = tuple(f.name for f in fields(Recipe))
_KNOWN = ("weights", *_RECIPE_KEYS)
"""Keywords that make up a recipe."""


def _refuse_misnamed(keywords: Mapping[str, Any]) -> None:
    """Refuse keywords that are meant for the recipe: any config keeps those that it does not know."""
    for key in keywords:
        near = [] if key in _KNOWN else difflib.get_close_matches(key, _KNOWN, n=1, cutoff=0.8)
        if hint := MISNAMED.get(key) or (f"Did you mean '{near[0]}'?" if near else ""):
            raise RecipeError(
                f"Unknown key '{key}'. {hint}\nIt would be silently ignored, so it is refused.\n"
                f"Keys of a recipe: {', '.join(_KNOWN)}."
            )


def _config_of(native: Mapping[str, Any]) -> Any:
    """The mix's own config, of transformers' class where it has one."""
    return _parsed(json.dumps(native, sort_keys=True))


@cache
def _parsed(native: str) -> Any:
    values = json.loads(native)
    try:
        return config_of(values)
    except KeyError:  # the class is in the model's own code
        return PreTrainedConfig.from_dict(values)


@strict
class CocktailConfig(PreTrainedConfig):  # type: ignore[misc]  # transformers is not typed
    """A recipe as a config, from two lists or from a whole recipe.

        CocktailConfig(ingredients=["BAAI/bge-base-en-v1.5", "Shitao/bge-hotpotqa"], weights=[0.5, 0.5])
        CocktailConfig(recipe={"ingredients": [...], "weighting": {...}})

    Args:
        ingredients: two or more Hub ids or local folders, or mappings as in a recipe.
        weights: one per ingredient; they sum to 1. Omit with a `weighting`.
        recipe: the whole recipe, as in `docs/recipe.md`; instead of the two above.
        **kwargs: other keys of a recipe (`method`, `weighting`, `base`, ...), or fields of any config (`id2label`,
            ...).

    Raises:
        RecipeError: the recipe is wrong; says which key and what is accepted.
    """

    model_type = "cocktail"

    recipe: dict[str, Any] | None = None
    """The recipe. All of it is one key, so that no key collides with those of transformers."""
    native: dict[str, Any] | None = None
    """The mix's own config, which a published recipe has: what that config answers, this one answers, too."""

    def __post_init__(self, **kwargs: Any) -> None:
        """Build `recipe` from the keys of a recipe among the keywords, and validate it."""
        self._overrides: dict[str, Any] = {}
        if self.recipe is None:
            _refuse_misnamed(kwargs)
        if "ingredients" in kwargs or "weights" in kwargs:
            self.recipe = self._recipe_from(kwargs)
        if self.recipe is not None:  # transformers creates an empty config to learn the defaults
            self.recipe = Recipe.from_dict(self.recipe).to_dict()
        super().__post_init__(**kwargs)
        if self.native is not None:
            self.is_encoder_decoder = getattr(_config_of(self.native), "is_encoder_decoder", False)

    def __getattr__(self, name: str) -> Any:
        """Answer `hidden_size`, `vocab_size` and the like as the mix's own config does."""
        native = self.__dict__.get("native")
        if name.startswith("_"):
            raise AttributeError(f"'CocktailConfig' object has no attribute '{name}'", name=name, obj=self)
        if native is None:
            raise AttributeError(
                f"This CocktailConfig has no '{name}': it is a recipe without the config of the mix.\n"
                "That is known once the recipe is published as a recipe repo, or the mix is made.\n"
                f"Read it from the mix: `AutoConfig.from_pretrained(mix(recipe).path).{name}`.",
                name=name,
                obj=self,
            )
        return getattr(_config_of(native), name)

    def _recipe_from(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Remove the keys of a recipe from the keywords, and return them as one."""
        if self.recipe is not None:
            raise RecipeError("Give either `recipe`, or `ingredients` and `weights`, not both.")
        recipe = {key: kwargs.pop(key) for key in _RECIPE_KEYS if key in kwargs}
        weights = kwargs.pop("weights", None)
        if (dtype := vars(self).get("dtype")) is not None:  # a field of every config, and a key of the recipe
            recipe["dtype"], self.dtype = str(dtype).removeprefix("torch."), None
        if weights is not None:
            recipe["ingredients"] = with_given_weights(recipe.get("ingredients") or (), weights)
        return recipe

    @property
    def ingredients(self) -> list[str]:
        """Hub ids or folders of the ingredients, in recipe order."""
        return [ingredient.model for ingredient in self.to_recipe().ingredients]

    @property
    def weights(self) -> list[Any] | None:
        """One weight per ingredient, as the recipe says it; `None` while they are open."""
        weights = self.to_recipe().weights
        return None if weights is None else plain(weights)

    def to_recipe(self) -> Recipe:
        """Return the recipe.

        Raises:
            RecipeError: the config has none.
        """
        if self.recipe is None:
            raise RecipeError("This CocktailConfig is empty. Give `ingredients` and `weights`, or a `recipe`.")
        return Recipe.from_dict(self.recipe)

    @classmethod
    def from_recipe(cls, recipe: Recipe, **kwargs: Any) -> "CocktailConfig":
        """Return the config of a recipe; `kwargs` are fields of any config, e.g. `architectures`."""
        return cls(recipe=recipe.to_dict(), **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Any:
        """Read a recipe repo, and remember its name: a recipe from the Hub may not name folders."""
        kwargs.setdefault("name_or_path", str(pretrained_model_name_or_path))
        revision, folder = kwargs.get("revision"), kwargs.get("subfolder") or ""
        found = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        config: Any = found[0] if isinstance(found, tuple) else found
        config._recipe_revision, config._recipe_folder = revision, folder  # noqa: SLF001 - our own attributes
        return found

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Read a config, and remember the keywords that it absorbs, because they are meant for the mix.

        `AutoModel.from_pretrained(recipe, attn_implementation="eager")` passes every keyword to the config first, and
        those that the config absorbs never reach the model.
        """
        wanted = kwargs.pop("return_unused_kwargs", False)
        given = dict(kwargs)  # the next line removes the absorbed ones from its own
        config, unused = super().from_dict(dict(config_dict), return_unused_kwargs=True, **kwargs)
        taken = {key: value for key, value in given.items() if key not in unused and key not in _NOT_OVERRIDES}
        vars(config)["_overrides"] = taken
        return (config, unused) if wanted else config

    def take_overrides(self) -> dict[str, Any]:
        """Return the keywords that this config absorbed on their way to the model, and what was set on it since."""
        plain = CocktailConfig()
        absorbed = {key: value for key, value in self._overrides.items() if key != "num_labels"}
        for key, attribute in _FORWARDED.items():
            value = getattr(self, attribute)
            if key in absorbed or value != getattr(plain, attribute):
                absorbed[key] = value
        if self.native is not None:
            native, own = _config_of(self.native), vars(self).keys() - vars(plain).keys() - {"model_type"}
            known = {key: getattr(self, key) for key in own if hasattr(native, key)}
            absorbed |= {key: value for key, value in known.items() if value != getattr(native, key)}
        named = any(label != f"LABEL_{number}" for number, label in (self.id2label or {}).items())
        if not named and ("num_labels" in self._overrides or self.num_labels != plain.num_labels):
            absorbed["num_labels"] = self.num_labels
        return absorbed

    def to_dict(self) -> dict[str, Any]:
        """Return what config.json contains."""
        shown: dict[str, Any] = super().to_dict()
        for own in ("_overrides", "_recipe_revision", "_recipe_folder", *(("native",) if self.native is None else ())):
            shown.pop(own, None)
        return shown

    def save_pretrained(self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write config.json; with `push_to_hub=True` also publish the recipe to `repo_id`."""
        super().save_pretrained(save_directory)
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", Path(save_directory).name), **kwargs)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> Any:
        """Publish the pinned recipe with tokenizer files and card, in one commit, and return its `CommitInfo`.

        Takes the keywords of `cocktail_hub.publish`, among them those of transformers' own `push_to_hub`.
        """
        from cocktail_hub.pipeline.mix import publish

        return publish(self, repo_id, **{"as_": "recipe", **kwargs})

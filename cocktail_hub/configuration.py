"""CocktailConfig: a recipe as a transformers config, so that a repo with nothing but a recipe is a model repo."""
# No `from __future__ import annotations` here: transformers checks the types of fields only if they are real types.

from collections.abc import Sequence
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from cocktail_hub.errors import RecipeError
from cocktail_hub.recipe import Recipe

_NOT_OVERRIDES = ("return_unused_kwargs", "_from_auto", "_from_pipeline", "name_or_path")


@strict
class CocktailConfig(PreTrainedConfig):
    """A recipe as a config.

    Give the recipe in short, or whole:

        CocktailConfig(ingredients=["BAAI/bge-base-en-v1.5", "Shitao/bge-hotpotqa"], weights=[0.5, 0.5])
        CocktailConfig(recipe={"ingredients": [...], "weighting": {...}})

    Args:
        ingredients: two or more Hub ids or local folders, or mappings as in a recipe.
        weights: a share per ingredient; they sum to 1. Leave out with a `weighting`.
        recipe: the whole recipe, as in `docs/recipe.md`; instead of the two above.
        **kwargs: other keys of a recipe (`method`, `weighting`, `base`, ...), or fields of any config (`id2label`, ...).

    Raises:
        RecipeError: the recipe is wrong; says which key and what is accepted.
    """

    model_type = "cocktail"

    recipe: dict[str, Any] | None = None
    """The recipe. The one key that is ours, so that nothing collides with transformers' own."""

    def __post_init__(self, **kwargs: Any) -> None:
        """Put a recipe given in short into `recipe`, and refuse one that is wrong."""
        self._overrides: dict[str, Any] = kwargs.pop("_overrides", {})
        short = {key: kwargs.pop(key) for key in _RECIPE_KEYS if key in kwargs}
        weights = kwargs.pop("weights", None)
        if short or weights is not None:
            if self.recipe is not None:
                raise RecipeError(f"Give either `recipe` or `{next(iter(short), 'weights')}`, not both.")
            self.recipe = _spelled_out(short, weights)
        if self.recipe is not None:  # transformers makes an empty one to learn the defaults
            self.recipe = Recipe.from_dict(self.recipe).to_dict()
        super().__post_init__(**kwargs)

    @property
    def ingredients(self) -> list[str]:
        """Hub ids or folders of the ingredients, in recipe order."""
        return [ingredient.model for ingredient in self.to_recipe().ingredients]

    @property
    def weights(self) -> list[float] | None:
        """A share per ingredient; `None` while they are still to be computed."""
        weights = self.to_recipe().weights
        return None if weights is None else list(weights)

    def to_recipe(self) -> Recipe:
        """The recipe as a value.

        Raises:
            RecipeError: the config holds none.
        """
        if self.recipe is None:
            raise RecipeError("This CocktailConfig is empty. Give `ingredients` and `weights`, or a `recipe`.")
        return Recipe.from_dict(self.recipe)

    @classmethod
    def from_recipe(cls, recipe: Recipe, **kwargs: Any) -> "CocktailConfig":
        """Wrap a recipe; `kwargs` are fields of any config, e.g. `architectures`."""
        return cls(recipe=recipe.to_dict(), **kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Read a config; remember the keywords that it absorbs, because they are meant for the mix.

        `AutoModel.from_pretrained(recipe, attn_implementation="eager")` hands every keyword to the config first,
        and what the config takes never reaches the model.
        """
        wanted = kwargs.pop("return_unused_kwargs", False)
        config, unused = super().from_dict(dict(config_dict), return_unused_kwargs=True, **kwargs)
        taken = {key: value for key, value in kwargs.items() if key not in unused and key not in _NOT_OVERRIDES}
        config._overrides = taken
        return (config, unused) if wanted else config

    def take_overrides(self) -> dict[str, Any]:
        """The keywords that this config absorbed on their way to the model."""
        return dict(self._overrides)

    def to_dict(self) -> dict[str, Any]:
        """Everything that belongs into config.json."""
        shown: dict[str, Any] = super().to_dict()
        shown.pop("_overrides", None)
        return shown

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> Any:
        """Publish the recipe as a repo: pinned, with tokenizer files and card, in one commit.

        Takes the keywords of `cocktail_hub.publish` (`private`, `revision`, `create_pr`, `commit_message`, `token`).

        Returns:
            huggingface_hub's `CommitInfo`.
        """
        from cocktail_hub.publishing import publish

        return publish(self, repo_id, as_="recipe", **kwargs)


_RECIPE_KEYS = ("ingredients", "method", "base", "weighting", "anchor", "parameters", "layers", "missing", "tokenizer")


def _spelled_out(short: dict[str, Any], weights: Sequence[float] | None) -> dict[str, Any]:
    """`ingredients` and `weights` side by side -> ingredients with their weights."""
    if weights is None:
        return short
    ingredients = list(short.get("ingredients") or ())
    if len(ingredients) != len(weights):
        raise RecipeError(
            f"`weights` has {len(weights)} numbers for {len(ingredients)} `ingredients`. Give one per ingredient."
        )
    named = [dict(i) if isinstance(i, dict) else {"model": i} for i in ingredients]
    return short | {"ingredients": [i | {"weight": w} for i, w in zip(named, weights, strict=True)]}

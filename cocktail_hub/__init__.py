"""Mix fine-tuned Hugging Face models from a recipe, and load the mix like any other model.

Importing this registers recipes with transformers, so that its auto classes take them, and does nothing else:
torch and transformers are loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from cocktail_hub.registration import register

if TYPE_CHECKING:
    from cocktail_hub.auto import AutoCocktailModel
    from cocktail_hub.configuration import CocktailConfig
    from cocktail_hub.errors import CocktailError
    from cocktail_hub.legacy import mix_models, mix_models_by_layers, mix_models_with_data
    from cocktail_hub.options import MixOptions
    from cocktail_hub.pipeline import Mix, mix
    from cocktail_hub.preview import Preview, check
    from cocktail_hub.publishing import publish
    from cocktail_hub.recipe import Ingredient, Recipe, ResolvedRecipe
    from cocktail_hub.scoring import score
    from cocktail_hub.verification import verify
    from cocktail_hub.version import VERSION as __version__  # noqa: F401, N811 - a name of Python's

_HOMES = {
    "AutoCocktailModel": "auto",
    "CocktailConfig": "configuration",
    "CocktailError": "errors",
    "Ingredient": "recipe",
    "Mix": "pipeline",
    "MixOptions": "options",
    "Preview": "preview",
    "Recipe": "recipe",
    "ResolvedRecipe": "recipe",
    "check": "preview",
    "mix": "pipeline",
    "mix_models": "legacy",
    "mix_models_by_layers": "legacy",
    "mix_models_with_data": "legacy",
    "publish": "publishing",
    "score": "scoring",
    "verify": "verification",
}
__all__ = [
    "AutoCocktailModel",
    "CocktailConfig",
    "CocktailError",
    "Ingredient",
    "Mix",
    "MixOptions",
    "Preview",
    "Recipe",
    "ResolvedRecipe",
    "check",
    "mix",
    "mix_models",
    "mix_models_by_layers",
    "mix_models_with_data",
    "publish",
    "score",
    "verify",
]


def __getattr__(name: str) -> object:
    if name == "__version__":
        return importlib.import_module(f"{__name__}.version").VERSION
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__


register()

"""Mix fine-tuned Hugging Face models from a recipe, and load the mix like any other model.

Importing this registers recipes with transformers, so that its auto classes take them, and does nothing else:
torch and transformers are loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from cocktail_hub.integrations.register import register

if TYPE_CHECKING:
    from cocktail_hub.compat.preview import Preview
    from cocktail_hub.errors import CocktailError
    from cocktail_hub.integrations.auto import AutoCocktailModel
    from cocktail_hub.integrations.callback import MixBack
    from cocktail_hub.integrations.config import CocktailConfig
    from cocktail_hub.integrations.lm_cocktail import mix_models, mix_models_by_layers, mix_models_with_data
    from cocktail_hub.merge.options import MixOptions
    from cocktail_hub.pipeline.measurement import compare, evaluate, score, search_weights, sweep, verify
    from cocktail_hub.pipeline.mix import Mix, check, extract_lora, mix, publish
    from cocktail_hub.recipe import Ingredient, Recipe, ResolvedRecipe
    from cocktail_hub.version import VERSION as __version__  # noqa: F401, N811 - a name of Python's

_HOMES = {
    "AutoCocktailModel": "integrations.auto",
    "CocktailConfig": "integrations.config",
    "CocktailError": "errors",
    "Ingredient": "recipe",
    "Mix": "pipeline.mix",
    "MixBack": "integrations.callback",
    "MixOptions": "merge.options",
    "Preview": "compat.preview",
    "Recipe": "recipe",
    "ResolvedRecipe": "recipe",
    "check": "pipeline.mix",
    "compare": "pipeline.measurement",
    "evaluate": "pipeline.measurement",
    "extract_lora": "pipeline.mix",
    "mix": "pipeline.mix",
    "mix_models": "integrations.lm_cocktail",
    "mix_models_by_layers": "integrations.lm_cocktail",
    "mix_models_with_data": "integrations.lm_cocktail",
    "publish": "pipeline.mix",
    "score": "pipeline.measurement",
    "search_weights": "pipeline.measurement",
    "sweep": "pipeline.measurement",
    "verify": "pipeline.measurement",
}
__all__ = [
    "AutoCocktailModel",
    "CocktailConfig",
    "CocktailError",
    "Ingredient",
    "Mix",
    "MixBack",
    "MixOptions",
    "Preview",
    "Recipe",
    "ResolvedRecipe",
    "check",
    "compare",
    "evaluate",
    "extract_lora",
    "mix",
    "mix_models",
    "mix_models_by_layers",
    "mix_models_with_data",
    "publish",
    "score",
    "search_weights",
    "sweep",
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

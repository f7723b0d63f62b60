"""The surface: what `import cocktail_hub` offers, and how little it costs."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

import cocktail_hub

NAMES = {
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
}


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-W", "error", *command], capture_output=True, text=True, check=False)


def test_the_public_names_are_these() -> None:
    assert set(cocktail_hub.__all__) == NAMES
    assert cocktail_hub.__all__ == sorted(cocktail_hub.__all__)
    assert set(dir(cocktail_hub)) == NAMES


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_public_name_is_there_and_is_documented(name: str) -> None:
    found = getattr(cocktail_hub, name)
    assert found.__name__ == name
    assert found.__doc__
    assert found.__module__.startswith("cocktail_hub.")


def test_the_version_is_that_of_the_package() -> None:
    assert cocktail_hub.__version__ == version("cocktail-hub")


def test_a_name_that_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(AttributeError, match="module 'cocktail_hub' has no attribute 'stir'"):
        cocktail_hub.stir  # noqa: B018 - the access is the test


def test_the_import_is_cheap() -> None:
    code = """
import sys
import cocktail_hub
heavy = {"torch", "transformers", "sentence_transformers", "huggingface_hub", "numpy", "yaml", "jinja2"}
print(sorted(heavy & set(sys.modules)))
cocktail_hub.Recipe, cocktail_hub.Ingredient, cocktail_hub.CocktailError
print(sorted({"torch", "transformers", "sentence_transformers"} & set(sys.modules)))
"""
    assert run("-c", code).stdout.split("\n") == ["[]", "[]", ""]


def test_the_command_answers_without_torch_and_transformers() -> None:
    done = run("-X", "importtime", "-m", "cocktail_hub.cli", "--help")
    assert done.returncode == 0, done.stderr
    assert "Mix fine-tuned Hugging Face models from a recipe" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}
    assert "cocktail_hub" in imported
    assert not {"torch", "transformers", "sentence_transformers", "numpy"} & imported

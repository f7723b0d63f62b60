"""A small resolved recipe, and the facts that go with it."""

from __future__ import annotations

import pytest

from cocktail_hub.publishing.card.facts import CardFacts, LicenseInfo
from cocktail_hub.recipe import ResolvedRecipe

COMMIT_A = "a" * 40
COMMIT_B = "b" * 40


@pytest.fixture
def recipe() -> ResolvedRecipe:
    return ResolvedRecipe.from_dict(
        {
            "ingredients": [
                {"model": "BAAI/bge-base-en-v1.5", "revision": COMMIT_A, "requested": "main", "weight": 0.25},
                {"model": "Shitao/bge-hotpotqa", "revision": COMMIT_B, "requested": "v1.0", "weight": 0.75},
            ]
        }
    )


@pytest.fixture
def facts() -> CardFacts:
    return CardFacts(
        form="merged",
        repo_id="me/bge-hotpot",
        pipeline_tag="feature-extraction",
        architecture="BertModel",
        licenses={
            "BAAI/bge-base-en-v1.5": LicenseInfo(license="mit"),
            "Shitao/bge-hotpotqa": LicenseInfo(license="apache-2.0"),
        },
        languages={"BAAI/bge-base-en-v1.5": ("en",), "Shitao/bge-hotpotqa": ("en",)},
        parameters=109482240,
        dtype="float32",
        versions={"cocktail_hub": "0.1.0", "torch": "2.13.0"},
    )

"""Model cards: the README.md that says what a mix is made of, how to load it and how to make it again."""

from cocktail_hub.publishing.card.facts import CardFacts
from cocktail_hub.publishing.card.license import License, LicenseInfo, combine_licenses, license_of
from cocktail_hub.publishing.card.metadata import languages_of, read_metadata
from cocktail_hub.publishing.card.readme import END, START, drop_section, merge_readme
from cocktail_hub.publishing.card.render import render_card, render_text
from cocktail_hub.recipe.redact import public_recipe, scrub

__all__ = [
    "END",
    "START",
    "CardFacts",
    "License",
    "LicenseInfo",
    "combine_licenses",
    "drop_section",
    "languages_of",
    "license_of",
    "merge_readme",
    "public_recipe",
    "read_metadata",
    "render_card",
    "render_text",
    "scrub",
]

"""Model cards: the README.md that says what a mix is made of, how to load it and how to make it again."""

from cocktail_hub.card.facts import CardFacts
from cocktail_hub.card.license import License, LicenseInfo, combine_licenses, license_of
from cocktail_hub.card.metadata import languages_of, read_metadata
from cocktail_hub.card.public import public_recipe, scrub
from cocktail_hub.card.readme import END, START, drop_section, merge_readme
from cocktail_hub.card.render import render_card, render_text

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

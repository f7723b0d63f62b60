"""`cocktail show`: what a recipe or a mix is made of."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any

import click

from cocktail_hub.cli.options import MERGING, mix_options, read_options
from cocktail_hub.cli.output import say, show, show_json, table


@click.command(
    "show",
    epilog="""\b
Examples:
  cocktail show recipe.yaml
  cocktail show me/my-mix
  cocktail show ./my-mix --json""",
)
@click.argument("source")
@mix_options(without=(*MERGING, "engine", "trust_remote_code"))
def show_source(source: str, **given: Any) -> None:
    """Show what SOURCE is made of: a recipe, or a repo or folder with a mix."""
    from cocktail_hub.pipeline.ingredients import describe_models
    from cocktail_hub.publishing.card.render import weighting_sentences
    from cocktail_hub.resolve.source import load_recipe_source

    hub = read_options(given).hub
    found = load_recipe_source(source, hub, revision=given["revision"])
    recipe, models = found.recipe, describe_models(found.recipe, hub)
    if given["as_json"]:
        show_json({"source": source, "recipe": recipe.to_dict(), "models": list(map(asdict, models))})
        return
    rows = [
        [
            m.model,
            m.role,
            f"{m.weight:.6g}" if isinstance(m.weight, float) else "" if m.weight is None else "per tensor",
            (m.revision or "?")[:19],
            m.license or "?",
            m.dtype or "?",
        ]
        for m in models
    ]
    show(table(["model", "role", "weight", "revision", "licence", "dtype"], rows))
    show(f"\nmethod   {recipe.method}: {recipe.spec.summary}")
    show(f"dtype    {recipe.dtype if recipe.dtype != 'auto' else 'that of the first ingredient'}")
    show("kind     " + ("weights with their recipe" if found.merged else "a recipe, mixed where it is loaded"))
    for sentence in weighting_sentences(recipe):
        show("weights  " + re.sub(r"\[(.*?)\]\(.*?\)", r"\1", sentence).replace("`", ""))
    for m in models:
        if m.problem:
            say(f"note: {m.problem}")

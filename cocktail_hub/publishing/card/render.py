"""Write the card: the README.md of whatever is published."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING, Any

from cocktail_hub.publishing.card.evidence import describe_evidence
from cocktail_hub.publishing.card.ingredients import ingredient_table, shown
from cocktail_hub.publishing.card.license import License, LicenseInfo, combine_licenses
from cocktail_hub.publishing.card.markdown import (
    bullets,
    code,
    escape,
    fenced,
    file_url,
    link,
    listing,
    number,
    table,
)
from cocktail_hub.publishing.card.metadata import dump_metadata
from cocktail_hub.publishing.card.readme import END, RECORD, START, record
from cocktail_hub.publishing.card.usage import loading, tags
from cocktail_hub.recipe import ModelReference, Recipe, ResolvedRecipe, dump_yaml
from cocktail_hub.recipe.redact import last_name, public_recipe, scrub

if TYPE_CHECKING:
    from collections.abc import Mapping

    from huggingface_hub import ModelCard

    from cocktail_hub.publishing.card.facts import CardFacts

_ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")


def render_card(recipe: Recipe, facts: CardFacts) -> ModelCard:
    """The card of a mix. Same recipe and facts, same text; nothing of the user's machine gets into it.

    Args:
        recipe: what was mixed, or is to be: pinned, but its shares may be open. Local folders appear by their last
            name and digest.
        facts: what kind of repo the card is for, and what came out.

    Returns:
        A card of huggingface_hub: `.data` is its metadata, `str()` the README. What cocktail_hub replaces on the
        next publication stands between two marks (`merge_readme`).
    """
    from huggingface_hub import ModelCard

    return ModelCard(render_text(recipe, facts))


def render_text(recipe: Recipe, facts: CardFacts) -> str:
    """The same as text, without loading the Hub's client."""
    shared = public_recipe(recipe)
    infos = _licenses(recipe, shared, facts.licenses)
    combined = combine_licenses({name: info for name, (_, info) in infos.items()})
    data = _metadata(recipe, facts, combined)
    context = {
        "metadata": dump_metadata(data),
        "title": _title(shared, facts),
        "start": START,
        "end": END,
        "record": RECORD + record(data),
        "opening": _opening(shared, facts),
        "ingredients": ingredient_table(shared),
        "loading": loading(facts),
        "making": bullets(_making(shared, facts)),
        "remaking": _remaking(shared, facts),
        "recipe": fenced(dump_yaml(replace(shared, evidence=None)), "yaml"),
        "digest": f"\nDigest of the mix: {code(recipe.digest)}\n" if isinstance(recipe, ResolvedRecipe) else "",
        "licences": _licences(infos, combined),
    }
    clean = {key: scrub(text) for key, text in context.items()}
    return Template(template()).substitute(clean)


def template() -> str:
    """The text around the parts, which stand in it as `$name`."""
    return files("cocktail_hub.publishing.card").joinpath("templates/card.md").read_text(encoding="utf-8")


def _metadata(recipe: Recipe, facts: CardFacts, combined: License) -> dict[str, Any]:
    """Key -> value, in the order in which people read them; no key without a value."""
    hub_ids = list(dict.fromkeys(reference.model for reference in recipe.all_references if reference.digest is None))
    spoken = {facts.languages.get(reference.model) or () for reference in recipe.all_references}
    language = list(spoken.pop()) if len(spoken) == 1 else []
    several = f"https://huggingface.co/{facts.repo_id}#licences" if combined.conflict and facts.repo_id else None
    found = {
        "license": combined.license,
        "license_name": combined.license_name,
        "license_link": combined.license_link or (several if combined.license == "other" else None),
        "language": (language[0] if len(language) == 1 else language) or None,
        "library_name": facts.library_name,
        "pipeline_tag": facts.pipeline_tag,
        "base_model": hub_ids or None,
        "base_model_relation": "merge" if hub_ids else None,
        "tags": tags(facts),
    }
    return {key: value for key, value in found.items() if value is not None}


def _title(recipe: Recipe, facts: CardFacts) -> str:
    if facts.repo_id:
        return escape(facts.repo_id.rpartition("/")[2])
    return f"Mix of {listing([escape(last_name(name)) for name in dict.fromkeys(i.model for i in recipe.ingredients)])}"


def _opening(recipe: Recipe, facts: CardFacts) -> str:
    mixed = (*recipe.ingredients, *([recipe.anchor] if recipe.anchor else []))
    count = len(dict.fromkeys(reference.model for reference in mixed))
    mix = f"a mix of {count} models" if count > 1 else "a model mixed with itself"
    said = {
        "merged": f"These weights are {mix}. They load like any other checkpoint, without cocktail_hub.",
        "recipe": f"This repo holds no weights but a recipe: {mix}. cocktail_hub downloads the ingredients, mixes them "
        "on first use, and keeps the result in its cache.",
        "both": f"These weights are {mix}. They load like any other checkpoint, without cocktail_hub; `recipe.json` "
        "makes them again from the ingredients.",
    }[facts.kind]
    return f"{said}\n\n{needed}" if facts.kind == "recipe" and (needed := _needed_folders(recipe)) else said


def _needed_folders(recipe: Recipe) -> str:
    """What a recipe with local ingredients asks of whoever uses it."""
    local = list(dict.fromkeys(reference.model for reference in recipe.all_references if reference.digest is not None))
    if not local:
        return ""
    are = "is" if len(local) == 1 else "are"
    return (
        f"{listing([code(name) for name in local])} {are} not on the Hub: the mix can only be made where that stands "
        "in the current folder, with the digest of the table."
    )


def _making(recipe: Recipe, facts: CardFacts) -> list[str]:
    """Sentences in Markdown: method, result, donors, exceptions, evidence, versions."""
    versions = ", ".join(f"{escape(name)} {escape(version)}" for name, version in facts.versions.items())
    said = [_method(recipe), *describe_evidence(recipe), _result(recipe, facts), _donors(recipe)]
    if recipe.layers:
        rules = "One rule" if len(recipe.layers) == 1 else f"{len(recipe.layers)} rules"
        said.append(f"{rules} under `layers`: some tensors have other shares.")
    if recipe.evidence:
        file = "config.json" if facts.kind == "recipe" else "recipe.json"
        said.append(f"All that the shares came from is in `{file}`, under `evidence`.")
    said += [escape(note) for note in facts.notes]
    return [sentence for sentence in [*said, f"Made with {versions}." if versions else ""] if sentence]


def _method(recipe: Recipe) -> str:
    source = _ARXIV.sub(lambda found: link(found.group(), f"https://arxiv.org/abs/{found[1]}"), recipe.spec.source)
    values = recipe.spec.with_defaults(recipe.parameters)
    shown = {name: "true" if value is True else number(value) for name, value in values.items() if value is not False}
    given = ", ".join(f"`{name}` {value}" for name, value in shown.items())
    return f"Method {code(recipe.method)}: {code(recipe.spec.summary)} ({source}){f', with {given}' if given else ''}."


def _result(recipe: Recipe, facts: CardFacts) -> str:
    parts = [code(facts.architecture)] if facts.architecture else []
    parts += [f"{facts.parameters:,} parameters"] if facts.parameters is not None else []
    dtype = facts.dtype or (recipe.dtype if recipe.dtype != "auto" else None)
    parts += [code(dtype)] if dtype else []
    return f"Result: {', '.join(parts)}." if parts else ""


def _donors(recipe: Recipe) -> str:
    """Where config and tokenizer come from, by the recipe's own rule: `first`, or a model by name."""
    config, tokenizer = (_donor(recipe, key) for key in ("config", "tokenizer"))
    if config == tokenizer:
        return f"Config and tokenizer come from {shown(config)}."
    return f"The config comes from {shown(config)}, the tokenizer from {shown(tokenizer)}."


def _donor(recipe: Recipe, key: str) -> ModelReference:
    """An anchor is the first ingredient of what is mixed in the end."""
    name = getattr(recipe, key)
    if name == "first":
        return recipe.anchor or recipe.ingredients[0]
    return next(reference for reference in recipe.references if reference.model == name)


def _remaking(recipe: Recipe, facts: CardFacts) -> str:
    source = facts.repo_id or "recipe.yaml"
    said = [fenced(f"pip install cocktail-hub\ncocktail mix {source} -o mix", "bash")]
    if needed := _needed_folders(recipe):
        said.append(needed)
    said.append("The recipe:" if facts.repo_id else "The recipe, to be saved as `recipe.yaml`:")
    return "\n\n".join(said)


def _licenses(
    recipe: Recipe, shared: Recipe, licenses: Mapping[str, LicenseInfo | None]
) -> dict[str, tuple[ModelReference, LicenseInfo | None]]:
    """Public name -> model and licence, with links that work outside its repo. Empty when none was read at all."""
    found: dict[str, tuple[ModelReference, LicenseInfo | None]] = {}
    for reference, public in zip(recipe.all_references, shared.all_references, strict=True):
        info = licenses.get(reference.model)
        if info is not None and reference.digest is None:
            info = info.located(file_url(reference.model, reference.revision or "", ""))
        found.setdefault(public.model.removeprefix("./"), (public, info))
    return found if licenses else {}


def _licences(infos: Mapping[str, tuple[ModelReference, LicenseInfo | None]], combined: License) -> str:
    if not infos:
        return combined.note
    rows = [[shown(reference), _licence(info)] for reference, info in infos.values()]
    return f"{combined.note}\n\n{table(['Ingredient', 'Licence'], rows)}"


def _licence(info: LicenseInfo | None) -> str:
    if info is None:
        return "none declared"
    return link(code(info.label), info.link) if info.link and "://" in info.link else code(info.label)

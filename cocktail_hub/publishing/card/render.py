"""Write the card: the README.md of whatever is published, or of a mix in a local folder."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.resources import files
from itertools import product
from string import Template
from typing import TYPE_CHECKING, Any

from cocktail_hub.publishing.card.facts import License, LicenseInfo, combine_licenses
from cocktail_hub.publishing.card.header import END, START
from cocktail_hub.publishing.card.markdown import code, dump_metadata, escape, fenced, link, listing, record, table
from cocktail_hub.recipe import COMMIT, ModelReference, Recipe, ResolvedRecipe, dump_yaml
from cocktail_hub.recipe.redact import last_name, public_recipe, scrub
from cocktail_hub.recipe.weighting import SEARCHING
from cocktail_hub.resolve.resolve import inlined_in
from cocktail_hub.version import install_command

if TYPE_CHECKING:
    from cocktail_hub.publishing.card.facts import CardFacts
    from cocktail_hub.recipe import Weighting

PAPER = "[LM-Cocktail](https://arxiv.org/abs/2311.13534)"
_SOFTMAX = "`softmax(-loss / temperature)` of each ingredient's mean loss"
UNPUBLISHED = "path/to/this/folder"
"""In place of the repo id, in the snippets of a card in a local folder."""
INSTALL = f"{install_command()}  # in a checkout of cocktail_hub"
_HUB = "https://huggingface.co"
_ENCODE = 'embeddings = model.encode(["A first text.", "A second text."])'
_SENTENCE_TRANSFORMERS = {
    "SentenceTransformer": (_ENCODE, ("feature-extraction", "sentence-similarity")),
    "CrossEncoder": (
        'scores = model.predict([("A question?", "A text that may answer it.")])',
        ("cross-encoder",),
    ),
    "SparseEncoder": (_ENCODE, ("feature-extraction", "sparse-encoder")),
}
"""Class of sentence-transformers -> how to use a loaded model, and the tags by which the Hub finds such models."""


def render_card(recipe: Recipe, facts: CardFacts) -> str:
    """Return the README of a mix, or of a pinned recipe whose weights may be open.

    It is the same for the same recipe and facts, and has nothing of the user's machine in it. The part between the two
    marks is replaced by the next publication (see `merge_readme`).
    """
    public = public_recipe(recipe)
    licenses = _licenses(recipe, public, facts)
    combined = combine_licenses({name: info for name, (_, info) in licenses.items()})
    metadata = _metadata(recipe, facts, combined)
    models = [escape(last_name(name)) for name in dict.fromkeys(i.model for i in public.ingredients)]
    licence_rows = []
    for reference, info in licenses.values():
        named = code(info.label) if info else "none declared"
        linked = link(named, info.link) if info and info.link and "://" in info.link else named
        licence_rows.append([_shown(reference), linked])
    missing = _missing_folders(public)
    context = {
        "metadata": dump_metadata(metadata),
        "title": escape(facts.repo_id.rpartition("/")[2]) if facts.repo_id else f"Mix of {listing(models)}",
        "start": START,
        "end": END,
        "record": record(metadata),
        "opening": _opening(public, facts) + (f"\n\n{missing}" if missing and facts.form == "recipe" else ""),
        "ingredients": _ingredient_table(public),
        "loading": _loading(facts),
        "making": "\n".join(f"- {sentence}" for sentence in _making(public, facts) if sentence),
        "notes": "\n".join(["\n## What to know\n", *(f"- {escape(note)}" for note in facts.notes), ""])
        if facts.notes
        else "",
        "evidence": _evidence(public, facts),
        "remaking": fenced(f"{INSTALL}\ncocktail mix {facts.repo_id or 'recipe.yaml'} -o mix", "bash")
        + (f"\n\n{missing}" if missing else "")
        + ("\n\nThe recipe:" if facts.repo_id else "\n\nThe recipe, to be saved as `recipe.yaml`:"),
        "recipe": fenced(dump_yaml(replace(public, evidence=None)), "yaml"),
        "digest": f"\nDigest of the mix: {code(recipe.digest)}\n" if isinstance(recipe, ResolvedRecipe) else "",
        "licences": combined.note + (f"\n\n{table(['Ingredient', 'Licence'], licence_rows)}" if licence_rows else ""),
    }
    return template().substitute({key: scrub(text) for key, text in context.items()})


def template() -> Template:
    """Return the text around the parts."""
    return Template(files("cocktail_hub.publishing.card").joinpath("templates/card.md").read_text(encoding="utf-8"))


def _metadata(recipe: Recipe, facts: CardFacts, combined: License) -> dict[str, Any]:
    """Return key -> value in the order in which people read them, without empty values."""
    hub_ids = list(dict.fromkeys(reference.model for reference in recipe.all_references if reference.digest is None))
    spoken = {facts.languages.get(reference.model) or () for reference in recipe.all_references}
    language = list(spoken.pop()) if len(spoken) == 1 else []
    several = f"{_HUB}/{facts.repo_id}#licences" if combined.conflict and facts.repo_id else None
    tags = ["merge", "lm-cocktail", "cocktail-hub"]
    if facts.library == "sentence-transformers":
        # A recipe needs cocktail_hub, so sentence-transformers alone cannot load it.
        tags += ["sentence-transformers"] if facts.form != "recipe" else []
        for name in facts.load_classes:
            tags += _SENTENCE_TRANSFORMERS[name][1] if name in _SENTENCE_TRANSFORMERS else ()
    found = {
        "license": combined.license,
        "license_name": combined.license_name,
        "license_link": combined.license_link or (several if combined.license == "other" else None),
        "language": (language[0] if len(language) == 1 else language) or None,
        "library_name": "cocktail-hub" if facts.form == "recipe" else facts.library,
        "pipeline_tag": facts.pipeline_tag,
        "base_model": hub_ids or None,
        "base_model_relation": "merge" if hub_ids else None,
        "tags": list(dict.fromkeys([*tags, *facts.tags])),
        "model-index": [{"name": (facts.repo_id or "mix").rpartition("/")[2], "results": [*facts.results]}]
        if facts.results
        else None,
    }
    return {key: value for key, value in found.items() if value is not None}


def _opening(recipe: Recipe, facts: CardFacts) -> str:
    models = {reference.model for reference in (*recipe.ingredients, recipe.anchor) if reference is not None}
    mix = f"a mix of {len(models)} models" if len(models) > 1 else "a model mixed with itself"
    if facts.form == "recipe":
        return (
            f"This repo contains no weights but a recipe: {mix}. cocktail_hub downloads the ingredients, mixes them on "
            "first use, and keeps the result in its cache.\n\n"
            "If transformers says that it does not recognize the model type `cocktail` and asks you to upgrade it, put "
            "`import cocktail_hub` before the line that loads the model: no version of transformers knows recipes."
        )
    offer = "" if facts.form == "merged" else "; `recipe.json` makes them again from the ingredients"
    return f"These weights are {mix}. They load like any other checkpoint, without cocktail_hub{offer}."


def _missing_folders(recipe: Recipe) -> str:
    """Return what a recipe with local ingredients requires of whoever uses it."""
    local = list(dict.fromkeys(code(ref.model) for ref in recipe.all_references if ref.digest is not None))
    if not local:
        return ""
    are, them = ("is", "it") if len(local) == 1 else ("are", "them")
    return (
        f"{listing(local)} {are} not on the Hub: the mix can only be made where the current folder contains {them}, "
        "with the digest in the table."
    )


def _ingredient_table(recipe: Recipe) -> str:
    """Return one row per ingredient in recipe order, then anchor and base, with losses where there are any."""
    rows = [
        [*_model_cells(i), "computed on first use" if i.weight is None else f"{i.weight:.4g}"]
        for i in recipe.ingredients
    ]
    if recipe.anchor is not None:
        rows.append([*_model_cells(recipe.anchor), f"{recipe.anchor.share:.4g} (anchor)"])
    if recipe.base is not None:
        rows.append([*_model_cells(recipe.base), "base"])
    header = ["Ingredient", "Commit", "Requested", "Weight"]
    if any(losses := _losses(recipe)):
        header.append("Loss")
        rows = [[*row, loss] for row, loss in zip(rows, [*losses, "", ""], strict=False)]
    return table(header, rows)


def _model_cells(reference: ModelReference) -> list[str]:
    """Return model, commit and requested revision; the base of an adapter follows in the same cells."""
    if reference.recipe is not None:
        return [_shown(reference), "", ""]
    if reference.digest is None:
        commit = reference.revision or ""
        exact = link(code(commit[:7]), f"{_HUB}/{reference.model}/tree/{commit}")
        requested = reference.requested or ""
        requested = code(requested[:7]) if COMMIT.fullmatch(requested) else escape(requested)
    else:
        kind, _, digits = reference.digest.partition(":")
        exact, requested = code(f"{kind}:{digits[:12]}"), ""
    if reference.base is None:
        return [_shown(reference), exact, requested]
    base, base_exact, _ = _model_cells(reference.base)
    return [f"{_shown(reference)} on {base}", f"{exact} on {base_exact}", requested]


def _shown(reference: ModelReference) -> str:
    """Return the name of a model: a link to the Hub, or the name of a local folder."""
    if reference.recipe is not None:
        return f"{code(reference.model)} (a recipe in `recipe.json`)"
    if reference.digest:
        return f"{code(reference.model.removeprefix('./'))} (local folder)"
    return link(escape(reference.model), f"{_HUB}/{reference.model}")


def _losses(recipe: Recipe) -> list[str]:
    """Return `0.4312 ± 0.01` per ingredient, empty for one that was not scored; nothing if no loss is known."""
    evidence = recipe.evidence or {}
    rows = evidence.get("ingredients")
    if not isinstance(rows, Sequence) or not all(isinstance(row, Mapping) for row in rows):
        return []
    anchor = recipe.ingredients[0].model if evidence.get("anchor") else None
    if len(rows) == len(recipe.ingredients) - 1 and anchor:
        rows = [{}, *rows]  # the anchor was not scored
    elif anchor:  # one that was scored, too, is the first ingredient of the mix
        rows = sorted(rows, key=lambda row: str(row.get("model", "")).partition("@")[0] != anchor)
    if len(rows) != len(recipe.ingredients):
        return []
    numbers = [(_number(row.get("loss")), _number(row.get("standard_error"))) for row in rows]
    return [f"{loss} ± {error}" if loss and error else loss for loss, error in numbers]


def _number(value: Any) -> str:
    """Return four significant digits, or nothing if it is no finite number: evidence may have been edited by hand."""
    usable = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return f"{value:.4g}" if usable else ""


def _loading(facts: CardFacts) -> str:
    """Return the snippets, best first."""
    repo = f'"{facts.repo_id or UNPUBLISHED}"'
    variable = "tokenizer" if facts.processor == "AutoTokenizer" else "processor"
    processor = [f"{variable} = {facts.processor}.from_pretrained({repo})"] if facts.processor else []
    native = []
    for name in facts.load_classes:
        if name in _SENTENCE_TRANSFORMERS:
            use = _SENTENCE_TRANSFORMERS[name][0]
            lines = [f"from sentence_transformers import {name}", "", f"model = {name}({repo})", use]
        else:
            imported = ", ".join(sorted({name, *([facts.processor] if facts.processor else [])}))
            lines = [f"from transformers import {imported}", "", f"model = {name}.from_pretrained({repo})", *processor]
        native.append("\n".join(lines))
    if facts.form != "recipe":
        offer = "`AutoCocktailModel.from_pretrained` of cocktail_hub loads it as well, from the weights in this repo."
        return "\n\n".join([*(fenced(text, "python") for text in native), *([offer] if facts.form == "both" else [])])
    install = fenced(INSTALL, "bash")
    registered = [fenced(f"import cocktail_hub\n{text}", "python") for text in native]
    if facts.architecture is None and all(name in _SENTENCE_TRANSFORMERS for name in facts.load_classes):
        return "\n\n".join([install, *registered])  # transformers has no class for it
    ours = ["from cocktail_hub import AutoCocktailModel"]
    ours += [f"from transformers import {facts.processor}"] if facts.processor else []
    ours += ["", f"model = AutoCocktailModel.from_pretrained({repo})", *processor]
    names = listing([code(name) for name in facts.load_classes])
    load = "loads" if len(facts.load_classes) == 1 else "load"
    after = [f"After `import cocktail_hub`, {names} {load} the recipe, too:"] if native else []
    return "\n\n".join([install, fenced("\n".join(ours), "python"), *after, *registered])


def _making(recipe: Recipe, facts: CardFacts) -> list[str]:
    """Return sentences on method, evidence, result, config and tokenizer, layer rules, and versions; some empty."""
    spec = recipe.spec
    source = re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[\g<0>](https://arxiv.org/abs/\1)", spec.source)
    usual = [parameter.default for parameter in spec.parameters.values() if parameter.choices]
    shown = recipe.every_parameter.items()
    values = {name: value for name, value in shown if value is not False and value not in usual}
    said = {n: str(v).lower() if isinstance(v, (bool, str)) else f"{v:.4g}" for n, v in values.items()}
    given = ", ".join(f"`{name}` {value}" for name, value in said.items())
    result = [code(facts.architecture)] if facts.architecture else []
    result += [f"{facts.parameters:,} parameters"] if facts.parameters is not None else []
    dtype = facts.dtype or (recipe.dtype if recipe.dtype != "auto" else None)
    result += [code(dtype)] if dtype else []
    models = {reference.model: reference for reference in recipe.references}
    models["first"] = recipe.anchor or recipe.ingredients[0]  # an anchor comes first in the mix
    if recipe.base:
        models["base"] = recipe.base
    config = _shown(models[recipe.config])
    tokenizer = "all of them together" if recipe.tokenizer == "union" else _shown(models[recipe.tokenizer])
    rules = "One rule" if len(recipe.layers) == 1 else f"{len(recipe.layers)} rules"
    file = "config.json" if facts.form == "recipe" else "recipe.json"
    weighed = (recipe.evidence or {}).keys() - {"inlined", "code", "imported", "materials"}
    inlined = [link(escape(name), f"{_HUB}/{name}/tree/{commit}") for name, commit in inlined_in(recipe).items()]
    versions = ", ".join(f"{escape(name)} {escape(version)}" for name, version in facts.versions.items())
    return [
        f"Method {code(recipe.method)}: {code(spec.summary)} ({source}){f', with {given}' if given else ''}.",
        *weighting_sentences(recipe),
        f"Result: {', '.join(result)}." if result else "",
        f"Config and tokenizer come from {config}."
        if config == tokenizer
        else f"The config comes from {config}, the tokenizer from {tokenizer}.",
        f"{rules} under `layers`: some tensors have other weights." if recipe.layers else "",
        f"The evidence behind the weights is in `{file}`, under `evidence`." if weighed else "",
        f"Recipes that were replaced by their ingredients: {listing(inlined)}." if inlined else "",
        f"Made with {versions}." if versions else "",
    ]


def weighting_sentences(recipe: Recipe) -> list[str]:
    """Return sentences on where computed weights came from or will come from."""
    weighting, evidence = recipe.weighting, recipe.evidence or {}
    if weighting is not None and weighting.rule != "uniform":
        return [f"The weights are computed on first use: {_to_come(weighting)}."]
    rule, temperature = evidence.get("rule"), _number(evidence.get("temperature"))
    said: list[str] = []
    if weighting is not None or rule == "uniform":
        said.append("The weights are equal.")
    elif rule == "softmax":
        said.append(f"The weights are {_SOFTMAX} ({PAPER}){f' with temperature {temperature}' if temperature else ''}.")
    elif isinstance(rule, str):
        said.append(f"The weights were computed by {code(rule)}.")
    if isinstance(examples := evidence.get("examples"), Mapping):
        count, digest = examples.get("count"), str(examples.get("digest", "")).removeprefix("sha256:")[:12]
        many = f"{count:,} example{'' if count == 1 else 's'}" if isinstance(count, int) else "examples"
        said.append(f"Scored on {many}{f' (digest {code(digest)})' if digest else ''}.")
    if effective := _number(evidence.get("effective_number")):
        said.append(f"Effective number of ingredients: {effective} of {len(recipe.ingredients)}.")
    anchor = evidence.get("anchor")
    if isinstance(anchor, Mapping) and recipe.ingredients[0].model == anchor.get("model"):
        share = _number(anchor.get("share"))
        said.append(f"The first ingredient is the anchor, with a share of {share}; the others divide the rest.")
    if isinstance(sentence := evidence.get("sentence"), str):
        said.append(escape(sentence))
    return said


def _to_come(weighting: Weighting) -> str:
    """Return how open weights will be computed."""
    where = code(weighting.examples) if isinstance(weighting.examples, str) else "the examples in the recipe"
    if weighting.rule == "ensemble":
        return f"those whose weighted mean of the ingredients' outputs has the lowest loss on {where}"
    if weighting.rule in SEARCHING:
        metric = escape(weighting.metric or "the first metric of its kind")
        return f"the best that {code(weighting.rule)} finds by {metric} on {where}"
    given = _number(weighting.temperature)
    how = f"temperature {given}" if given else "a temperature that follows from the losses' noise"
    return f"{_SOFTMAX} on {where} ({PAPER}), with {how}"


def _evidence(recipe: Recipe, facts: CardFacts) -> str:
    """Return a section with the picture of the evidence, or a table of the curves where there is none."""
    evidence = recipe.evidence or {}
    shown = [f"![Weights, or figures along a weight with 95 % intervals]({facts.chart})"] if facts.chart else []

    def cell(figure: Mapping[str, Any] | None) -> str:
        return f"{_number(figure['value'])} [{', '.join(map(_number, figure['interval']))}]" if figure else ""

    if not shown and evidence.get("curves"):
        with suppress(KeyError, TypeError, AttributeError, IndexError):  # it was written by hand
            curves = evidence["curves"]
            kinds = ("predicted", "measured")
            names = [f"{one['examples']}, {one['metric']}, {kind}" for one in curves for kind in kinds]
            rows = [[_number(at)] for at in evidence["positions"]]
            for one, (place, row) in product(curves, enumerate(rows)):
                row += [cell(one["predicted"][place]), cell(one["measured"].get(f"{evidence['positions'][place]:g}"))]
            shown.append(table([escape(str(evidence["over"])), *map(escape, names)], rows))
    if shown and facts.repo_id and facts.form != "recipe" and "weighting" in evidence:
        shown.append(f"Computed again from the examples by {code(f'cocktail verify {facts.repo_id} --evidence')}.")
    return "\n\n".join(["\n## Evidence", *shown]) + "\n" if shown else ""


def _licenses(recipe: Recipe, public: Recipe, facts: CardFacts) -> dict[str, tuple[ModelReference, LicenseInfo | None]]:
    """Return public name -> model and licence, with links that work outside its repo; empty if none was read."""
    found: dict[str, tuple[ModelReference, LicenseInfo | None]] = {}
    for reference, shown in zip(recipe.all_references, public.all_references, strict=True):
        info = facts.licenses.get(reference.model)
        if info is not None and info.link and "://" not in info.link and reference.digest is None:
            path = info.link.removeprefix("./").lstrip("/")
            info = replace(info, link=f"{_HUB}/{reference.model}/blob/{reference.revision}/{path}")
        found.setdefault(shown.model.removeprefix("./"), (shown, info))
    return found if facts.licenses else {}

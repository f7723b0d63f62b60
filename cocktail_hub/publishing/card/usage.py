"""How to load a mix: Python that is right for the kind of repo and the library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cocktail_hub.publishing.card.markdown import code, fenced, listing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cocktail_hub.publishing.card.facts import CardFacts

UNPUBLISHED = "path/to/this/folder"
"""Stands for the repo in the snippets of a card that lies in a local folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loader:
    """One way to use a model in sentence-transformers."""

    use: tuple[str, ...]
    """Lines after the model is loaded."""
    tags: tuple[str, ...]
    """Tags by which the Hub finds such models."""


_SENTENCE_TRANSFORMERS = {
    "SentenceTransformer": _Loader(
        use=('embeddings = model.encode(["A first text.", "A second text."])',),
        tags=("feature-extraction", "sentence-similarity"),
    ),
    "CrossEncoder": _Loader(
        use=('scores = model.predict([("A question?", "A text that may answer it.")])',),
        tags=("cross-encoder",),
    ),
    "SparseEncoder": _Loader(
        use=('embeddings = model.encode(["A first text.", "A second text."])',),
        tags=("feature-extraction", "sparse-encoder"),
    ),
}
"""Classes of sentence-transformers; every other class is one of transformers."""


def tags(facts: CardFacts) -> list[str]:
    """Tags for the card. `sentence-transformers` only where that library loads the repo without ours."""
    found = ["merge", "lm-cocktail", "cocktail-hub"]
    if facts.library == "sentence-transformers":
        found += ["sentence-transformers"] if facts.kind != "recipe" else []
        for name in facts.load_classes:
            found += _SENTENCE_TRANSFORMERS[name].tags if name in _SENTENCE_TRANSFORMERS else ()
    return list(dict.fromkeys(found))


def loading(facts: CardFacts) -> str:
    """Markdown: the snippets, best first, each with a sentence where one is needed."""
    native = [fenced(_native(facts, name), "python") for name in facts.load_classes]
    ours = [fenced("pip install cocktail-hub", "bash"), fenced(_cocktail(facts), "python")]
    if facts.kind == "recipe":
        imported = [fenced(f"import cocktail_hub\n{_native(facts, name)}", "python") for name in facts.load_classes]
        if facts.architecture is None and all(name in _SENTENCE_TRANSFORMERS for name in facts.load_classes):
            return "\n\n".join([ours[0], *imported])  # no model of transformers in it
        after = [f"After `import cocktail_hub`, {_classes(facts.load_classes)} the recipe, too:"] if native else []
        return "\n\n".join([*ours, *after, *imported])
    if facts.kind == "both":
        extra = (
            "`AutoCocktailModel.from_pretrained` of cocktail_hub takes it as well; it uses the weights that are here."
        )
        return "\n\n".join([*native, extra])
    return "\n\n".join(native)


def _classes(names: Sequence[str]) -> str:
    return f"{listing([code(name) for name in names])} load{'s' if len(names) == 1 else ''}"


def _cocktail(facts: CardFacts) -> str:
    lines = ["from cocktail_hub import AutoCocktailModel"]
    if facts.processor:
        lines += [f"from transformers import {facts.processor}"]
    lines += ["", f"model = AutoCocktailModel.from_pretrained({_repo(facts)})", *_processor(facts)]
    return "\n".join(lines)


def _native(facts: CardFacts, name: str) -> str:
    repo = _repo(facts)
    if name in _SENTENCE_TRANSFORMERS:
        use = _SENTENCE_TRANSFORMERS[name].use
        return "\n".join([f"from sentence_transformers import {name}", "", f"model = {name}({repo})", *use])
    imported = ", ".join(sorted({name, *([facts.processor] if facts.processor else [])}))
    load = f"model = {name}.from_pretrained({repo})"
    return "\n".join([f"from transformers import {imported}", "", load, *_processor(facts)])


def _processor(facts: CardFacts) -> list[str]:
    if facts.processor is None:
        return []
    variable = {"AutoTokenizer": "tokenizer", "AutoImageProcessor": "processor"}.get(facts.processor, "processor")
    return [f"{variable} = {facts.processor}.from_pretrained({_repo(facts)})"]


def _repo(facts: CardFacts) -> str:
    return f'"{facts.repo_id or UNPUBLISHED}"'

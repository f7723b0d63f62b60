"""The models of a recipe, one by one: what is known of each."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from cocktail_hub.checkpoint.model_files import read_config
from cocktail_hub.errors import CocktailError
from cocktail_hub.publishing.card.facts import card_metadata, license_of
from cocktail_hub.recipe import Anchor, Ingredient
from cocktail_hub.recipe.validation import plain
from cocktail_hub.resolve.resolve import open_model

if TYPE_CHECKING:
    from typing_extensions import Self

    from cocktail_hub.hub import Hub
    from cocktail_hub.recipe import ModelReference, Recipe


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """One model of a recipe."""

    model: str
    """Hub id or folder."""
    role: str
    """`ingredient`, `anchor`, or `base`, which an adapter's is, too."""
    weight: Any
    """A number, or what the recipe has in its place; `None` where it is to be computed, and for a base."""
    revision: str | None
    """Commit or digest; `None` where it cannot be known."""
    requested: str | None
    """The branch, tag or commit that the recipe asks for."""
    license: str | None
    """Licence that its card names."""
    dtype: str | None
    """Type of its weights, according to its config."""
    problem: str = ""
    """Why it cannot be read; empty if it can."""

    @classmethod
    def of(cls, reference: ModelReference, hub: Hub) -> Self:
        """Read the config and the card of a model."""
        known: dict[str, Any] = {"revision": reference.digest or reference.revision, "license": None, "dtype": None}
        try:
            commit = None if reference.local else hub.resolve(reference.model, reference.revision)
            known["revision"] = commit or reference.digest
            pinned = replace(reference, revision=commit, digest=None)
            config = read_config(open_model(pinned, hub).files)
            license_info = license_of(card_metadata(pinned, hub) or {})
            known["license"] = license_info.label if license_info else None
            known["dtype"] = config.get("dtype") or config.get("torch_dtype")
        except CocktailError as error:
            known["problem"] = str(error).partition("\n")[0]
        return cls(
            model=reference.model,
            role={Anchor: "anchor", Ingredient: "ingredient"}.get(type(reference), "base"),
            weight=plain(reference.weight) if isinstance(reference, Ingredient) else None,
            requested=reference.requested or reference.revision,
            **known,
        )


def describe_models(recipe: Recipe, hub: Hub) -> tuple[ModelFacts, ...]:
    """Look at every model of a recipe, adapted ones included. What cannot be read has a `problem`."""
    references = recipe.all_references
    with ThreadPoolExecutor(max(1, len(references))) as pool:
        return tuple(pool.map(partial(ModelFacts.of, hub=hub), references))

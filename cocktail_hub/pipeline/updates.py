"""A lock for models: pin a recipe to commits, say which models moved since, and follow them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from cocktail_hub.errors import CocktailError, SourceError
from cocktail_hub.hub.history import History, history_between, require_access
from cocktail_hub.publishing.card.facts import card_metadata, license_of
from cocktail_hub.recipe import COMMIT, SUFFIXES, as_path, dump_yaml
from cocktail_hub.recipe.pins import pin_text
from cocktail_hub.resolve.source import load_recipe_source

if TYPE_CHECKING:
    from collections.abc import Iterable

    from typing_extensions import Self

    from cocktail_hub.hub import Hub
    from cocktail_hub.recipe import ModelReference


@dataclass(frozen=True, kw_only=True)
class ModelUpdate:
    """What became of one model on the Hub since a recipe was pinned."""

    model: str
    """Hub id."""
    revision: str | None
    """What the recipe has: a commit, or a branch that it is not pinned on yet."""
    branch: str
    """The branch or tag that it follows; a commit where the recipe asks for that one."""
    commit: str | None = None
    """The commit that the branch points to now; `None` if it cannot be found."""
    history: History | None = None
    """What happened since; `None` if nothing did, or it is not known."""
    licenses: tuple[str | None, str | None] | None = None
    """The licence before and now, where it changed."""
    problem: str = ""
    """Why the model, or its past, cannot be read: it is gone, private or gated."""

    @property
    def pinned(self) -> bool:
        """Whether the recipe names a commit."""
        return bool(self.revision and COMMIT.fullmatch(self.revision))

    @property
    def moved(self) -> bool:
        """Whether the branch points to another commit than the recipe."""
        return self.pinned and self.commit not in (None, self.revision)

    @classmethod
    def of(cls, reference: ModelReference, hub: Hub, *, compare: bool = True) -> Self:
        """Ask the Hub what became of one model."""
        pinned = bool(reference.revision and COMMIT.fullmatch(reference.revision))
        branch = reference.requested or (None if pinned else reference.revision) or "main"
        update = cls(model=reference.model, revision=reference.revision, branch=branch)
        try:
            require_access(reference.model, hub)
            update = replace(update, commit=hub.resolve(reference.model, branch))
            if not (update.moved and compare):
                return update
            now = replace(reference, revision=update.commit)
            update = replace(
                update, history=history_between(now.model, reference.revision or "", now.revision or "", hub)
            )
            cards = (license_of(card_metadata(one, hub) or {}) for one in (reference, now))
            before, after = (card.label if card else None for card in cards)
            return replace(update, licenses=(before, after) if before != after else None)
        except CocktailError as error:
            return replace(update, problem=str(error).partition("\n")[0])


def outdated(source: Any, hub: Hub, *, revision: str | None = None, compare: bool = True) -> tuple[ModelUpdate, ...]:
    """Ask the Hub what became of each model of a recipe. Local folders are left out.

    Args:
        source: a recipe, as `mix` takes it.
        hub: the Hub to ask.
        revision: of the recipe's repo.
        compare: whether to say what changed, not only that it did.

    Raises:
        CocktailError: the recipe cannot be read, or the Hub may not be asked.
    """
    if hub.offline:
        raise SourceError(
            "Whether models moved cannot be known offline.\nOnly the Hub knows where their branches point.\n"
            "Unset HF_HUB_OFFLINE, and leave out `local_files_only`."
        )
    found = load_recipe_source(source, hub, revision=revision, open_weights=True).recipe.all_references
    remote = {(one.model, one.revision): one for one in found if not one.local}
    with ThreadPoolExecutor(max(1, len(remote))) as pool:
        return tuple(pool.map(partial(ModelUpdate.of, hub=hub, compare=compare), remote.values()))


def with_commits(source: Any, updates: Iterable[ModelUpdate], hub: Hub, *, revision: str | None = None) -> str:
    """Return the text of a recipe with the commits that some of its models have now; a file keeps its comments.

    Raises:
        RecipeError: the file is no recipe of its own.
    """
    path = as_path(str(source))
    if path.is_file() and path.suffix in SUFFIXES:
        text = path.read_text(encoding="utf-8-sig")
    else:
        text = dump_yaml(load_recipe_source(source, hub, revision=revision, open_weights=True).recipe)
    return pin_text(text, {(one.model, one.revision): one.commit for one in updates if one.commit})

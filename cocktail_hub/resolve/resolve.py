"""Recipe -> recipe with every model pinned: a commit for a Hub repo, a content digest for a local folder."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.checkpoint.model_files import (
    ADAPTER_CONFIG,
    ModelFiles,
    read_config,
    read_json,
    read_model_files,
)
from cocktail_hub.errors import IncompatibleError, RecipeError, SourceError
from cocktail_hub.methods.contract import normalized
from cocktail_hub.recipe import (
    Ingredient,
    ModelReference,
    Recipe,
    canonical_json,
    is_path,
    read_recipe,
    recipe_from_mapping,
)
from cocktail_hub.resolve.folder_digest import digest_of
from cocktail_hub.resolve.source import absolutize_paths, on_hub

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cocktail_hub.checkpoint.files import RepoFiles
    from cocktail_hub.hub import Hub

ReferenceT = TypeVar("ReferenceT", bound=ModelReference)
SIDE_BY_SIDE = 16
"""Models that are looked up at the same time."""


@dataclass(frozen=True, kw_only=True)
class ResolvedModel:
    """A pinned model together with the files behind it."""

    reference: ModelReference
    """Which model, exactly."""
    files: RepoFiles
    """Its files, on the Hub or in a folder."""

    @cached_property
    def model_files(self) -> ModelFiles:
        """Which of the files make up the model."""
        return read_model_files(self.files)


def locate(pinned: ModelReference, hub: Hub) -> ResolvedModel:
    """Find the files of a pinned model. Nothing is read of a Hub repo yet.

    Raises:
        SourceError: a local folder is gone.
        IncompatibleError: a local folder has changed since the recipe was resolved.
    """
    if not pinned.local:
        return ResolvedModel(reference=pinned, files=hub.files(pinned.model, pinned.revision or ""))
    located = ResolvedModel(reference=pinned, files=LocalFiles(_folder(pinned.model), name=pinned.model))
    if pinned.digest and (found := folder_digest(located, pinned.digest.partition(":")[0])) != pinned.digest:
        raise IncompatibleError(
            f"The folder '{pinned.model}' has changed since the recipe was resolved: its digest is {found[:19]}..., "
            f"the recipe says {pinned.digest[:19]}....\nThe mix would not be the one that the recipe describes.\n"
            "Bring the old files back, or remove `digest` from the recipe to mix what is there now.",
            model=pinned.model,
        )
    return located


def local_root(located: ResolvedModel) -> Path:
    """The folder of a local model."""
    return _folder(located.reference.model)


def folder_digest(located: ResolvedModel, kind: str = "xxh128") -> str:
    """`xxh128:...` over the names and contents of the files that a mix needs from a local folder; or `sha256:...`.

    Contents are hashed once: the digest of a file is kept as long as its size and its times of change stay.
    """
    if not isinstance(located.files, LocalFiles):
        raise TypeError("Only local folders have a content digest; Hub repos have a commit.")
    return digest_of(located.files, {*located.model_files.needed, *located.model_files.code}, kind)


def resolve(recipe: Recipe, hub: Hub, *, digests: bool = True) -> Recipe:
    """Pin every model of a recipe, put other recipes in place of their names, and add in the anchor.

    Weights that are still to be computed stay open. Nothing but small files is read of Hub repos, and nothing at all
    of models that were resolved before.

    Args:
        recipe: what was asked for.
        hub: the Hub to read from.
        digests: whether local folders get the digest of their content, for which all of it is read. Without, a recipe
            can be checked and planned, but not mixed.

    Raises:
        SourceError: a model cannot be found or accessed.
        RecipeError: a nested recipe cannot be put in place.
        IncompatibleError: a local folder has changed since the recipe was resolved.
    """
    return _resolve(recipe, hub, inside=(), digests=digests)


def with_weights(recipe: Recipe, weights: Sequence[float], evidence: dict[str, object]) -> Recipe:
    """The recipe with computed weights in place of its `weighting`, and what they came from."""
    ingredients = tuple(replace(i, weight=w) for i, w in zip(recipe.ingredients, weights, strict=True))
    return _add_anchor(replace(recipe, ingredients=ingredients, weighting=None, evidence=evidence))


def _resolve(recipe: Recipe, hub: Hub, *, inside: tuple[ModelReference, ...], digests: bool) -> Recipe:
    """The same for a recipe that stands inside others, which are named in `inside`, the outermost first."""
    with ThreadPoolExecutor(min(SIDE_BY_SIDE, len(recipe.references))) as pool:
        base = pool.submit(_model_only, recipe.base, "base", hub, digests=digests)
        anchor = pool.submit(_model_only, recipe.anchor, "anchor", hub, digests=digests)
        parts = list(pool.map(lambda i: _part(i, recipe, hub, inside, digests=digests), recipe.ingredients))
        recipe = replace(_flat(recipe, parts), base=base.result(), anchor=anchor.result())
    return _add_anchor(recipe)


# -- one model -----------------------------------------------------------------------------------------------------


def _settled(asked: ModelReference) -> bool:
    """Whether `resolve` has written this pin before: it is taken as it stands."""
    return asked.pinned and asked.requested is not None


def _commit(asked: ModelReference, hub: Hub) -> str | None:
    """What a Hub repo's revision points to; `None` for a local folder."""
    return None if asked.local else hub.resolve(asked.model, asked.revision)


def _model_only(asked: ReferenceT | None, key: str, hub: Hub, *, digests: bool) -> ReferenceT | None:
    """The base or the anchor, with exact content."""
    if asked is None or _settled(asked):
        return asked
    commit = _commit(asked, hub)
    if _nested(asked, commit, hub) is not None:
        raise RecipeError(
            f"`{key}` names '{asked.label}', which is itself a recipe.\nOnly ingredients can be put in place.\n"
            f"Mix it first (`cocktail mix {asked.model} -o FOLDER`) and name the folder."
        )
    return _exact(asked, commit, hub, digests=digests)


def _exact(asked: ReferenceT, commit: str | None, hub: Hub, *, digests: bool) -> ReferenceT:
    """The same model with exact content; an adapter with the exact model that it adapts."""
    if commit is None and not digests:
        exact = replace(asked, digest=None)
        located = locate(exact, hub)
    elif commit is None:
        located = locate(asked, hub)  # a digest that is given has to fit
        exact = replace(asked, digest=asked.digest or folder_digest(located))
    else:
        exact = replace(asked, revision=commit, requested=asked.requested or asked.revision or "main")
        located = ResolvedModel(reference=exact, files=hub.files(asked.model, commit))
    if located.model_files.adapter:
        return replace(exact, base=_exact_base(_adapter_base(located), located, hub, digests=digests))
    if asked.base is not None:
        raise RecipeError(
            f"'{asked.label}' has a `base` in the recipe, but it is a whole model and no adapter.\n"
            "The base would be silently without effect.\nRemove it."
        )
    return exact


def _exact_base(base: ModelReference, adapter: ResolvedModel, hub: Hub, *, digests: bool) -> ModelReference:
    """The model that an adapter adapts, with exact content. It is a whole model, and no adapter again."""
    if _settled(base):
        return base
    try:
        commit = _commit(base, hub)
        located = locate(replace(base, digest=None) if commit is None else replace(base, revision=commit), hub)
        whole = not located.model_files.adapter
    except SourceError as error:
        raise _without_base(base, adapter, error) from error
    if not whole:
        raise IncompatibleError(
            f"'{adapter.reference.label}' is an adapter of '{base.label}', which is itself an adapter.\n"
            "An adapter can be added to a whole model only.\n"
            f"Merge '{base.label}' into its own base with PEFT (`merge_and_unload`), and name the result as `base`.",
            model=adapter.reference.model,
        )
    return _exact(base, commit, hub, digests=digests)


def _without_base(base: ModelReference, adapter: ResolvedModel, error: SourceError) -> SourceError:
    """What cannot be read of a base, with the adapter that needs it."""
    named = "the recipe (`base`)" if adapter.reference.base else f"its {ADAPTER_CONFIG} (`base_model_name_or_path`)"
    return SourceError(
        f"'{adapter.reference.label}' is an adapter of '{base.label}', as {named} says, which cannot be read:\n"
        f"{error}\n"
        f"If that model is elsewhere, name it in the recipe: `{_entry(adapter)}`."
    )


def _entry(adapter: ResolvedModel) -> str:
    """How a recipe names the base of an adapter."""
    return f"- {{model: {adapter.reference.model}, base: {{model: org/name}}}}"


def _adapter_base(located: ResolvedModel) -> ModelReference:
    """The model that an adapter belongs to, as the recipe or else the adapter itself says."""
    if located.reference.base is not None:
        return located.reference.base
    config = read_json(located.files, ADAPTER_CONFIG)
    name = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    give = f"Give it in the recipe: `{_entry(located)}`."
    if not name:
        raise SourceError(
            f"'{located.reference.label}' is an adapter that does not say which model it adapts.\n"
            f"An adapter is mixed as that model with the adapter's change added.\n{give}"
        )
    if located.reference.local:
        return ModelReference.from_value({"model": str(name), "revision": config.get("revision")}, "base")
    if is_path(str(name)):
        raise SourceError(
            f"'{located.reference.label}' is an adapter of the folder '{name}' on its author's machine.\n"
            f"A model from the Hub must not reach into the folders of this one.\n{give}"
        )
    return ModelReference.from_value({"model": str(name), "revision": config.get("revision") or "main"}, "base")


def _folder(model: str) -> Path:
    return Path(model).expanduser()


# -- recipes inside recipes ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Part:
    """What one ingredient becomes: itself, or the ingredients of the recipe that it names."""

    outer: Ingredient
    ingredients: tuple[Ingredient, ...]
    inner: Recipe | None = None

    def donor(self, key: str) -> str:
        """The model that gives `config` or `tokenizer` where this ingredient is to give it."""
        name: str = "first" if self.inner is None else getattr(self.inner, key)
        return self.ingredients[0].model if name == "first" else name


def _part(outer: Ingredient, recipe: Recipe, hub: Hub, inside: tuple[ModelReference, ...], *, digests: bool) -> _Part:
    if _settled(outer):
        return _Part(outer=outer, ingredients=(outer,))
    commit = _commit(outer, hub)
    inner = _nested(outer, commit, hub)
    if inner is None:
        return _Part(outer=outer, ingredients=(_exact(outer, commit, hub, digests=digests),))
    here = ModelReference(model=outer.model if commit else str(_folder(outer.model).resolve()), revision=commit)
    if here in inside:
        circle = " -> ".join(found.model for found in (*inside[inside.index(here) :], here))
        raise RecipeError(
            f"The recipe '{outer.label}' stands inside itself: {circle}.\nIts shares would never come to an end.\n"
            "Remove it from one of these recipes, or name one of its earlier commits."
        )
    inner = _resolve(inner, hub, inside=(*inside, here), digests=digests)
    _require_linear(outer, inner, recipe)
    shares = normalized(inner.weights or ())
    flat = (
        replace(i, weight=(outer.weight or 0.0) * share) for i, share in zip(inner.ingredients, shares, strict=True)
    )
    return _Part(outer=outer, ingredients=tuple(flat), inner=inner)


def _nested(asked: ModelReference, commit: str | None, hub: Hub) -> Recipe | None:
    """The recipe that a model's name stands for, if it does."""
    folder = _folder(asked.model)
    if commit is None and folder.is_file():
        return absolutize_paths(read_recipe(folder), folder.parent)
    files: RepoFiles = LocalFiles(folder, name=asked.model) if commit is None else hub.files(asked.model, commit)
    config = read_config(files)
    if config.get("model_type") != "cocktail":
        return None
    inner = recipe_from_mapping(config)
    return absolutize_paths(inner, folder) if commit is None else on_hub(inner, asked.model)


def _require_linear(outer: Ingredient, inner: Recipe, recipe: Recipe) -> None:
    linear = inner.method == recipe.method == "linear" and not inner.layers and not recipe.layers
    same_policy = not inner.missing or inner.missing == recipe.missing
    if outer.weight is None or inner.weights is None or not linear or not same_policy:
        raise RecipeError(
            f"Ingredient '{outer.label}' is itself a recipe that cannot be put in place.\n"
            "That takes linear mixes with given weights, without `layers` and with one and the same `missing`.\n"
            f"Mix it first (`cocktail mix {outer.model} -o FOLDER`) and name the folder."
        )


def _flat(recipe: Recipe, parts: Sequence[_Part]) -> Recipe:
    """The recipe with all parts in one list; config and tokenizer come from where they came from before."""
    flat = [ingredient for part in parts for ingredient in part.ingredients]
    if all(part.inner is None for part in parts):
        return replace(recipe, ingredients=tuple(flat))
    named = {part.outer.model: part for part in reversed(parts)}

    def donor(key: str) -> str:
        name: str = getattr(recipe, key)
        if name == "first" and recipe.anchor is not None:
            return name  # the anchor comes to the front
        part = parts[0] if name == "first" else named.get(name)
        return part.donor(key) if part else name

    inner = parts[0].inner if recipe.anchor is None else None
    dtype = inner.dtype if inner and recipe.dtype == "auto" else recipe.dtype
    return replace(recipe, ingredients=_joined(flat), dtype=dtype, config=donor("config"), tokenizer=donor("tokenizer"))


def _joined(ingredients: Sequence[Ingredient]) -> tuple[Ingredient, ...]:
    """One entry per model: what stands in several of the recipes gets the sum of its shares."""
    merged: dict[str, Ingredient] = {}
    for ingredient in ingredients:
        key = canonical_json(ingredient.identity())
        before = merged.get(key)
        weight = (before.weight or 0.0) + (ingredient.weight or 0.0) if before else ingredient.weight
        merged[key] = replace(before or ingredient, weight=weight)
    return tuple(merged.values()) if len(merged) > 1 else tuple(ingredients)  # a model mixed with itself stays that


def _add_anchor(recipe: Recipe) -> Recipe:
    """`share * anchor + (1 - share) * sum of the others`, as one linear mix, once the others have weights."""
    anchor = recipe.anchor
    if anchor is None or recipe.weights is None:
        return recipe
    first = replace(Ingredient.from_value(anchor, "anchor"), weight=anchor.share)
    shares = normalized(recipe.weights)
    others = [replace(i, weight=(1.0 - anchor.share) * w) for i, w in zip(recipe.ingredients, shares, strict=True)]
    evidence = dict(recipe.evidence or {}) | {"anchor": {"model": anchor.model, "share": anchor.share}}
    return replace(recipe, ingredients=_joined([first, *others]), anchor=None, evidence=evidence)

"""Recipe -> recipe with every model pinned: a commit for a Hub repo, a content digest for a local folder."""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from cocktail_hub.cache import Cache, sha256_of
from cocktail_hub.checkpoint.contents import ADAPTER_CONFIG, Contents, read_config, read_contents, read_json
from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.errors import IncompatibleError, RecipeError, SourceError
from cocktail_hub.hub import HubFiles, HubOptions, pin
from cocktail_hub.origin import anchored, refuse_local
from cocktail_hub.recipe import Ingredient, Pin, Recipe, is_local, recipe_from_mapping

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cocktail_hub.checkpoint.files import RepoFiles

PinT = TypeVar("PinT", bound=Pin)
DEEPEST = 8
"""How many recipes may stand inside each other before it is taken for a circle."""

WORTH_NOTING = 1 << 20
"""Digests of files from this size, in bytes, are kept; smaller ones are hashed each time."""


@dataclass(frozen=True, kw_only=True)
class Located:
    """A pinned model together with the files behind it."""

    pin: Pin
    """Which model, exactly."""
    files: RepoFiles
    """Its files, on the Hub or in a folder."""

    @cached_property
    def contents(self) -> Contents:
        """Which of the files make up the model."""
        return read_contents(self.files)


def locate(pinned: Pin, options: HubOptions) -> Located:
    """Find the files of a pinned model. Reads nothing yet.

    Raises:
        SourceError: a local folder is gone.
        IncompatibleError: a local folder has changed since the recipe was resolved.
    """
    if not is_local(pinned.model):
        return Located(pin=pinned, files=HubFiles(pinned.model, pinned.revision or "", options))
    located = Located(pin=pinned, files=LocalFiles(_folder(pinned.model), name=pinned.model))
    if pinned.digest and (found := folder_digest(located)) != pinned.digest:
        raise IncompatibleError(
            f"The folder '{pinned.model}' has changed since the recipe was resolved: its digest is {found[:19]}..., "
            f"the recipe says {pinned.digest[:19]}....\nThe mix would not be the one that the recipe describes.\n"
            "Bring the old files back, or remove `digest` from the recipe to mix what is there now.",
            model=pinned.model,
        )
    return located


def resolve(recipe: Recipe, options: HubOptions) -> Recipe:
    """Pin every model of a recipe, put other recipes in place of their names, and add in the anchor.

    Weights that are still to be computed stay open. Nothing but small files is read of Hub repos.

    Raises:
        SourceError: a model cannot be found or accessed.
        RecipeError: a nested recipe cannot be put in place.
    """
    return _resolve(recipe, options, depth=0)


def _resolve(recipe: Recipe, options: HubOptions, *, depth: int) -> Recipe:
    with ThreadPoolExecutor(max(1, len(recipe.pins))) as pool:
        parts = list(pool.map(lambda i: _ingredients_of(i, recipe, options, depth), recipe.ingredients))
    flat = [ingredient for part in parts for ingredient in part]
    ingredients = tuple(flat) if len(flat) == len(parts) else _joined(flat)
    base = _pinned(recipe.base, options) if recipe.base else None
    anchor = _pinned(recipe.anchor, options) if recipe.anchor else None
    return _add_anchor(replace(recipe, ingredients=ingredients, base=base, anchor=anchor))


def _pinned(asked: PinT, options: HubOptions) -> PinT:
    """The same model with exact content. A pin that `resolve` wrote before is taken as it stands."""
    return asked if asked.pinned and asked.requested else _exact(asked, _commit(asked, options), options)


def _commit(asked: Pin, options: HubOptions) -> str | None:
    """What a Hub repo's revision points to; `None` for a local folder."""
    return None if is_local(asked.model) else pin(asked.model, asked.revision, options)


def _exact(asked: PinT, commit: str | None, options: HubOptions) -> PinT:
    if commit is None:
        located = locate(asked, options)  # a digest that is given has to fit
        exact = replace(asked, digest=asked.digest or folder_digest(located))
    else:
        exact = replace(asked, revision=commit, requested=asked.requested or asked.revision or "main")
        located = Located(pin=exact, files=HubFiles(asked.model, commit, options))
    if located.contents.adapter:
        exact = replace(exact, base=_pinned(_adapter_base(located), options))
    return exact


def local_root(located: Located) -> Path:
    """The folder of a local model."""
    return _folder(located.pin.model)


def _folder(model: str) -> Path:
    return Path(model).expanduser()


def _adapter_base(located: Located) -> Pin:
    """The model that an adapter belongs to, as the recipe or else the adapter itself says."""
    if located.pin.base is not None:
        return located.pin.base
    config = read_json(located.files, ADAPTER_CONFIG)
    name = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    if not name:
        raise SourceError(
            f"'{located.pin.label}' is an adapter that does not say which model it adapts.\n"
            "An adapter is mixed as that model with the adapter's change added.\n"
            f"Give it in the recipe: `- {{model: {located.pin.model}, base: {{model: org/name}}}}`."
        )
    return Pin(model=str(name), revision=config.get("revision"))


def _ingredients_of(outer: Ingredient, recipe: Recipe, options: HubOptions, depth: int) -> Sequence[Ingredient]:
    """An ingredient pinned; or, where it names another recipe, that one's ingredients with the shares multiplied."""
    if outer.pinned and outer.requested:
        return (outer,)  # it was looked at before
    commit = _commit(outer, options)
    inner = _nested(outer, commit, options)
    if inner is None:
        return (_exact(outer, commit, options),)
    if depth >= DEEPEST:
        raise RecipeError(f"'{outer.label}' stands inside {DEEPEST} other recipes; they seem to go round in a circle.")
    inner = _resolve(inner, options, depth=depth + 1)
    plain = inner.method == recipe.method == "linear" and not inner.layers and not recipe.layers
    if outer.weight is None or inner.weights is None or not plain:
        raise RecipeError(
            f"Ingredient '{outer.label}' is itself a recipe that cannot be put in place.\n"
            "That takes linear mixes with given weights and without `layers`, on both sides.\n"
            f"Mix it first (`cocktail mix {outer.model} -o FOLDER`) and name the folder."
        )
    return [replace(i, weight=outer.weight * (i.weight or 0.0)) for i in inner.ingredients]


def _nested(ingredient: Ingredient, commit: str | None, options: HubOptions) -> Recipe | None:
    """The recipe that an ingredient names instead of a model, if it does."""
    if commit is None:
        folder = _folder(ingredient.model)
        config = read_config(LocalFiles(folder, name=ingredient.model))
        return anchored(recipe_from_mapping(config), folder) if config.get("model_type") == "cocktail" else None
    config = read_config(HubFiles(ingredient.model, commit, options))
    if config.get("model_type") != "cocktail":
        return None
    inner = recipe_from_mapping(config)
    refuse_local(inner, ingredient.model)
    return inner


def _joined(ingredients: Sequence[Ingredient]) -> tuple[Ingredient, ...]:
    """One entry per model: what stands in several of the recipes gets the sum of its shares."""
    merged: dict[tuple[str, str | None, str | None], Ingredient] = {}
    for ingredient in ingredients:
        key = (ingredient.model, ingredient.revision, ingredient.digest)
        if key in merged:
            weight = (merged[key].weight or 0.0) + (ingredient.weight or 0.0)
            merged[key] = replace(merged[key], weight=weight)
        else:
            merged[key] = ingredient
    return tuple(merged.values())


def _add_anchor(recipe: Recipe) -> Recipe:
    """`share * anchor + (1 - share) * sum of the others`, as one linear mix, once the others have weights."""
    anchor = recipe.anchor
    if anchor is None or recipe.weights is None:
        return recipe
    first = Ingredient(
        model=anchor.model,
        revision=anchor.revision,
        requested=anchor.requested,
        digest=anchor.digest,
        base=anchor.base,
        weight=anchor.share,
    )
    others = [replace(i, weight=(1.0 - anchor.share) * (i.weight or 0.0)) for i in recipe.ingredients]
    evidence = dict(recipe.evidence or {}) | {"anchor": {"model": anchor.model, "share": anchor.share}}
    return replace(recipe, ingredients=_joined([first, *others]), anchor=None, evidence=evidence)


def with_weights(recipe: Recipe, weights: Sequence[float], evidence: dict[str, object]) -> Recipe:
    """The recipe with computed weights in place of its `weighting`, and what they came from."""
    ingredients = tuple(replace(i, weight=w) for i, w in zip(recipe.ingredients, weights, strict=True))
    return _add_anchor(replace(recipe, ingredients=ingredients, weighting=None, evidence=evidence))


def folder_digest(located: Located) -> str:
    """`sha256:...` over the names and contents of the files that a mix needs from a local folder.

    Contents are hashed once: the digest of a file is kept as long as its size and time of change stay.
    """
    files = located.files
    if not isinstance(files, LocalFiles):
        raise TypeError("Only local folders have a content digest; Hub repos have a commit.")
    names = sorted({*located.contents.needed, *located.contents.code})
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        hashes = list(pool.map(lambda name: _file_digest(files.path(name)), names))
    listing = json.dumps(list(zip(names, hashes, strict=True)), separators=(",", ":"))
    return "sha256:" + hashlib.sha256(listing.encode()).hexdigest()


def _file_digest(path: Path) -> str:
    status = path.stat()
    if status.st_size < WORTH_NOTING:
        return sha256_of(path)
    stamp = f"{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ino}"
    note = Cache().root / "digests" / hashlib.sha256(stamp.encode()).hexdigest()
    if note.is_file() and len(known := note.read_text(encoding="ascii")) == 64:  # noqa: PLR2004 - hex digits of sha256
        return known
    digest = sha256_of(path)
    note.parent.mkdir(parents=True, exist_ok=True)
    partial = note.with_suffix(f".{os.getpid()}")
    partial.write_text(digest, encoding="ascii")
    partial.replace(note)
    return digest

"""Recipe -> recipe with every model pinned: a commit for a Hub repo, a content digest for a local folder."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, TypeVar

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
    as_path,
    canonical_json,
    is_path,
    read_recipe,
    recipe_from_mapping,
)
from cocktail_hub.resolve.source import absolutize_paths, on_hub
from cocktail_hub.storage.cache import Cache
from cocktail_hub.storage.disk import HASHES, QUICK, hash_of, write_atomically

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cocktail_hub.checkpoint.files import RepoFiles
    from cocktail_hub.hub import Hub

ReferenceT = TypeVar("ReferenceT", bound=ModelReference)
SIDE_BY_SIDE = 16
"""Models that are looked up at the same time."""
MOST_RECIPES = 64
"""Recipes that are read for one, those named again counted again."""
WORTH_NOTING = 1 << 20
"""Bytes from which on the digest of a file is kept; smaller files are hashed each time."""
NOTE_AGE = 90 * 86_400.0
"""Seconds for which a digest is kept at least, used or not."""
SETTLED_AGE = 2.0
"""Seconds since the last change of a file after which its timestamps reveal the next one."""
TIMES_TELL = os.name != "nt"
"""Whether files have a time of change that no program can set back. Windows has a time of creation instead, so files
are hashed each time there."""


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

    @property
    def root(self) -> Path:
        """The folder of a local model."""
        return self.files.root if isinstance(self.files, LocalFiles) else as_path(self.reference.model)


class _Adapted(NamedTuple):
    """What an adapter adapts."""

    base: ModelReference
    """Its name."""
    commit: str | None
    """Its commit; `None` for a local folder."""
    recipe: Recipe | None = None
    """The recipe that it is, if it is one."""


def open_model(pinned: ModelReference, hub: Hub, stages: Mapping[str, LocalFiles] | None = None) -> ResolvedModel:
    """Find the files of a pinned model. Nothing is requested for a Hub repo yet.

    `stages`: name of a model that is a recipe -> the folder of its mix.

    Raises:
        SourceError: a local folder is gone.
        IncompatibleError: a local folder has changed since the recipe was resolved.
    """
    if stages and pinned.recipe is not None:
        return ResolvedModel(reference=pinned, files=stages[pinned.model])
    if not pinned.local:
        return ResolvedModel(reference=pinned, files=hub.files(pinned.model, pinned.revision or ""))
    files = LocalFiles(as_path(pinned.model), name=pinned.model)
    opened = ResolvedModel(reference=pinned, files=files)
    if pinned.digest and (found := folder_digest(opened, pinned.digest.partition(":")[0])) != pinned.digest:
        raise IncompatibleError(
            f"The folder '{pinned.model}' has changed since the recipe was resolved: its digest is {found[:19]}..., "
            f"the recipe says {pinned.digest[:19]}....\nThe mix would not be the one that the recipe describes.\n"
            "Restore the old files, or remove `digest` from the recipe to mix the new ones.",
            model=pinned.model,
        )
    return opened


def resolve(recipe: Recipe, hub: Hub, *, digests: bool = True) -> Recipe:
    """Pin every model of a recipe, inline nested recipes, and make the anchor an ingredient.

    Open weights stay open. Only small files of Hub repos are read, and none of models that were resolved before.

    Args:
        recipe: the recipe as written.
        hub: the Hub to read from.
        digests: whether to hash local folders, for which all of their files are read. Without, a recipe can be checked
            and planned, but not mixed.

    Raises:
        SourceError: a model cannot be found or accessed.
        RecipeError: a nested recipe cannot be inlined.
        IncompatibleError: a local folder has changed since the recipe was resolved.
    """
    return _Resolver(hub=hub, digests=digests).resolve(recipe)


def with_weights(recipe: Recipe, weights: Sequence[float], evidence: dict[str, object]) -> Recipe:
    """Return the recipe with computed weights in place of its `weighting`, and the evidence for them.

    The commits of trusted code stay.
    """
    ingredients = tuple(replace(i, weight=w) for i, w in zip(recipe.ingredients, weights, strict=True))
    evidence = {**evidence, **({"code": recipe.code} if recipe.code else {})}
    return _add_anchor(replace(recipe, ingredients=ingredients, weighting=None, evidence=evidence))


@dataclass(frozen=True, kw_only=True)
class _Resolver:
    """Pins models and inlines recipes, at one level of nesting."""

    hub: Hub
    digests: bool
    parents: tuple[ModelReference, ...] = ()
    """The recipes that this one is nested in, the outermost first."""
    met: list[Recipe] = field(default_factory=list)
    """The outermost recipe and those in it, as far as they were met."""

    def resolve(self, recipe: Recipe) -> Recipe:
        if len(self.met) > MOST_RECIPES:
            raise RecipeError(
                f"The recipe contains more than {MOST_RECIPES} others, or names some of them again and again.\n"
                "Each may name others in turn, without end.\n"
                "Mix some of them to folders (`cocktail mix -o`), and name these."
            )
        self.met.append(recipe)
        with ThreadPoolExecutor(min(SIDE_BY_SIDE, len(recipe.references))) as pool:
            base = pool.submit(self.pin_model, recipe.base, "base")
            anchor = pool.submit(self.pin_model, recipe.anchor, "anchor")
            parts = list(pool.map(lambda ingredient: self.inline(ingredient, recipe), recipe.ingredients))
            return _add_anchor(replace(_flatten(recipe, parts), base=base.result(), anchor=anchor.result()))

    def resolve_inner(self, inner: Recipe, name: ModelReference | None = None) -> Recipe:
        """Resolve a recipe that is a model of this one; `name` is where it was read from."""
        parents = (*self.parents, name) if name else self.parents
        resolved = replace(self, parents=parents).resolve(inner)
        if resolved.weighting is not None:
            raise RecipeError(
                "A recipe inside the recipe has no weights yet: it has a `weighting`.\n"
                "What it is must be known before it is mixed with others.\n"
                "Compute its weights (`cocktail score RECIPE -o SCORED.yaml`), and take that recipe."
            )
        return resolved

    def commit_of(self, reference: ModelReference) -> str | None:
        """The commit that a Hub repo's revision points to; `None` for a local folder."""
        return None if reference.local else self.hub.resolve(reference.model, reference.revision)

    def pin_model(self, reference: ReferenceT | None, key: str) -> ReferenceT | None:
        """Pin the base or the anchor, which cannot be a recipe."""
        if reference is None or _resolved_before(reference):
            return reference
        if reference.recipe is not None:
            return replace(reference, recipe=self.resolve_inner(recipe_from_mapping(reference.recipe)).to_dict())
        commit = self.commit_of(reference)
        if (inner := self.nested_recipe(reference, commit)) is not None:
            if key == "anchor":
                raise RecipeError(
                    f"`{key}` names '{reference.label}', which is itself a recipe.\nOnly ingredients can be inlined.\n"
                    f"Mix it first (`cocktail mix {reference.model} -o FOLDER`) and name the folder."
                )
            here = ModelReference(model=reference.model, revision=commit)
            return replace(reference, recipe=self.resolve_inner(inner, here).to_dict())
        return self.pin(reference, commit)

    def pin(self, reference: ReferenceT, commit: str | None) -> ReferenceT:
        """Pin a model, and the model that it adapts if it is an adapter."""
        pinned, opened = self.open(reference, commit)
        adapted = self.adapted(opened)
        if adapted and adapted.recipe is not None:
            raise _not_inlined(adapted.base, opened, "Only ingredients can be adapters of a recipe.")
        return self.with_base(pinned, adapted)

    def open(self, reference: ReferenceT, commit: str | None) -> tuple[ReferenceT, ResolvedModel]:
        """Pin a model without the one that it adapts, and find its files."""
        if commit is not None:
            pinned = replace(reference, revision=commit, requested=reference.requested or reference.revision or "main")
            return pinned, open_model(pinned, self.hub)
        if self.digests:
            opened = open_model(reference, self.hub)  # compares a digest that the recipe gives
            return replace(reference, digest=reference.digest or folder_digest(opened)), opened
        pinned = replace(reference, digest=None)
        return pinned, open_model(pinned, self.hub)

    def with_base(self, model: ReferenceT, adapted: _Adapted | None) -> ReferenceT:
        """Pin the model that an adapter adapts; a whole model adapts none."""
        if adapted is None:
            return model
        base = adapted.base
        return replace(model, base=base if _resolved_before(base) else self.pin(base, adapted.commit))

    def adapted(self, adapter: ResolvedModel) -> _Adapted | None:
        """Find what an adapter adapts, which cannot be an adapter; `None` for a whole model."""
        if not adapter.model_files.adapter:
            if adapter.reference.base is not None:
                raise RecipeError(
                    f"'{adapter.reference.label}' has a `base` in the recipe, but it is a whole model and no adapter.\n"
                    "The base would be silently ignored.\nRemove it."
                )
            return None
        base, label = adapter.reference.base or _base_in_config(adapter), adapter.reference.label
        if _resolved_before(base):
            return _Adapted(base, base.revision)
        try:
            commit = self.commit_of(base)
            recipe = self.nested_recipe(base, commit)
            exact = replace(base, digest=None) if commit is None else replace(base, revision=commit)
            nested_adapter = recipe is None and open_model(exact, self.hub).model_files.adapter
        except SourceError as error:
            named = "the recipe (`base`)" if adapter.reference.base else f"its {ADAPTER_CONFIG} (`{BASE_KEY}`)"
            raise SourceError(
                f"'{label}' is an adapter of '{base.label}', according to {named}, which cannot be read:\n{error}\n"
                f"If that model is elsewhere, name it in the recipe: `{_entry_with_base(adapter)}`."
            ) from error
        if nested_adapter:
            raise IncompatibleError(
                f"'{label}' is an adapter of '{base.label}', which is itself an adapter.\n"
                "An adapter can only be added to a whole model.\n"
                f"Merge '{base.label}' into its base with PEFT (`merge_and_unload`), and name the result as `base`.",
                model=adapter.reference.model,
            )
        return _Adapted(base, commit, recipe)

    def nested_recipe(self, reference: ModelReference, commit: str | None) -> Recipe | None:
        """Read the recipe that a reference points to; `None` if it is a model."""
        path = as_path(reference.model)
        if commit is None and path.is_file():
            return absolutize_paths(read_recipe(path), path.parent)
        local = commit is None
        files = LocalFiles(path, name=reference.model) if local else self.hub.files(reference.model, commit or "")
        config = read_config(files)
        if config.get("model_type") != "cocktail":
            return None
        recipe = recipe_from_mapping(config)
        return absolutize_paths(recipe, path) if local else on_hub(recipe, reference.model)

    def inline(self, ingredient: Ingredient, recipe: Recipe) -> tuple[tuple[Ingredient, ...], Recipe | None]:
        """Return the pinned ingredient, or the ingredients of the recipe that it names or adapts, and that recipe."""
        if _resolved_before(ingredient):
            return (ingredient,), None
        if ingredient.recipe is not None:
            return self.inline_recipe(ingredient, None, recipe_from_mapping(ingredient.recipe), recipe)
        commit = self.commit_of(ingredient)
        inner = self.nested_recipe(ingredient, commit)
        if inner is not None:
            return self.inline_recipe(ingredient, commit, inner, recipe)
        pinned, opened = self.open(ingredient, commit)
        adapted = self.adapted(opened)
        if adapted is None or adapted.recipe is None:
            return (self.with_base(pinned, adapted),), None
        base = adapted.base
        mixed = Ingredient(model=base.model, revision=base.revision, weight=ingredient.weight)
        parts, mix = self.inline_recipe(mixed, adapted.commit, adapted.recipe, recipe, adapter=opened)
        return _adapted_parts(pinned, opened, mixed, parts, mix or recipe)

    def inline_recipe(
        self,
        ingredient: Ingredient,
        commit: str | None,
        inner: Recipe,
        recipe: Recipe,
        *,
        adapter: ResolvedModel | None = None,
    ) -> tuple[tuple[Ingredient, ...], Recipe | None]:
        """Return the ingredients of a recipe that is an ingredient, or what the ingredient `adapter` adapts.

        One that is not linear, in a mix that is, stays a recipe, which is mixed by itself first.
        """
        name = ingredient.model if commit else str(as_path(ingredient.model).resolve())
        here = None if ingredient.recipe is not None else ModelReference(model=name, revision=commit)
        if here and here in self.parents:
            cycle = " -> ".join(found.model for found in (*self.parents[self.parents.index(here) :], here))
            raise RecipeError(
                f"The recipe '{ingredient.label}' contains itself: {cycle}.\nResolving it would never terminate.\n"
                "Remove it from one of these recipes, or name one of its earlier commits."
            )
        inner = replace(self, parents=(*self.parents, here) if here else self.parents).resolve(inner)
        plain = not inner.varies and not recipe.varies and not inner.keep
        linear = inner.method == recipe.method == "linear" and plain and not ingredient.layer_range
        same_policy, weights = not inner.missing or inner.missing == recipe.missing, inner.weights
        if ingredient.weight is None or weights is None or not linear or not same_policy:
            if adapter is None and weights is not None:
                return (replace(ingredient, recipe=inner.to_dict(), revision=commit or ingredient.revision),), None
            why = (
                "Both must be linear mixes with given weights, the same for all tensors, the inner one without `keep`, "
                "and with the same `missing`."
            )
            raise _not_inlined(ingredient, adapter, why)
        if inner.tokenizer == "union" or inner.tokens or inner.pad_to_multiple_of > 1 or inner.chat_template != "auto":
            why = "It has tokens or a chat template of its own making, which would be lost."
            raise _not_inlined(ingredient, adapter, why)
        if commit:
            inlined = inlined_in(inner) | {ingredient.model: commit}
            inner = replace(inner, evidence={**(inner.evidence or {}), _INLINED: inlined})
        products = [ingredient.weight * weight for weight in normalized(weights)]
        return tuple(replace(i, weight=w) for i, w in zip(inner.ingredients, products, strict=True)), inner


def _resolved_before(reference: ModelReference) -> bool:
    return reference.pinned and reference.requested is not None


# -- adapters ------------------------------------------------------------------------------------------------------

BASE_KEY = "base_model_name_or_path"


def _entry_with_base(adapter: ResolvedModel) -> str:
    return f"- {{model: {adapter.reference.model}, base: {{model: org/name}}}}"


def _base_in_config(adapter: ResolvedModel) -> ModelReference:
    """The model that an adapter's own config names."""
    config = read_json(adapter.files, ADAPTER_CONFIG)
    name = config.get(BASE_KEY) if isinstance(config, dict) else None
    if not name:
        raise SourceError(
            f"'{adapter.reference.label}' is an adapter that does not say which model it adapts.\n"
            "An adapter is mixed as that model with the adapter's change added.\n"
            f"Give it in the recipe: `{_entry_with_base(adapter)}`."
        )
    revision = config.get("revision")
    if not adapter.reference.local:
        if is_path(str(name)):
            raise SourceError(
                f"'{adapter.reference.label}' is an adapter of the folder '{name}' on its author's machine.\n"
                "A model from the Hub must not read folders of this machine.\n"
                f"Give it in the recipe: `{_entry_with_base(adapter)}`."
            )
        revision = revision or "main"  # a repo, even where this machine has a folder of that name
    return ModelReference.from_value({"model": str(name), "revision": revision}, "base")


# -- recipes inside recipes ----------------------------------------------------------------------------------------

_INLINED = "inlined"
"""Key of a recipe's `evidence`."""


def inlined_in(recipe: Recipe) -> dict[str, str]:
    """Hub ids of the recipes that were replaced by their ingredients -> commits."""
    found = (recipe.evidence or {}).get(_INLINED)
    return {str(name): str(commit) for name, commit in found.items()} if isinstance(found, Mapping) else {}


def _not_inlined(recipe: ModelReference, adapter: ResolvedModel | None, why: str) -> RecipeError:
    what = (
        f"'{adapter.reference.label}' is an adapter of '{recipe.label}', a recipe that cannot be inlined."
        if adapter
        else f"Ingredient '{recipe.label}' is itself a recipe that cannot be inlined."
    )
    how = f": `- {{model: {adapter.reference.model}, base: {{model: FOLDER}}}}`" if adapter else ""
    return RecipeError(
        f"{what}\n{why}\nMix it first (`cocktail mix {recipe.model} -o FOLDER`) and name the folder{how}."
    )


def _adapted_parts(
    pinned: Ingredient, adapter: ResolvedModel, mixed: Ingredient, parts: Sequence[Ingredient], inner: Recipe
) -> tuple[tuple[Ingredient, ...], Recipe]:
    """Add an adapter to each ingredient of the recipe that it adapts.

    The weights of a recipe add up to 1, so that is the same: sum(w * (model + change)) = sum(w * model) + change.
    """
    from cocktail_hub.checkpoint.adapters.config import read_adapter_config

    if nested := next((part for part in parts if part.base), None):
        raise _not_inlined(mixed, adapter, f"Its ingredient '{nested.label}' is itself an adapter.")
    if read_adapter_config(adapter.files).dora:
        raise _not_inlined(mixed, adapter, "A DoRA divides by the norm of the mixed weights.")
    if not {inner.config, inner.tokenizer} <= {"first", parts[0].model}:
        raise _not_inlined(mixed, adapter, "Its config or tokenizer is not that of its first ingredient.")
    adapted = (replace(pinned, base=ModelReference.from_value(part, "base"), weight=part.weight) for part in parts)
    return tuple(adapted), replace(inner, config="first", tokenizer="first")


def _flatten(recipe: Recipe, parts: Sequence[tuple[tuple[Ingredient, ...], Recipe | None]]) -> Recipe:
    """Replace each ingredient by its part; config and tokenizer come from the same model as before."""
    flat = [ingredient for ingredients, _ in parts for ingredient in ingredients]
    if all(inner is None for _, inner in parts):
        return replace(recipe, ingredients=tuple(flat))
    by_name = {outer.model: part for outer, part in reversed(list(zip(recipe.ingredients, parts, strict=True)))}

    def donor(key: str) -> str:
        name: str = getattr(recipe, key)
        if name == "first" and recipe.anchor is not None:
            return name  # the anchor becomes the first ingredient
        if name != "first" and name not in by_name:
            return name
        ingredients, inner = parts[0] if name == "first" else by_name[name]
        inner_name: str = getattr(inner, key, "first")
        return ingredients[0].model if inner_name == "first" else inner_name

    first = parts[0][1] if recipe.anchor is None else None
    inlined: dict[str, str] = {}
    for _, inner in parts:
        inlined |= inlined_in(inner) if inner else {}
    return replace(
        recipe,
        ingredients=_joined(flat),
        dtype=first.dtype if first and recipe.dtype == "auto" else recipe.dtype,
        config=donor("config"),
        tokenizer=donor("tokenizer"),
        evidence={**(recipe.evidence or {}), _INLINED: inlined} if inlined else recipe.evidence,
    )


def _joined(ingredients: Sequence[Ingredient]) -> tuple[Ingredient, ...]:
    """One entry per model; one that occurs several times gets the sum of its weights."""
    merged: dict[str, Ingredient] = {}
    for ingredient in ingredients:
        key = canonical_json(ingredient.identity())
        before = merged.get(key)
        weight = (before.weight or 0.0) + (ingredient.weight or 0.0) if before else ingredient.weight
        merged[key] = replace(before or ingredient, weight=weight)
    return tuple(merged.values()) if len(merged) > 1 else tuple(ingredients)  # a model mixed with itself stays two


def _add_anchor(recipe: Recipe) -> Recipe:
    """Make the anchor the first ingredient: `share * anchor + (1 - share) * sum of the others`. Needs their weights."""
    anchor = recipe.anchor
    if anchor is None or recipe.weights is None:
        return recipe
    first = replace(Ingredient.from_value(anchor, "anchor"), weight=anchor.share)
    weights = normalized(recipe.weights)
    others = [replace(i, weight=(1.0 - anchor.share) * w) for i, w in zip(recipe.ingredients, weights, strict=True)]
    evidence = dict(recipe.evidence or {}) | {"anchor": {"model": anchor.model, "share": anchor.share}}
    return replace(recipe, ingredients=_joined([first, *others]), anchor=None, evidence=evidence)


# -- digests of local folders --------------------------------------------------------------------------------------


def folder_digest(opened: ResolvedModel, kind: str = QUICK) -> str:
    """`<kind>:<hex digits>` over the names and contents of the files that a mix needs from a local folder.

    Raises:
        SourceError: a file is gone, cannot be read, or is a link that leaves the folder.
    """
    files = opened.files
    if not isinstance(files, LocalFiles):
        raise TypeError("Only local folders have a content digest; Hub repos have a commit.")

    def digest(name: str) -> str:
        path = files.path(name)
        try:
            return file_digest(path, kind)
        except OSError as error:
            raise SourceError(
                f"Cannot read '{name}' of '{files.name}': {error.strerror or error}.\n"
                "A local folder is identified by a digest of its files, so all of them have to be read.\n"
                "Check the file's permissions and its disk."
            ) from error

    names = sorted({*opened.model_files.needed, *opened.model_files.code})
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        hashes = list(pool.map(digest, names))
    listing = HASHES[kind]()
    listing.update(json.dumps(list(zip(names, hashes, strict=True)), separators=(",", ":")).encode())
    return f"{kind}:{listing.hexdigest()}"


def file_digest(path: Path, kind: str, *, anew: bool = False, blob: bool = False) -> str:
    """Hash a file, or return the digest that was noted when the file was in the same state.

    Args:
        path: the file.
        kind: a key of `HASHES`.
        anew: hash it in any case.
        blob: the Hub's client has finished it, so that nobody writes to it any more.

    Raises:
        OSError: it cannot be read.
    """
    began, before = time.time(), path.stat()
    if before.st_size < WORTH_NOTING or not TIMES_TELL:
        return hash_of(path, kind)
    note = _note_of(path, before, kind)
    with suppress(OSError, UnicodeDecodeError):
        known = "" if anew else note.read_text(encoding="ascii")
        if re.fullmatch("[0-9a-f]+", known) and len(known) == len(HASHES[kind]().hexdigest()):
            return known  # a crash can leave zeros instead
    digest = hash_of(path, kind)
    settled = blob or began - max(before.st_mtime, before.st_ctime) > SETTLED_AGE
    if settled and _note_of(path, path.stat(), kind) == note:
        with suppress(OSError):  # without the note, the next call takes longer
            write_atomically(note, digest, sync=False)
    return digest


def _note_of(path: Path, status: os.stat_result, kind: str) -> Path:
    """Path of the note for a file in this state.

    A change of content changes one of the times, unless a program keeps writing through a memory map.
    """
    state = (kind, str(path.resolve()), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    return Cache().root / "digests" / hashlib.sha256(repr(state).encode(errors="surrogateescape")).hexdigest()


def prune_notes(older_than: float = NOTE_AGE) -> int:
    """Remove digests that were noted more than `older_than` seconds ago; return how many."""
    gone = 0
    with suppress(OSError):  # the folder does not exist, or another process prunes it
        for note in (Cache().root / "digests").iterdir():
            if time.time() - note.stat().st_mtime > older_than:
                note.unlink(missing_ok=True)
                gone += 1
    return gone

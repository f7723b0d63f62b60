"""Compare published weights with the record of their mix, and with the same mix made again from its ingredients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.errors import RecipeError, SourceError
from cocktail_hub.hub import HubFiles
from cocktail_hub.recipe import as_resolved
from cocktail_hub.resolve.resolve import file_digest
from cocktail_hub.resolve.source import RECIPE_FILE
from cocktail_hub.storage.cache import MANIFEST, CachedMix
from cocktail_hub.storage.disk import QUICK, sha256_of

if TYPE_CHECKING:
    from cocktail_hub.checkpoint.files import RepoFiles
    from cocktail_hub.hub import Hub
    from cocktail_hub.recipe import Recipe
    from cocktail_hub.resolve.source import RecipeSource

WEIGHT_ENDS = (".safetensors", ".bin")
TOLERANCE = 1e-3
"""Numbers of the evidence are equal if they differ by no more, above 1 relative to them."""
_NOT_COMPUTED = frozenset(("anchor", "inlined", "weighting", "settings"))
"""Keys of the evidence that say how, not what was found."""
CHANGED = "trained, or changed in another way, since it was mixed"
"""What weights are that differ from those that were mixed, in messages."""


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The result of a comparison."""

    name: str
    """The repo or folder that was verified."""
    digest: str
    """Digest of the recipe that it contains."""
    expected: Mapping[str, str]
    """Weight file -> sha256 when made again from the ingredients; of a sample, see `compare_sample`."""
    found: Mapping[str, str]
    """Weight file -> sha256 as published."""
    changed: tuple[str, ...] = ()
    """How the weights differ from those that were mixed, a line for each file: they were trained since, as a rule."""
    evidence: tuple[str, ...] | None = None
    """How the evidence differs from what was computed again, a line for each number; `None`: it was not computed."""
    local_copies: tuple[str, ...] = ()
    """Models on the Hub of which this machine had weights already. They were hashed anew, not downloaded anew."""
    sample: int | None = None
    """How many tensors were compared; `None`: all."""

    @property
    def same(self) -> bool:
        """Whether every weight file is, byte for byte, what the recipe gives, and no number of the evidence differs."""
        return dict(self.expected) == dict(self.found) and not self.evidence

    @property
    def differences(self) -> list[str]:
        """One line for each file that differs."""
        lines = {path: f"{path} is missing" for path in self.expected.keys() - self.found.keys()}
        for path, found in self.found.items():
            expected = self.expected.get(path)
            if expected is None:
                lines[path] = f"{path} does not come from the recipe"
            elif expected != found:
                lines[path] = f"{path} has sha256 {found[:16]}..., the recipe gives {expected[:16]}..."
        return [lines[path] for path in sorted(lines)]


def evidence_differences(old: Recipe, new: Recipe) -> tuple[str, ...]:
    """Say, in one line a number, how weights and evidence differ from those that were computed again.

    Numbers count as equal within `TOLERANCE`. Digests of outputs are not compared: on another processor or version of
    torch the last digits differ.
    """
    lines = []
    for one, other in zip(old.ingredients, new.ingredients, strict=True):
        if not _close(one.weight, other.weight):
            lines.append(f"the weight of {one.label} is {one.weight:.6g}, computed again {other.weight:.6g}")

    def compare(one: Any, other: Any, place: str) -> None:
        if isinstance(one, Mapping):
            for key in one.keys() - _NOT_COMPUTED:
                compare(one[key], other.get(key) if isinstance(other, Mapping) else None, f"{place} {key}".strip())
        elif isinstance(one, Sequence) and not isinstance(one, str):
            listed = isinstance(other, Sequence) and len(one) == len(other)
            for index, inner in enumerate(one):
                compare(inner, other[index] if listed else None, f"{place} {index + 1}")
        elif isinstance(one, float) and not _close(one, other):
            again = f"{other:.6g}" if isinstance(other, float) else "missing"
            lines.append(f"{place} is {one:.6g}, computed again {again}")

    compare(old.evidence or {}, new.evidence or {}, "")
    return tuple(sorted(lines))


def _close(one: float, other: Any) -> bool:
    return isinstance(other, float) and abs(one - other) <= TOLERANCE * max(1.0, abs(one))


def local_copies(recipe: Recipe, hub: Hub) -> tuple[str, ...]:
    """Return the models on the Hub, of a recipe with exact models, of which the Hub's cache has weights."""
    named = {(each.model, each.revision) for each in recipe.all_references if each.revision and not each.local}
    repos = [hub.files(model, commit) for model, commit in sorted(named)]
    return tuple(f.name for f in repos if any(f.cached(path) for path in f.sizes if path.endswith(WEIGHT_ENDS)))


def require_merged(source: RecipeSource) -> HubFiles | LocalFiles:
    """Return the files of merged weights whose recipe is resolved.

    Raises:
        RecipeError: there are no merged weights, or their recipe is not resolved.
    """
    if not source.merged or not isinstance(source.files, (HubFiles, LocalFiles)):
        raise RecipeError(
            f"'{source.name}' has no merged weights, so there is nothing to verify.\n"
            "A recipe repo is mixed where it is loaded.\nName a repo or folder that was published as weights."
        )
    try:
        as_resolved(source.recipe)
    except RecipeError as error:
        raise RecipeError(
            f"The recipe of '{source.name}' is not resolved, so it does not say exactly what these weights are made "
            f"of.\n{error}"
        ) from error
    return source.files


def changed_weights(files: RepoFiles | None, folder: str = "", *, mixed: CachedMix | None = None) -> tuple[str, ...]:
    """Say, in one line a file, how weights differ from those that the manifest beside them, or `mixed`, lists.

    Files on this machine are hashed, and of a repo's others the Hub knows the hash; without it, sizes are compared.

    Raises:
        CacheError: the manifest is damaged.
    """
    if not isinstance(files, (HubFiles, LocalFiles)):
        return ()
    mixed = mixed or manifest_of(files, folder)
    if mixed is None:
        return (f"{MANIFEST}, the list of the weights that were mixed, is missing",)
    listed = {str(PurePosixPath(folder, path)): entry for path, entry in mixed.manifest.items() if _has_weights(path)}
    present = {path for path in files.sizes if _has_weights(path) and PurePosixPath(path).is_relative_to(folder)}
    hashes: Mapping[str, str] = {}
    if isinstance(files, HubFiles) and not files.hub.offline:
        with suppress(SourceError):  # without the Hub
            hashes = files.hashes(sorted(present))

    def is_same(path: str, entry: Mapping[str, Any]) -> bool:
        if files.sizes[path] != entry["size"]:
            return False
        if path in hashes and "sha256" in entry:
            return bool(entry["sha256"] == hashes[path])
        local = files.cached(path) if isinstance(files, HubFiles) else files.path(path)
        kind = QUICK if QUICK in entry else "sha256"
        return local is None or bool(entry[kind] == file_digest(local, kind))

    lines = {path: f"{path} was added" for path in present - listed.keys()}
    for path, entry in listed.items():
        if path not in present:
            lines[path] = f"{path} is missing"
        elif not is_same(path, entry):
            lines[path] = f"{path} has other weights than were mixed"
    return tuple(lines[path] for path in sorted(lines))


def refuse_changed(source: RecipeSource, changed: Sequence[str]) -> None:
    """Refuse a recipe beside weights that are not its mix, as `changed_weights` says.

    Raises:
        RecipeError: names a weight file that was trained or changed since it was mixed.
    """
    if changed:
        raise RecipeError(
            f"'{source.name}' was {CHANGED}: {changed[0]}.\n"
            f"Its {RECIPE_FILE} does not give these weights, and mixing it would silently give others.\n"
            f"Load it as the ordinary model that it is, or name {RECIPE_FILE} itself, as a file, to mix that."
        )


def manifest_of(files: HubFiles | LocalFiles, folder: str = "") -> CachedMix | None:
    """Return the mix with the manifest in a repo or folder; `None` if it has none."""
    path = str(PurePosixPath(folder, MANIFEST))
    return CachedMix(digest="", path=files.path(path).parent) if path in files.sizes else None


def _has_weights(path: str) -> bool:
    return path.endswith(".safetensors")


def weight_hashes(files: HubFiles | LocalFiles | Path) -> dict[str, str]:
    """Return weight file -> sha256, as recorded by the Hub or computed from a folder."""
    files = LocalFiles(files) if isinstance(files, Path) else files
    paths = list(filter(_has_weights, files.sizes))
    if isinstance(files, HubFiles):
        return files.hashes(paths)
    return {path: sha256_of(files.path(path)) for path in paths}

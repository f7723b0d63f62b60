"""`verify`: make a published mix again from its ingredients, and compare."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.errors import RecipeError, SourceError
from cocktail_hub.hashes import sha256_of
from cocktail_hub.hub import HubFiles
from cocktail_hub.options import MixOptions
from cocktail_hub.origin import read_origin
from cocktail_hub.pipeline import mix_origin
from cocktail_hub.place import cut_size
from cocktail_hub.recipe import as_resolved

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cocktail_hub.checkpoint.files import RepoFiles
    from cocktail_hub.origin import Origin

WEIGHTS = ".safetensors"


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What became of a comparison."""

    name: str
    """The repo or folder that was verified."""
    digest: str
    """Digest of the recipe that it says it was made by."""
    expected: Mapping[str, str]
    """Weight file -> sha256 when made again from the ingredients."""
    found: Mapping[str, str]
    """Weight file -> sha256 of what was published."""

    @property
    def same(self) -> bool:
        """Whether every weight file is, byte for byte, what the recipe gives."""
        return dict(self.expected) == dict(self.found)

    @property
    def differences(self) -> list[str]:
        """What differs, a line per file."""
        lines = []
        for path in sorted(self.expected.keys() | self.found.keys()):
            mine, theirs = self.expected.get(path), self.found.get(path)
            if mine is None:
                lines.append(f"{path} does not come from the recipe")
            elif theirs is None:
                lines.append(f"{path} is missing")
            elif mine != theirs:
                lines.append(f"{path} has sha256 {theirs[:16]}..., the recipe gives {mine[:16]}...")
        return lines


def verify(source: Any, *, revision: str | None = None, options: MixOptions | None = None, **hub: Any) -> Verification:
    """Make a published mix again from its ingredients and compare the weights, byte for byte.

    Weights of a repo on the Hub are compared by the hashes that the Hub has; they are not downloaded.

    Args:
        source: a merged repo on the Hub, or a folder with a `recipe.json`.
        revision: of the repo.
        options: how to make the mix.
        **hub: fields of `HubOptions` in short: `token`, `local_files_only`, `cache_dir`.

    Raises:
        SourceError: an ingredient cannot be found or accessed, so nothing could be checked.
        RecipeError: there are no merged weights, or the recipe is not resolved.
    """
    options = options or MixOptions()
    options = replace(options, hub=replace(options.hub, **hub))
    origin = read_origin(source, options.hub, revision=revision)
    if not origin.merged or origin.files is None:
        raise RecipeError(
            f"'{origin.name}' has no merged weights, so there is nothing to verify.\n"
            "A recipe repo is mixed where it is loaded.\nName a repo or folder that was published as weights."
        )
    _require_resolved(origin)
    found = _hashes(origin.files)
    size = cut_size(origin.files, origin.folder)
    with tempfile.TemporaryDirectory(prefix="cocktail-", ignore_cleanup_errors=True) as scratch:
        again = replace(options, max_shard_size=size, force=True)  # what the cache holds proves nothing
        made = mix_origin(origin, again, output=Path(scratch) / "mix")
        expected = _hashes(LocalFiles(made.path))
    return Verification(name=origin.name, digest=made.recipe.digest, expected=expected, found=found)


def _require_resolved(origin: Origin) -> None:
    try:
        as_resolved(origin.recipe)
    except RecipeError as error:
        raise RecipeError(
            f"The recipe of '{origin.name}' is not resolved, so it does not say what these weights are made of.\n"
            f"{error}"
        ) from error


def _hashes(files: RepoFiles) -> dict[str, str]:
    """Weight file -> sha256: read off the Hub, or computed."""
    paths = [path for path in files.sizes if path.endswith(WEIGHTS)]
    if isinstance(files, HubFiles):
        return files.hashes(paths)
    if isinstance(files, LocalFiles):
        return {path: sha256_of(files.path(path)) for path in paths}
    raise SourceError(f"The weights of '{files.name}' cannot be compared.")

"""Compare published weights with the same mix made again from its ingredients."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.errors import RecipeError
from cocktail_hub.hub import HubFiles
from cocktail_hub.recipe import as_resolved
from cocktail_hub.storage.disk import sha256_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cocktail_hub.resolve.source import RecipeSource


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The result of a comparison."""

    name: str
    """The repo or folder that was verified."""
    digest: str
    """Digest of the recipe that it contains."""
    expected: Mapping[str, str]
    """Weight file -> sha256 when made again from the ingredients."""
    found: Mapping[str, str]
    """Weight file -> sha256 as published."""

    @property
    def same(self) -> bool:
        """Whether every weight file is, byte for byte, what the recipe gives."""
        return dict(self.expected) == dict(self.found)

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


def weight_hashes(files: HubFiles | LocalFiles | Path) -> dict[str, str]:
    """Return weight file -> sha256, as recorded by the Hub or computed from a folder."""
    files = LocalFiles(files) if isinstance(files, Path) else files
    paths = [path for path in files.sizes if path.endswith(".safetensors")]
    if isinstance(files, HubFiles):
        return files.hashes(paths)
    return {path: sha256_of(files.path(path)) for path in paths}

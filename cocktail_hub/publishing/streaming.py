"""Publish Hub to Hub on little disk: what one weight file needs is fetched, merged, uploaded and deleted."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cocktail_hub.errors import PublishError
from cocktail_hub.hub import Uploaded
from cocktail_hub.merge.engine.execute import write_indices
from cocktail_hub.merge.run import write_weights
from cocktail_hub.merge.small_files import copy_small_files, write_recipe

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cocktail_hub.compat import CompatibilityReport
    from cocktail_hub.hub import Hub, Publication
    from cocktail_hub.merge.options import MixOptions
    from cocktail_hub.merge.plan import MergePlan
    from cocktail_hub.recipe import ResolvedRecipe

LOST = "LFS pointer pointed to a file that does not exist"
"""The Hub's words for a file that was uploaded ahead of its commit and has expired."""


def staging_name(key: str, target: Publication, hub: Hub) -> str:
    """Return the name of the staging folder of one mix for one repo of one Hub."""
    address = hashlib.sha256(f"{hub.api.endpoint}/{target.repo_id}".encode()).hexdigest()[:16]
    return f"{key}.to-{address}"


@dataclass(frozen=True)
class ShardUploader:
    """Uploads weight files ahead of the commit that names them. Can be pickled."""

    hub: Hub
    """The Hub to write to."""
    publication: Publication
    """Where the commit will go."""

    def __call__(self, path: str, file: Path, sha256: str) -> None:
        """Upload one file under its path in the repo. Raises PublishError."""
        self.hub.upload(self.publication, path, file, sha256)


def upload_weights(
    plan: MergePlan, report: CompatibilityReport, stage: Path, publication: Publication, options: MixOptions
) -> tuple[dict[str, Uploaded], Mapping[str, Mapping[str, str | None]]]:
    """Make every weight file of a plan and upload it; none is kept here.

    What an earlier run with the same staging folder uploaded is not uploaded again.

    Returns:
        Path of every weight file -> what the Hub has of it; and the materials, as `MergeReport` has them.

    Raises:
        DiskSpaceError: there is too little room for one weight file and what it is made from.
        PublishError: the Hub does not accept them.
        CocktailError: as `write_weights`.
    """
    options.hub.make_repo(publication)
    merged = write_weights(plan, report, stage, options, upload=ShardUploader(options.hub, publication))
    files = {shard.path: Uploaded(size=shard.nbytes, sha256=merged.digests[shard.path]) for shard in plan.shards}
    return files, merged.materials


def write_small_files(
    report: CompatibilityReport, resolved: ResolvedRecipe, plan: MergePlan, folder: Path, options: MixOptions
) -> Path:
    """Write everything of a mix except its weights, card and manifest, and return the folder."""
    shutil.rmtree(folder, ignore_errors=True)
    for component in plan.components:
        (folder / component.folder).mkdir(parents=True, exist_ok=True)
    copy_small_files(report, folder, code=options.trust_remote_code)
    write_recipe(resolved, report, folder)
    write_indices(plan, folder)
    report.require_unchanged()
    return folder


def upload_expired(error: PublishError, target: Publication, stage: Path) -> PublishError | None:
    """Return what to raise if the Hub has dropped uploaded files, and forget that they were uploaded."""
    if LOST not in str(error.__cause__):
        return None
    shutil.rmtree(stage, ignore_errors=True)
    return PublishError(
        f"The Hub no longer has all weight files that were uploaded ahead for '{target.repo_id}'.\n"
        "It keeps files that no commit names for a limited time. Nothing in the repo was changed.\n"
        "Run the same command again: all files are made and uploaded again."
    )

"""Publish Hub to Hub on little disk: what one weight file needs is fetched, merged, uploaded and dropped."""

from __future__ import annotations

import hashlib
import shutil
from typing import TYPE_CHECKING

from cocktail_hub.errors import PublishError
from cocktail_hub.merge.engine.execute import write_indices
from cocktail_hub.merge.small_files import copy_small_files, write_recipe

if TYPE_CHECKING:
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


def write_small_files(
    report: CompatibilityReport, resolved: ResolvedRecipe, plan: MergePlan, folder: Path, options: MixOptions
) -> Path:
    """Write everything of a mix except its weights and card, and return the folder."""
    shutil.rmtree(folder, ignore_errors=True)
    for component in plan.components:
        (folder / component.folder).mkdir(parents=True, exist_ok=True)
    copy_small_files(report, folder, code=options.trust_remote_code)
    write_recipe(resolved, report, folder, options.max_shard_size)
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
        "Run the same command again: all files are made and uploaded anew."
    )

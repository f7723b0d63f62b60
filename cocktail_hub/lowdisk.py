"""Hub to Hub on little disk: fetch what one weight file needs, merge it, send it, drop it; one commit at the end."""

from __future__ import annotations

import hashlib
import shutil
from typing import TYPE_CHECKING, Any

from cocktail_hub.assemble import carry_over, write_recipe
from cocktail_hub.errors import PublishError
from cocktail_hub.merge.execute import write_indices
from cocktail_hub.origin import read_origin, require_own_folders
from cocktail_hub.pipeline import Mix, cached_mix, pin_models, plan_mix, settle
from cocktail_hub.place import Place
from cocktail_hub.publishing import Form, Sent, Target, publish_weights
from cocktail_hub.recipe_repo import refuse_local_models
from cocktail_hub.sending import send_shards

if TYPE_CHECKING:
    from pathlib import Path

    from huggingface_hub import CommitInfo

    from cocktail_hub.checking import Checked
    from cocktail_hub.hub import HubOptions
    from cocktail_hub.merge.plan import MergePlan
    from cocktail_hub.options import MixOptions
    from cocktail_hub.recipe import ResolvedRecipe

LOST = "LFS pointer pointed to a file that does not exist"
"""How the Hub says that it no longer has a file that was sent ahead of a commit."""


def publish_by_shard(
    source: Any, target: Target, options: MixOptions, *, as_: Form, revision: str | None = None
) -> CommitInfo:
    """Mix and publish without ever having a whole model, or the whole mix, on the disk.

    The bytes on the Hub are those of the ordinary way. A run that is interrupted leaves the files that it sent on the
    Hub and a journal of them here; the next one goes on from there.

    Args:
        source: whatever `mix` takes.
        target: where to publish.
        options: how to mix.
        as_: `merged` or `both`.
        revision: of the recipe's own repo.

    Raises:
        PublishError: the Hub did not take it; the repo is as it was before.
        CocktailError: the mix cannot be made.
    """
    origin = read_origin(source, options.hub, revision=revision)
    require_own_folders(origin)
    if as_ == "both":
        refuse_local_models(origin.recipe)
    if made := cached_mix(origin, options):
        return publish_weights(made, target, options, as_=as_)
    checked, resolved = settle(pin_models(origin, options), origin, options)
    plan = plan_mix(checked, options.max_shard_size)
    place = Place(options=options, output=None)
    name = f"{place.key(resolved)}.to-{_address(target, options.hub)}"
    with place.cache.locked(name):
        stage = place.cache.staging(name)
        files = send_shards(plan, checked, stage, target.publication({}, None, "merged weights"), options)
        small = _small_files(checked, resolved, plan, stage / "files", options)
        made = Mix(path=small, recipe=resolved, report={}, name=origin.name, labels=origin.labels)
        try:
            info = publish_weights(made, target, options, as_=as_, sent=Sent(plan=plan, files=files))
        except PublishError as error:
            if LOST in str(error.__cause__):
                raise _lost(target, stage) from error
            raise
        shutil.rmtree(stage, ignore_errors=True)
    return info


def _small_files(
    checked: Checked, resolved: ResolvedRecipe, plan: MergePlan, folder: Path, options: MixOptions
) -> Path:
    """Write everything of a mix but its weights, and return the folder."""
    shutil.rmtree(folder, ignore_errors=True)
    for component in plan.components:
        (folder / component.folder).mkdir(parents=True, exist_ok=True)
    carry_over(checked, folder, code=options.trust_remote_code)
    write_recipe(resolved, checked, folder, options.max_shard_size)
    write_indices(plan, folder)
    checked.require_unchanged()
    return folder


def _address(target: Target, hub: HubOptions) -> str:
    """Digits that tell repos on Hubs apart: what one of them has does not help another."""
    return hashlib.sha256(f"{hub.api.endpoint}/{target.repo_id}".encode()).hexdigest()[:16]


def _lost(target: Target, stage: Path) -> PublishError:
    shutil.rmtree(stage, ignore_errors=True)  # what the journal says is not so any more
    return PublishError(
        f"The Hub no longer has all weight files that were sent ahead for '{target.repo_id}'.\n"
        "It keeps what no commit names for a while only. Nothing in the repo was changed.\n"
        "Run the same command again: all files are made and sent anew."
    )

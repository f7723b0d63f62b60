"""A mix, or its recipe, as one commit on the Hub."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cocktail_hub.cache import MANIFEST, CachedMix
from cocktail_hub.card import merge_readme, public_recipe, render_card
from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.errors import RecipeError, did_you_mean
from cocktail_hub.hub import HubOptions, Publication, Uploaded
from cocktail_hub.hub.publishing import publish_files
from cocktail_hub.loading import folder_kind, main_folder
from cocktail_hub.options import MixOptions
from cocktail_hub.origin import RECIPE_FILE, read_origin
from cocktail_hub.pipeline import Mix, mix
from cocktail_hub.provenance import gather_facts, planned_specs, stored_specs
from cocktail_hub.recipe import as_resolved
from cocktail_hub.recipe_repo import refuse_local_models, write_recipe_repo
from cocktail_hub.resolve import resolve

if TYPE_CHECKING:
    from collections.abc import Mapping

    from huggingface_hub import CommitInfo, ModelCard

    from cocktail_hub.merge.plan import MergePlan

CARD = "README.md"
"""Not copied as it is: what people wrote into the one on the Hub is kept."""
Form = Literal["merged", "recipe", "both"]
FORMS = ("merged", "recipe", "both")


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where on the Hub to publish, in the words of `publish`."""

    repo_id: str
    """Repo to write to; made if it is not there."""
    private: bool | None = None
    """Visibility of a repo that has to be made."""
    revision: str | None = None
    """Branch to commit to."""
    create_pr: bool = False
    """Open a pull request instead."""
    commit_message: str | None = None
    """First line of the commit."""

    def publication(
        self, files: Mapping[str, Path | bytes | Uploaded], card: ModelCard | None, what: str
    ) -> Publication:
        """What to write, and where; without `card`, the one that is there stays as it is."""
        return Publication(
            repo_id=self.repo_id,
            files=files,
            readme=lambda existing: merge_readme(existing, card) if card is not None else existing or "",
            message=self.commit_message or f"Publish {what} with cocktail_hub",
            private=self.private,
            revision=self.revision,
            create_pr=self.create_pr,
        )

    def commit(
        self, files: Mapping[str, Path | bytes | Uploaded], card: ModelCard, hub: HubOptions, what: str
    ) -> CommitInfo:
        """Write files and card in one commit."""
        return publish_files(self.publication(files, card, what), hub)


@dataclass(frozen=True, kw_only=True)
class Sent:
    """Weight files that were sent ahead of the commit."""

    plan: MergePlan
    """What is in them."""
    files: Mapping[str, Uploaded]
    """Path in the repo -> size and digest."""


def publish(
    source: Any,
    repo_id: str,
    *,
    as_: Form = "merged",
    source_revision: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    max_shard_size: int | str | None = None,
    examples: bool = True,
    token: str | bool | None = None,
    options: MixOptions | None = None,
) -> CommitInfo:
    """Publish a recipe, its merged weights, or both, in one commit. Safe to repeat.

    Args:
        source: a `Mix`, or whatever `mix` takes.
        repo_id: repo to write to; made if it is not there. A README that is there is kept, but for our part of it.
        as_: `merged`: weights that anyone loads without this package; `recipe`: a few kilobytes that are mixed
            where they are loaded; `both`: weights that are offered as a recipe, too.
        source_revision: branch, tag or commit of the recipe's repo, where `source` is a Hub id.
        private: visibility of a repo that has to be made.
        revision: branch to commit to; made if it is not there.
        create_pr: open a pull request instead.
        commit_message: first line of the commit.
        max_shard_size: largest size of one weight file; `None`: as the options say, and a `Mix` as it is.
        examples: for a recipe with open shares, whether the file that they are computed from goes along.
        token: access token; `None`: the saved one.
        options: how to make the mix; `None`: the defaults.

    Raises:
        PublishError: the Hub did not take it; the repo is as it was before.
        CocktailError: the mix cannot be made.
    """
    if as_ not in FORMS:
        raise RecipeError(f"`as_` must be one of {', '.join(FORMS)}, got {as_!r}. {did_you_mean(str(as_), FORMS)}")
    options = options or MixOptions()
    hub = options.hub if token is None else replace(options.hub, token=token)
    options = replace(options, hub=hub, max_shard_size=max_shard_size or options.max_shard_size)
    target = Target(
        repo_id=repo_id, private=private, revision=revision, create_pr=create_pr, commit_message=commit_message
    )
    if as_ == "recipe":
        return publish_recipe(source, target, options, revision=source_revision, examples=examples)
    if not isinstance(source, Mix) and options.low_disk:
        from cocktail_hub.lowdisk import publish_by_shard

        return publish_by_shard(source, target, options, revision=source_revision, as_=as_)
    if not isinstance(source, Mix):
        source = mix(source, revision=source_revision, options=options)
    elif max_shard_size is not None:
        source = replace(mix(source.recipe, options=options), labels=source.labels)
    return publish_weights(source, target, options, as_=as_)


def publish_weights(
    made: Mix,
    target: Target,
    options: MixOptions,
    *,
    as_: Form = "merged",
    sent: Sent | None = None,
) -> CommitInfo:
    """Publish the folder of a finished mix. Its recipe goes along without the paths of this machine.

    Args:
        made: the mix.
        target: where to.
        options: how to talk to the Hub.
        as_: `merged` or `both`.
        sent: weight files that the Hub has already, and the folder has not.
    """
    if as_ == "both":
        refuse_local_models(made.recipe)
    paths = _files_of(made.path)
    files: dict[str, Path | bytes | Uploaded] = {
        name: path for name, path in paths.items() if name not in (MANIFEST, CARD)
    }
    files[RECIPE_FILE] = _json(public_recipe(made.recipe).to_dict())
    config = (main_folder(made.path) / "config.json").relative_to(made.path).as_posix()
    if config in paths and made.labels:
        files[config] = _json(json.loads(paths[config].read_text(encoding="utf-8")) | made.labels)
    specs = stored_specs(made.path) if sent is None else planned_specs(sent.plan)
    facts = gather_facts(made.recipe, folder_kind(made.path, made.recipe.task), options.hub, specs)
    if sent is not None:
        files |= sent.files
    card = render_card(made.recipe, replace(facts, kind=as_, repo_id=target.repo_id))
    return target.commit(files, card, options.hub, "merged weights")


def _files_of(folder: Path) -> dict[str, Path]:
    """Path in the repo -> file of a mix: what its manifest lists, not what somebody has put beside it."""
    listed = CachedMix(digest="", path=folder).manifest if (folder / MANIFEST).is_file() else LocalFiles(folder).sizes
    return {name: folder / name for name in listed}


def publish_recipe(
    source: Any, target: Target, options: MixOptions, *, revision: str | None = None, examples: bool = True
) -> CommitInfo:
    """Publish a recipe with everything that its repo needs to be loaded like a model.

    Open shares stay open; `examples` says whether the file that they come from goes along, `revision` which one
    of the recipe's own repo is meant.
    """
    origin = read_origin(source.recipe if isinstance(source, Mix) else source, options.hub, revision=revision)
    refuse_local_models(origin.recipe)
    recipe = resolve(origin.recipe, options.hub)
    labels = source.labels if isinstance(source, Mix) else origin.labels
    with tempfile.TemporaryDirectory(prefix="cocktail-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        written = write_recipe_repo(recipe, origin, folder, options, labels=labels, examples=examples)
        files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        facts = gather_facts(written.recipe, written.kind, options.hub)
        shown = written.recipe if written.recipe.weights is None else as_resolved(written.recipe)
        card = render_card(shown, replace(facts, kind="recipe", repo_id=target.repo_id))
        return target.commit(files, card, options.hub, "recipe")


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()

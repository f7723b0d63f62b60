"""A mix, or its recipe, as one commit on the Hub."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.evaluation.loading import folder_kind, main_folder
from cocktail_hub.hub import Hub, Publication, Uploaded
from cocktail_hub.publishing.card import merge_readme, render_card
from cocktail_hub.publishing.provenance import gather_facts, planned_specs, stored_specs
from cocktail_hub.publishing.recipe_repo import refuse_local_models, write_recipe_repo
from cocktail_hub.recipe import as_resolved
from cocktail_hub.recipe.redact import public_recipe
from cocktail_hub.resolve.source import RECIPE_FILE
from cocktail_hub.storage.cache import MANIFEST, CachedMix

if TYPE_CHECKING:
    from collections.abc import Mapping

    from huggingface_hub import CommitInfo, ModelCard

    from cocktail_hub.evaluation.example_files import ExamplesFound
    from cocktail_hub.merge.options import MixOptions
    from cocktail_hub.merge.plan import MergePlan
    from cocktail_hub.recipe.recipe import Recipe
    from cocktail_hub.recipe.resolved import ResolvedRecipe

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

    def commit(self, files: Mapping[str, Path | bytes | Uploaded], card: ModelCard, hub: Hub, what: str) -> CommitInfo:
        """Write files and card in one commit."""
        return hub.commit(self.publication(files, card, what))


@dataclass(frozen=True, kw_only=True)
class Sent:
    """Weight files that were sent ahead of the commit."""

    plan: MergePlan
    """What is in them."""
    files: Mapping[str, Uploaded]
    """Path in the repo -> size and digest."""


def publish_weights(
    folder: Path,
    recipe: ResolvedRecipe,
    target: Target,
    hub: Hub,
    *,
    labels: Mapping[str, Any],
    as_: Form = "merged",
    sent: Sent | None = None,
) -> CommitInfo:
    """Publish the folder of a finished mix. Paths of this machine are removed from its recipe.

    Args:
        folder: the finished mix.
        recipe: what it was made from.
        target: repo and commit.
        hub: the Hub to write to.
        labels: `id2label` and `label2id` set by the recipe's repo; empty to use those of the ingredients.
        as_: `merged` or `both`.
        sent: weight files that were uploaded ahead, and are not in the folder.
    """
    if as_ == "both":
        refuse_local_models(recipe)
    paths = _files_of(folder)
    files: dict[str, Path | bytes | Uploaded] = {
        name: path for name, path in paths.items() if name not in (MANIFEST, CARD)
    }
    files[RECIPE_FILE] = _json(public_recipe(recipe).to_dict())
    config = (main_folder(folder) / "config.json").relative_to(folder).as_posix()
    if config in paths and labels:
        files[config] = _json(json.loads(paths[config].read_text(encoding="utf-8")) | labels)
    specs = stored_specs(folder) if sent is None else planned_specs(sent.plan)
    facts = gather_facts(recipe, folder_kind(folder, recipe.task), hub, specs)
    if sent is not None:
        files |= sent.files
    card = render_card(recipe, replace(facts, kind=as_, repo_id=target.repo_id))
    return target.commit(files, card, hub, "merged weights")


def _files_of(folder: Path) -> dict[str, Path]:
    """Path in the repo -> file of a mix: what its manifest lists, not what somebody has put beside it."""
    listed = CachedMix(digest="", path=folder).manifest if (folder / MANIFEST).is_file() else LocalFiles(folder).sizes
    return {name: folder / name for name in listed}


def publish_recipe(
    recipe: Recipe,
    examples: ExamplesFound | None,
    target: Target,
    options: MixOptions,
    *,
    labels: Mapping[str, Any],
    with_examples: bool = True,
) -> CommitInfo:
    """Publish a pinned recipe with everything that its repo needs to be loaded like a model.

    Open weights stay open; `with_examples` says whether the file that they are computed from is published, too.
    """
    with tempfile.TemporaryDirectory(prefix="cocktail-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        written = write_recipe_repo(recipe, examples, folder, options, labels=labels, with_examples=with_examples)
        files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        facts = gather_facts(written.recipe, written.kind, options.hub)
        shown = written.recipe if written.recipe.weights is None else as_resolved(written.recipe)
        card = render_card(shown, replace(facts, kind="recipe", repo_id=target.repo_id))
        return target.commit(files, card, options.hub, "recipe")


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()

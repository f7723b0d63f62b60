"""The folder of a mix as one commit on the Hub."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, get_args

from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.checkpoint.model_files import read_model_files
from cocktail_hub.errors import PublishError
from cocktail_hub.evaluation.loading import folder_kind, main_folder
from cocktail_hub.hub import Uploaded
from cocktail_hub.hub.commit import README
from cocktail_hub.publishing.card.chart import chart_of
from cocktail_hub.publishing.card.facts import Form, gather_facts, planned_specs, stored_specs
from cocktail_hub.publishing.card.header import merge_readme
from cocktail_hub.publishing.card.render import render_card
from cocktail_hub.publishing.recipe_repo import refuse_local_models
from cocktail_hub.publishing.verify import CHANGED, changed_weights
from cocktail_hub.recipe.redact import public_recipe
from cocktail_hub.resolve.resolve import file_digest
from cocktail_hub.resolve.source import RECIPE_FILE
from cocktail_hub.storage.cache import MANIFEST, CachedMix, manifest_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from huggingface_hub import CommitInfo

    from cocktail_hub.hub import Hub, Publication
    from cocktail_hub.merge.plan import MergePlan
    from cocktail_hub.recipe import ResolvedRecipe

FORMS: tuple[Form, ...] = get_args(Form)


def publish_weights(
    folder: Path,
    recipe: ResolvedRecipe,
    publication: Publication,
    hub: Hub,
    *,
    labels: Mapping[str, Any],
    as_: Form = "merged",
    plan: MergePlan | None = None,
) -> CommitInfo:
    """Publish the folder of a mix, without paths of this machine in its recipe.

    `publication` may have weight files that were uploaded already and are not in the folder; `plan` is their plan then.
    `labels` are `id2label` and `label2id` set by the recipe's repo, empty to use those of the ingredients.

    Raises:
        PublishError: the weights are no longer those that were mixed, or the Hub did not accept them.
    """
    if as_ == "both":
        refuse_local_models(recipe)
    if plan is None and (differences := changed_weights(LocalFiles(folder))):
        raise PublishError(
            f"The model in '{folder}' was {CHANGED}: {differences[0]}.\n"
            "Published as the mix, they would not be what the recipe and the card say.\n"
            "Make the mix again (`force`), or push the model as the ordinary one that it is."
        )
    mixed, found = CachedMix(digest=recipe.digest, path=folder), LocalFiles(folder)
    # Somebody may have put other files beside those of the mix.
    ours = {*mixed.manifest, *(read_model_files(found).needed if plan is None else ())}
    files: dict[str, Path | bytes | Uploaded] = {
        name: folder / name for name in sorted(ours & found.sizes.keys() - {MANIFEST, README})
    }
    config = main_folder(folder) / "config.json"
    changed = {RECIPE_FILE: public_recipe(recipe).to_dict()}
    if labels and config.is_file():
        changed[config.relative_to(folder).as_posix()] = json.loads(config.read_text(encoding="utf-8")) | labels
    for name, values in changed.items():
        files[name] = (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()
    files |= publication.files
    files |= (charts := chart_of(recipe))
    listed = {name: _entry(content) for name, content in files.items()}
    files[MANIFEST] = manifest_text(listed, mixed.max_shard_size, mixed.notes).encode()
    specs = stored_specs(folder) if plan is None else planned_specs(plan)
    kind = folder_kind(folder, recipe.task)
    facts = gather_facts(
        recipe,
        kind,
        hub,
        specs,
        form=as_,
        repo_id=publication.repo_id,
        tags=publication.tags,
        notes=mixed.notes,
        results=publication.results,
    )
    readme = partial(merge_readme, card=render_card(recipe, replace(facts, chart=next(iter(charts), None))))
    return hub.commit(replace(publication, files=files, readme=readme))


def _entry(content: Path | bytes | Uploaded) -> dict[str, Any]:
    """What the manifest of a repo says of a file, with the hash by which the Hub knows it."""
    if isinstance(content, Uploaded):
        return {"size": content.size, "sha256": content.sha256}
    if isinstance(content, bytes):
        return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return {"size": content.stat().st_size, "sha256": file_digest(content, "sha256")}

"""A mix, or its recipe, as one commit on the Hub."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cocktail_hub.assemble import carry_over
from cocktail_hub.cache import MANIFEST
from cocktail_hub.card import merge_readme, public_recipe, render_card
from cocktail_hub.checking import check
from cocktail_hub.errors import PublishError, RecipeError, did_you_mean
from cocktail_hub.hub import HubOptions, Publication, publish_files
from cocktail_hub.loading import folder_kind, main_folder
from cocktail_hub.options import DEFAULT_SHARD_SIZE, MixOptions
from cocktail_hub.origin import RECIPE_FILE, Origin, read_origin
from cocktail_hub.pipeline import Mix, merge_modules, mix
from cocktail_hub.provenance import gather_facts
from cocktail_hub.recipe import Weighting, as_resolved, is_local
from cocktail_hub.resolve import resolve

if TYPE_CHECKING:
    from collections.abc import Mapping

    from huggingface_hub import CommitInfo, ModelCard

    from cocktail_hub.checking import Checked
    from cocktail_hub.recipe import Recipe, ResolvedRecipe

Form = Literal["merged", "recipe", "both"]
FORMS = ("merged", "recipe", "both")
EXAMPLES_FILE = "examples"
"""Name, without suffix, that the examples get in a recipe repo."""


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

    def commit(self, files: Mapping[str, Path | bytes], card: ModelCard, hub: HubOptions, what: str) -> CommitInfo:
        """Write files and card in one commit."""
        publication = Publication(
            repo_id=self.repo_id,
            files=files,
            readme=lambda existing: merge_readme(existing, card),
            message=self.commit_message or f"Publish {what} with cocktail_hub",
            private=self.private,
            revision=self.revision,
            create_pr=self.create_pr,
        )
        return publish_files(publication, hub)


def publish(
    source: Any,
    repo_id: str,
    *,
    as_: Form = "merged",
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    max_shard_size: int | str = DEFAULT_SHARD_SIZE,
    token: str | bool | None = None,
    options: MixOptions | None = None,
) -> CommitInfo:
    """Publish a recipe, its merged weights, or both, in one commit. Safe to repeat.

    Args:
        source: a `Mix`, or whatever `mix` takes.
        repo_id: repo to write to; made if it is not there. A README that is there is kept, but for our part of it.
        as_: `merged`: weights that anyone loads without this package; `recipe`: a few kilobytes that are mixed
            where they are loaded; `both`: weights that are offered as a recipe, too.
        private: visibility of a repo that has to be made.
        revision: branch to commit to; made if it is not there.
        create_pr: open a pull request instead.
        commit_message: first line of the commit.
        max_shard_size: largest size of one weight file.
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
    options = replace(options, hub=hub, max_shard_size=max_shard_size)
    target = Target(
        repo_id=repo_id, private=private, revision=revision, create_pr=create_pr, commit_message=commit_message
    )
    if as_ == "recipe":
        return publish_recipe(source, target, options)
    made = source if isinstance(source, Mix) else mix(source, options=options)
    return publish_weights(made, target, options, as_=as_)


def publish_weights(made: Mix, target: Target, options: MixOptions, *, as_: Form = "merged") -> CommitInfo:
    """Publish the folder of a finished mix. Its recipe goes along without the paths of this machine."""
    paths = {path.relative_to(made.path).as_posix(): path for path in made.path.rglob("*") if path.is_file()}
    files: dict[str, Path | bytes] = {name: path for name, path in paths.items() if name not in (MANIFEST, "README.md")}
    files[RECIPE_FILE] = _json(public_recipe(made.recipe).to_dict())
    config = (main_folder(made.path) / "config.json").relative_to(made.path).as_posix()
    if config in paths:
        files[config] = _public_config(paths[config], made.recipe)
    facts = gather_facts(made.recipe, folder_kind(made.path, made.recipe.task), options.hub, made.path)
    card = render_card(made.recipe, replace(facts, kind=as_, repo_id=target.repo_id))
    return target.commit(files, card, options.hub, "merged weights")


def publish_recipe(source: Any, target: Target, options: MixOptions) -> CommitInfo:
    """Publish a recipe with everything that its repo needs to be loaded like a model."""
    given = source.recipe if isinstance(source, Mix) else source
    origin = read_origin(given, options.hub)
    recipe = resolve(origin.recipe, options.hub)
    _refuse_local(recipe)
    checked = check(recipe, options.hub, trust_remote_code=options.trust_remote_code)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        carry_over(checked, folder, code=False)
        merge_modules(checked, origin, folder, options)
        recipe = _bring_examples(recipe, folder)
        _write_configs(recipe, checked, origin, folder)
        files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        facts = gather_facts(recipe, checked.kind, options.hub)
        card = render_card(as_resolved(recipe), replace(facts, kind="recipe", repo_id=target.repo_id))
        return target.commit(files, card, options.hub, "recipe")


def _refuse_local(recipe: Recipe) -> None:
    for pin in (*recipe.pins, *(p.base for p in recipe.pins if p.base)):
        if is_local(pin.model) or pin.digest:
            raise PublishError(
                f"The recipe names the local folder '{pin.model}'.\n"
                "Nobody else has that folder, so nobody could make the mix.\n"
                "Push that model to the Hub and name the repo, or publish the weights with `as_='merged'`."
            )


def _bring_examples(recipe: Recipe, folder: Path) -> Recipe:
    """Put a file of examples beside the recipe, so that others can compute the shares."""
    weighting = recipe.weighting
    if weighting is None or not isinstance(weighting.examples, str) or not Path(weighting.examples).is_file():
        return recipe
    source = Path(weighting.examples)
    target = folder / f"{EXAMPLES_FILE}{source.suffix}"
    target.write_bytes(source.read_bytes())
    moved: Weighting = replace(weighting, examples=target.name)
    return replace(recipe, weighting=moved)


def _write_configs(recipe: Recipe, checked: Checked, origin: Origin, folder: Path) -> None:
    """config.json of the recipe, in place of the ingredients' own ones."""
    labels = {key: checked.config[key] for key in ("id2label", "label2id") if key in checked.config}
    own = {key: origin.config[key] for key in ("id2label", "label2id") if origin.config.get(key)}
    config = {
        "model_type": "cocktail",
        "architectures": [checked.kind.architecture] if checked.kind.architecture else None,
        **labels,
        **own,
        "recipe": recipe.to_dict(),
    }
    for place in dict.fromkeys((folder, folder / checked.models[checked.first].body.contents.main)):
        (place / "config.json").write_bytes(_json({key: value for key, value in config.items() if value}))


def _public_config(path: Path, resolved: ResolvedRecipe) -> bytes:
    config = json.loads(path.read_text(encoding="utf-8"))
    config["cocktail"] = {**config.get("cocktail", {}), "recipe": public_recipe(resolved).to_dict()}
    return _json(config)


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()

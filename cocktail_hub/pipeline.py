"""From a recipe to the folder of a mix: the story of the package, one line a stage."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cocktail_hub.cache import JOURNAL
from cocktail_hub.errors import RecipeError
from cocktail_hub.options import DEFAULT_SHARD_SIZE, MixOptions, parse_size
from cocktail_hub.origin import Origin, read_origin, require_own_folders
from cocktail_hub.place import Place, copy_out
from cocktail_hub.recipe import Recipe, ResolvedRecipe, as_resolved
from cocktail_hub.resolve import resolve, with_weights
from cocktail_hub.shares_cache import keep_shares, recall_shares

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cocktail_hub.checking import Checked, Part
    from cocktail_hub.merge.execute import MergeReport
    from cocktail_hub.merge.plan import MergePlan
    from cocktail_hub.weigh.settings import ScoringSettings
    from cocktail_hub.weighing import Weighed


@dataclass(frozen=True, kw_only=True)
class Mix:
    """A finished mix: a complete checkpoint folder and the recipe that it was made by."""

    path: Path
    """The checkpoint folder."""
    recipe: ResolvedRecipe
    """Exact models, a number for every weight."""
    report: Mapping[str, Any]
    """What was done: `cached` (nothing), or `merged` with bytes and seconds, and the notes of the check."""
    name: str = "recipe"
    """What the recipe was called by."""
    labels: Mapping[str, Any] = field(default_factory=dict)
    """`id2label` and `label2id` that the recipe's repo gives; empty where the ingredients' own count."""

    def load(self, *, task: str | None = None, **kwargs: Any) -> Any:
        """Load it as an ordinary transformers model; `kwargs` are those of its `from_pretrained`."""
        from cocktail_hub.loading import keywords_for, load_model

        return load_model(self.path, task, **keywords_for(self.labels, kwargs))

    def load_sentence_transformer(self, **kwargs: Any) -> Any:
        """Load it as a `SentenceTransformer`, or the class of that library that it was saved by."""
        from cocktail_hub.loading import load_sentence_transformer

        return load_sentence_transformer(self.path, **kwargs)

    def load_cross_encoder(self, **kwargs: Any) -> Any:
        """Load it as a `CrossEncoder`."""
        from cocktail_hub.loading import load_cross_encoder

        return load_cross_encoder(self.path, **kwargs)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Copy the mix to `folder`, which must be new or empty.

        Raises:
            CacheError: there is something in the folder.
        """
        return copy_out(self.path, Path(folder))

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> Any:
        """Publish it. Takes the keywords of `publish` (`as_`, `private`, `revision`, `create_pr`, `token`, ...)."""
        from cocktail_hub.publishing import publish

        return publish(self, repo_id, **kwargs)


def mix(
    source: Any,
    *,
    output: str | Path | None = None,
    revision: str | None = None,
    subfolder: str = "",
    options: MixOptions | None = None,
    **hub: Any,
) -> Mix:
    """Make the mix that a recipe describes, or find it in the cache.

    Args:
        source: a `Recipe`, a `CocktailConfig`, a mapping, a YAML or JSON file, a folder, or a Hub id.
        output: folder to write the mix to, new or empty; `None`: the cache.
        revision: of the recipe's repo, when `source` is a Hub id.
        subfolder: of the recipe's repo or folder.
        options: how to make it.
        **hub: fields of `HubOptions` in short: `token`, `local_files_only`, `cache_dir`, `force_download`.

    Raises:
        CocktailError: says what is wrong and how to fix it; nothing half-made is left behind.
    """
    options = options or MixOptions()
    options = replace(options, hub=replace(options.hub, **hub))
    origin = read_origin(source, options.hub, revision=revision, subfolder=subfolder)
    return mix_origin(origin, options, output=Path(output) if output is not None else None)


def mix_origin(origin: Origin, options: MixOptions, *, output: Path | None = None) -> Mix:
    """The same for a recipe that was read already."""
    from cocktail_hub.merge.journal import working_files

    require_own_folders(origin)
    pinned = pin_models(origin, options)
    place = Place(options=options, output=output)
    if found := _found(pinned, origin, place):
        return found
    place.require()  # told now, not after scoring
    checked, resolved = settle(pinned, origin, options)
    plan = plan_mix(checked, options.max_shard_size)
    with place.held(resolved):
        if found := _found(resolved, origin, place, path=place.take_up(resolved)):
            return found
        with place.stage(resolved, working_files(plan)) as stage:
            report = _make(checked, resolved, plan, stage, options)
        path = place.finish(resolved, report.digests)
    facts = {"cached": False, "notes": checked.notes, "merged": report}
    return Mix(path=path, recipe=resolved, report=facts, name=origin.name, labels=origin.labels)


def cached_mix(origin: Origin, options: MixOptions) -> Mix | None:
    """The mix of a recipe, if the cache has it."""
    return _found(pin_models(origin, options), origin, Place(options=options, output=None))


def pin_models(origin: Origin, options: MixOptions) -> Recipe:
    """The recipe with exact models; with its shares, too, where they were computed before."""
    pinned = resolve(origin.recipe, options.hub)
    return pinned if options.force else recall_shares(pinned, origin, options.hub)


def _found(pinned: Recipe, origin: Origin, place: Place, *, path: Path | None = None) -> Mix | None:
    """The mix where it is wanted, if it is there already: at `path`, or where `place` finds it."""
    if pinned.weights is None:
        return None
    resolved = as_resolved(pinned)
    path = path or place.find(resolved)
    if path is None:
        return None
    return Mix(path=path, recipe=resolved, report={"cached": True}, name=origin.name, labels=origin.labels)


def check_models(pinned: Recipe, options: MixOptions) -> Checked:
    """Check that the models of a pinned recipe fit. Weights that are still open do not matter for that."""
    from cocktail_hub.checking import check

    if pinned.weights is None:
        count = len(pinned.ingredients)
        pinned = with_weights(pinned, [1.0 / count] * count, {})
    return check(pinned, options.hub, trust_remote_code=options.trust_remote_code)


def plan_mix(checked: Checked, max_shard_size: int | str = DEFAULT_SHARD_SIZE) -> MergePlan:
    """Decide every output file and how each tensor comes about, from headers alone."""
    from cocktail_hub.merge.plan import Component, plan_merge

    recipe = checked.recipe
    names = tuple(model.name for model in checked.models)
    return plan_merge(
        [
            Component(folder=part.folder, specs=part.specs, models=names, first_only=frozenset(part.taken))
            for part in checked.parts
        ],
        method=recipe.method,
        weights=recipe.weights or (),
        parameters=recipe.parameters,
        layers=recipe.layers,
        dtype=None if recipe.dtype == "auto" else recipe.dtype,
        max_shard_size=parse_size(max_shard_size),
    )


def settle(pinned: Recipe, origin: Origin, options: MixOptions) -> tuple[Checked, ResolvedRecipe]:
    """Check that the models fit; compute the weights where they are open."""
    from cocktail_hub.engine import require_means

    require_means(options)
    checked = check_models(pinned, options)
    resolved = as_resolved(pinned if pinned.weights is not None else _weighed(pinned, checked, origin, options))
    return replace(checked, recipe=resolved), resolved


def _weighed(pinned: Recipe, checked: Checked, origin: Origin, options: MixOptions) -> Recipe:
    """The recipe with weights from its examples, and what they came from."""
    if options.low_disk and pinned.weighting is not None and pinned.weighting.rule != "uniform":
        raise RecipeError(
            "The shares are still to be computed, which takes every ingredient whole on the disk.\n"
            "`low_disk` never holds a whole ingredient.\n"
            "Compute them first (`cocktail score RECIPE -o SCORED.yaml`, where there is room) and mix SCORED.yaml."
        )
    found = weigh_recipe(pinned, checked, origin, options)
    keep_shares(pinned, origin, options.hub, found)
    return with_weights(pinned, found.weights, found.evidence)


def weigh_recipe(
    pinned: Recipe,
    checked: Checked,
    origin: Origin,
    options: MixOptions,
    settings: ScoringSettings | None = None,
) -> Weighed:
    """Score the ingredients of a pinned recipe on its examples; `settings` replace those that the recipe gives."""
    from cocktail_hub.weighing import Scene, weigh_ingredients

    if pinned.weighting is None:
        raise RecipeError("The recipe has no `weighting`, so there is nothing to score its ingredients on.")
    scene = Scene(
        checked=checked,
        origin=origin,
        hub=options.hub,
        device=options.scoring_device,
        settings=settings,
        trust_remote_code=options.trust_remote_code,
        engine=options.engine,
    )
    return weigh_ingredients(pinned.ingredients, pinned.weighting, scene)


def _make(checked: Checked, resolved: ResolvedRecipe, plan: MergePlan, stage: Path, options: MixOptions) -> MergeReport:
    """Download what is needed and write the mix into `stage`."""
    from cocktail_hub.engine import write_weights

    def write_small_files() -> None:
        from cocktail_hub.assemble import carry_over, write_recipe
        from cocktail_hub.merge.shard import write_errors
        from cocktail_hub.provenance import write_card

        with write_errors(stage, 0):
            carry_over(checked, stage, code=options.trust_remote_code)
            write_recipe(resolved, checked, stage, options.max_shard_size)
            write_card(resolved, checked.kind, plan, stage, options.hub)

    report = write_weights(plan, checked, stage, options, meanwhile=write_small_files)
    checked.require_unchanged()
    return report


def merge_modules(checked: Checked, parts: Sequence[Part], folder: Path, options: MixOptions) -> None:
    """Write the merged weights of some parts only: the small modules (Dense), which recipe repos carry.

    Args:
        checked: the models, every weight given.
        parts: which of its parts.
        folder: where to write.
        options: how to merge.
    """
    from cocktail_hub.engine import require_means, write_weights

    require_means(options)
    wanted = replace(checked, parts=tuple(parts))
    write_weights(plan_mix(wanted), wanted, folder, replace(options, engine="threads", low_disk=True))
    (folder / JOURNAL).unlink()

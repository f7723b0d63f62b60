"""Make a mix of a recipe, and publish it."""

from __future__ import annotations

import json
import shutil
import tempfile
import weakref
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cocktail_hub.checkpoint.reader import NestedFiles
from cocktail_hub.compat.check import check_models
from cocktail_hub.errors import CacheError, PublishError, RecipeError, SourceError, did_you_mean
from cocktail_hub.evaluation.example_files import ExamplesFound, locate_examples
from cocktail_hub.evaluation.load_check import LoadCheck
from cocktail_hub.evaluation.loading import keywords_for, load_cross_encoder, load_model, load_sentence_transformer
from cocktail_hub.hub.commit import README, Publication
from cocktail_hub.merge.engine.journal import working_files
from cocktail_hub.merge.options import MixOptions
from cocktail_hub.merge.output_folder import OutputFolder, copy_out
from cocktail_hub.merge.run import bytes_to_fetch, plan_mix, require_device, write_planned, write_weights
from cocktail_hub.merge.small_files import copy_small_files, write_json, write_recipe
from cocktail_hub.methods.dtypes import HALVES, MIXABLE
from cocktail_hub.publishing.card.facts import Form, gather_facts, planned_specs
from cocktail_hub.publishing.card.render import render_card
from cocktail_hub.publishing.preview import preview_mix
from cocktail_hub.publishing.verify import (
    changed_weights,
    refuse_changed,
)
from cocktail_hub.recipe import SUFFIXES, ModelReference, Recipe, ResolvedRecipe, as_resolved, refuse_address
from cocktail_hub.recipe.redact import public_notes
from cocktail_hub.resolve.resolve import resolve, with_weights
from cocktail_hub.resolve.source import RECIPE_FILE, RecipeSource, load_recipe_source, refuse_local, with_weights_given
from cocktail_hub.storage.cache import CachedMix
from cocktail_hub.storage.disk import disk_errors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from huggingface_hub import CommitInfo

    from cocktail_hub.compat.check import CompatibilityReport
    from cocktail_hub.compat.preview import Preview
    from cocktail_hub.hub import Hub
    from cocktail_hub.publishing.adapter import LoraAdapter
    from cocktail_hub.search.evaluate import Evaluation
    from cocktail_hub.search.softmax import Weights
LONG_DOWNLOAD = 1 << 28
"""Bytes of weights that are not downloaded in vain: whether the mix would load is then known first."""


@dataclass(frozen=True, kw_only=True)
class Mix:
    """A finished mix: a complete checkpoint folder, and the recipe it was made from."""

    path: Path
    """The checkpoint folder."""
    recipe: ResolvedRecipe
    """Exact models, and a number for every weight."""
    report: Mapping[str, Any]
    """`{"cached": True}`, or `cached: False`, the `notes` of the check, and the `MergeReport` under `merged`."""
    name: str = "recipe"
    """Path or repo id that the recipe was loaded from."""
    labels: Mapping[str, Any] = field(default_factory=dict)
    """`id2label` and `label2id` set by the recipe's repo; empty to use those of the ingredients."""

    def load(self, *, task: str | None = None, **kwargs: Any) -> Any:
        """Load the mix as an ordinary transformers model; `kwargs` go to `from_pretrained`.

        Its attribute `cocktail` is the recipe that it was made from. It is saved and pushed with it as long as it is
        the mix.
        """
        from cocktail_hub.publishing.model_hooks import attach

        wanted = {**keywords_for(self.labels, kwargs), "output_loading_info": True}
        model, info = load_model(self.path, task, **wanted)
        attach(model, self, info)
        return (model, info) if kwargs.get("output_loading_info") else model

    def load_sentence_transformer(self, **kwargs: Any) -> Any:
        """Load the mix with the sentence-transformers class it was saved with, by default `SentenceTransformer`."""
        return load_sentence_transformer(self.path, **kwargs)

    def load_cross_encoder(self, **kwargs: Any) -> Any:
        """Load the mix as a `CrossEncoder`."""
        return load_cross_encoder(self.path, **kwargs)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Copy the mix to `folder`, which must be new or empty.

        Raises:
            CacheError: the folder is not empty.
        """
        return copy_out(self.path, Path(folder))

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> CommitInfo:
        """Publish the mix, with the keywords of `publish` (`as_`, `private`, `revision`, `create_pr`, `token`, ...)."""
        return publish(self, repo_id, **kwargs)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A recipe whose models are pinned; its weights may still be open."""

    source: RecipeSource
    """Where the recipe was loaded from."""
    recipe: Recipe
    """The recipe with exact models, and with weights where they are given or were computed before."""
    options: MixOptions
    """How to make the mix."""
    preview: bool = False
    """Whether recipes inside the recipe are only planned, not mixed."""

    @property
    def hub(self) -> Hub:
        """The Hub that the models come from."""
        return self.options.hub

    @cached_property
    def examples(self) -> ExamplesFound:
        """The examples that open weights are computed from, on this machine."""
        if self.recipe.weighting is None:
            raise RecipeError("The recipe has no `weighting`, so there are no examples to score its ingredients on.")
        return locate_examples(self.recipe.weighting, self.source, self.hub)

    @cached_property
    def resolved(self) -> ResolvedRecipe | None:
        """The recipe as a `ResolvedRecipe`; `None` while its weights are open."""
        return None if self.recipe.weights is None else as_resolved(self.recipe)

    def check(self) -> CompatibilityReport:
        """Check that the models fit together, from headers and small files."""
        nested = any(reference.recipe is not None for reference in self.recipe.references)
        if nested and not self.preview:
            replace(self, preview=True).check()  # before anything is mixed
        trust = self.options.trust_remote_code
        return check_models(self.recipe, self.hub, trust_remote_code=trust, stages=self.stages if nested else None)

    @cached_property
    def stages(self) -> dict[str, NestedFiles]:
        """Name of each model that is a recipe -> the folder of its mix, not rounded.

        Its tensors are made as they are read, where that can be. Else it is mixed now; a preview has headers only.
        """
        from cocktail_hub.merge.nested import can_stream, opened_mix

        found: dict[str, NestedFiles] = {}
        for reference in self.recipe.references:
            if reference.recipe is None:
                continue
            inner = Recipe.from_dict(reference.recipe)
            source = RecipeSource(recipe=inner, name=reference.model, config={})
            prepared = replace(self, source=source, recipe=inner)
            report = prepared.check()
            planned = [tensor for shard in plan_mix(report).shards for tensor in shard.tensors]
            read = {dtype for tensor in planned for dtype in tensor.dtypes} & MIXABLE
            recipe = replace(report.recipe, dtype="float32" if HALVES.issuperset(read) else "float64")
            prepared, report = replace(prepared, recipe=recipe), replace(report, recipe=recipe)
            plan = plan_mix(report)
            streamed = self.preview or can_stream(plan, self.options)
            if streamed:
                folder = Path(tempfile.mkdtemp(prefix="cocktail-"))
                copy_small_files(report, folder, code=self.options.trust_remote_code)
                write_recipe(recipe, report, folder)
                write_planned(plan, folder)
            else:
                folder = prepared.mixed()
            files = found[reference.model] = NestedFiles(
                folder,
                name=reference.model,
                stored={tensor.name: tensor.dtype for tensor in planned},
                models=report.models,
                opened=partial(opened_mix, reference.model, plan, report, self.options) if streamed else None,
                whole=prepared.mixed if streamed else partial(Path, folder),
            )
            if streamed:
                weakref.finalize(files, shutil.rmtree, folder, ignore_errors=True)
        return found

    def mixed(self) -> Path:
        """Make the mix, and return its folder."""
        return mix(self).path

    def finished(self, path: Path, resolved: ResolvedRecipe, **report: Any) -> Mix:
        """Describe a finished folder; one that was found tells what it was made of."""
        if report.get("cached"):
            with suppress(CacheError, RecipeError):
                made = Recipe.from_dict(CachedMix(digest="", path=path).recipe)
                resolved = _made_of(resolved, made.materials)
        return Mix(path=path, recipe=resolved, report=report, name=self.source.name, labels=self.source.labels)


def prepare(
    source: Any,
    options: MixOptions | None = None,
    *,
    revision: str | None = None,
    subfolder: str = "",
    digests: bool = True,
    recall: bool = True,
) -> Prepared:
    """Load a recipe and pin its models.

    Args:
        source: what `mix` takes, or a `RecipeSource`.
        options: how to make the mix.
        revision: of the recipe's repo, when `source` is a Hub id.
        subfolder: of the recipe's repo or folder.
        digests: whether to hash local models; without a digest they can be checked and planned, but not mixed.
        recall: whether to use weights that were computed before.

    Raises:
        SourceError: the recipe or a model cannot be found or accessed.
        RecipeError: the recipe is wrong, or the weights beside it were trained since they were mixed from it.
    """
    options = options or MixOptions()
    source = load_recipe_source(source, options.hub, revision=revision, subfolder=subfolder)
    if source.commit:  # a merged repo on the Hub may name folders, but cannot be mixed from them
        refuse_local(source.recipe, source.name)
    if source.merged:
        refuse_changed(source, changed_weights(source.files, source.folder))
    recipe = resolve(source.recipe, options.hub, digests=digests)
    prepared = Prepared(source=source, recipe=recipe, options=options, preview=not digests)
    if not recall or options.force or recipe.weights is not None or recipe.weighting is None:
        return prepared
    from cocktail_hub.search.softmax import uniform_weights
    from cocktail_hub.search.weights_cache import cached_weights

    if recipe.weighting.rule == "uniform":
        return replace(
            prepared, recipe=with_weights(recipe, uniform_weights(len(recipe.ingredients)), {"rule": "uniform"})
        )
    known = cached_weights(recipe, prepared.examples.digest)
    return prepared if known is None else replace(prepared, recipe=with_weights(recipe, *known))


def mix(
    source: Any,
    *,
    weights: Sequence[float] | None = None,
    output: str | Path | None = None,
    revision: str | None = None,
    subfolder: str = "",
    options: MixOptions | None = None,
    **hub: Any,
) -> Mix:
    """Make the mix that a recipe describes, or find it in the cache.

    Args:
        source: a `Recipe`, a `CocktailConfig`, a mapping, a YAML or JSON file, a folder, a Hub id, a list of models, or
            what `prepare` returned, which has its options.
        weights: one per model, when `source` is a list of models.
        output: folder to write the mix to, new or empty; `None`: the cache.
        revision: of the recipe's repo, when `source` is a Hub id.
        subfolder: of the recipe's repo or folder.
        options: how to make the mix.
        **hub: fields of `Hub`: `token`, `local_files_only`, `cache_dir`, `force_download`.

    Raises:
        CocktailError: says what is wrong and how to fix it; nothing half-made is left behind.
    """
    source = with_weights_given(source, weights)
    if isinstance(source, Prepared):
        prepared = source
    else:
        prepared = prepare(source, with_hub(options, hub), revision=revision, subfolder=subfolder)
    options = prepared.options
    folder = OutputFolder(options=options, output=None if output is None else Path(output))
    if found := cached_mix(prepared, folder):
        return found
    folder.require()  # before the ingredients are scored, which takes long
    report, resolved = check_and_weigh(prepared)
    plan = plan_mix(report, options.max_shard_size)
    with folder.locked(resolved):
        if path := folder.adopt_finished(resolved) or folder.find(resolved):
            return prepared.finished(path, resolved, cached=True)
        with folder.stage(resolved, working_files(plan)) as stage:

            def write_card() -> None:
                notes = public_notes(resolved, (*report.notes, *loading.wait()))
                with disk_errors(stage):
                    facts = gather_facts(resolved, report.kind, options.hub, planned_specs(plan), notes=notes)
                    (stage / README).write_text(render_card(resolved, facts), encoding="utf-8", newline="")

            with disk_errors(stage):
                copy_small_files(report, stage, code=options.trust_remote_code)
                write_recipe(resolved, report, stage)
            with closing(LoadCheck(stage, plan, report, trust_remote_code=options.trust_remote_code)) as loading:
                if bytes_to_fetch(report.models) > LONG_DOWNLOAD:
                    loading.wait()
                merged = write_weights(plan, report, stage, options, meanwhile=write_card)
                report.require_unchanged()
                notes = (*report.notes, *loading.wait())
            resolved = _made_of(resolved, merged.materials)
            with disk_errors(stage):
                write_json(stage / RECIPE_FILE, resolved.to_dict())
        path = folder.finish(resolved, merged.digests, public_notes(resolved, notes))
    return prepared.finished(path, resolved, cached=False, notes=notes, merged=merged)


def _made_of(resolved: ResolvedRecipe, materials: Mapping[str, Mapping[str, str | None]]) -> ResolvedRecipe:
    """Add the hashes of the files from the Hub to the evidence, which does not change the digest."""
    evidence = {**(resolved.evidence or {}), "materials": {**materials}}
    return replace(resolved, evidence=evidence) if materials else resolved


def cached_mix(prepared: Prepared, folder: OutputFolder | None = None) -> Mix | None:
    """Return the mix if `folder`, by default the cache, contains it already."""
    if prepared.resolved is None:
        return None
    path = (folder or OutputFolder(options=prepared.options, output=None)).find(prepared.resolved)
    return prepared.finished(path, prepared.resolved, cached=True) if path else None


def check_and_weigh(prepared: Prepared) -> tuple[CompatibilityReport, ResolvedRecipe]:
    """Check that the models fit together, and compute the weights where they are open."""
    require_device(prepared.options)
    report = prepared.check()
    resolved = prepared.resolved
    if resolved is None:
        weighting = prepared.recipe.weighting
        if prepared.options.low_disk and weighting is not None and weighting.rule != "uniform":
            raise RecipeError(
                "The weights are not computed yet, and scoring needs every ingredient whole on the disk.\n"
                "`low_disk` never keeps a whole ingredient.\n"
                "Compute them on a larger disk (`cocktail score RECIPE -o SCORED.yaml`), and mix SCORED.yaml."
            )
        from cocktail_hub.search.weights_cache import cache_weights

        weights, evidence = weigh_prepared(prepared, report)
        if weighting is not None and weighting.rule != "uniform":
            cache_weights(prepared.recipe, prepared.examples.digest, weights.values, evidence)
        resolved = as_resolved(with_weights(prepared.recipe, weights.values, evidence))
    if commits := report.recipe.code:
        resolved = replace(resolved, evidence={**(resolved.evidence or {}), "code": commits})
    return replace(report, recipe=resolved), resolved


def weigh_prepared(
    prepared: Prepared, report: CompatibilityReport, *, lm_cocktail: bool = False, fresh: bool = False
) -> tuple[Weights, dict[str, Any]]:
    """Compute weights and their evidence.

    `lm_cocktail`: from the losses that the original LM_Cocktail computes; `fresh`: from nothing that is cached.
    """
    from cocktail_hub.search.weigh import weigh_ingredients

    recipe, weighting = prepared.recipe, prepared.recipe.weighting
    if weighting is None:
        raise RecipeError("The recipe has no `weighting`, so there is nothing to score its ingredients on.")
    examples = None if weighting.rule == "uniform" else prepared.examples
    return weigh_ingredients(
        recipe, weighting, report, examples, prepared.options, lm_cocktail=lm_cocktail, fresh=fresh
    )


def with_hub(options: MixOptions | None, hub: Mapping[str, Any]) -> MixOptions:
    """Return options whose `hub` has the given fields."""
    options = options or MixOptions()
    return replace(options, hub=replace(options.hub, **hub)) if hub else options


def check(
    source: Any,
    *,
    weights: Sequence[float] | None = None,
    revision: str | None = None,
    subfolder: str = "",
    options: MixOptions | None = None,
    **hub: Any,
) -> Preview:
    """Check whether a recipe can be mixed, and what that takes, without downloading weights. Parameters as for `mix`.

    Raises:
        CocktailError: the ingredients do not fit together, or cannot be read; names the tensor and the model.
        ScoringError: open weights cannot be computed from the recipe's examples.
    """
    options = with_hub(options, hub)
    source = with_weights_given(source, weights)
    prepared = prepare(source, options, revision=revision, subfolder=subfolder, digests=False, recall=False)
    report = prepared.check()
    weighting = prepared.recipe.weighting
    if prepared.recipe.weights is None and weighting is not None and weighting.rule != "uniform":
        from cocktail_hub.search.weigh import check_scoring

        check_scoring(prepared.recipe, weighting, report, prepared.examples, options)
    plan = plan_mix(report, options.max_shard_size)
    return preview_mix(report, plan, options, weighed=prepared.recipe.weights is not None)


def recipe_or_model(source: Any, options: MixOptions, revision: str | None, *, merged: bool) -> tuple[Prepared, bool]:
    """Open a recipe, or a model as a mix of it with itself; with `merged`, weights beside a recipe are a model."""
    named = isinstance(source, (str, Path)) and Path(source).suffix not in SUFFIXES
    try:
        loaded = load_recipe_source(source, options.hub, revision=revision)
    except SourceError:
        if not named:
            raise
        loaded = None
    if loaded is not None and not (named and merged and loaded.merged):
        return prepare(loaded, options), False
    half = {"model": str(source), "revision": revision, "weight": 0.5}
    return prepare(replace(load_recipe_source([half, half], options.hub), name=str(source)), options), True


def extract_lora(
    source: Any,
    base: str | Mapping[str, Any] | None = None,
    *,
    rank: int | None = None,
    error: float = 0.0,
    matrices_only: bool = False,
    output: str | Path | None = None,
    revision: str | None = None,
    options: MixOptions | None = None,
    **hub: Any,
) -> LoraAdapter:
    """Make a LoRA adapter of a mix or a model: the nearest of a rank to its difference from a base (docs/adapters.md).

    Args:
        source: a recipe, as `mix` takes it, or a fine-tuned model.
        base: the model that the adapter is for; `None`: the recipe's, or the one that its adapters adapt.
        rank: the largest rank of a matrix; `None`: 32. Adapters of one base are added up from their factors: exactly if
            the rank allows it, and with `None` it does.
        error: the largest relative error of a matrix that is good enough, from 0 to 1; ranks are then as small as it
            allows.
        matrices_only: leave norms, biases and embeddings as in the base: vLLM takes matrices only.
        output: a new folder to write the adapter to; `None`: it is only returned.
        revision: of the recipe's or the model's repo, when `source` is a Hub id.
        options: how to make the mix.
        **hub: fields of `Hub`: `token`, `local_files_only`, `cache_dir`.

    Raises:
        RecipeError: no base is known, or an argument is out of range.
        CocktailError: the mix cannot be made, or does not come from the base.
    """
    from cocktail_hub.publishing.adapter import RANK, extract_adapter, require_empty, require_rank
    from cocktail_hub.publishing.adapter_sum import add_adapters

    require_rank(rank, error)
    if output is not None:
        require_empty(Path(output))
    options = with_hub(options, hub)
    prepared, is_model = recipe_or_model(source, options, revision, merged=False)
    known = base or prepared.recipe.common_base
    if known is None:
        raise RecipeError(
            f"'{prepared.source.name}' has no `base`, so there is no difference to make an adapter of.\n"
            "A LoRA adapter is what is added to a base.\nName that model: `--base org/name`, or `base=` in Python."
        )

    def report_of(reference: ModelReference, *, digests: bool = True) -> CompatibilityReport:
        half = {**reference.to_dict(), "weight": 0.5}  # a mix of a model with itself
        return prepare(load_recipe_source([half, half], options.hub), options, digests=digests).check()

    wanted = report_of(ModelReference.from_value(known, "base"))
    adapter = None
    if is_model:
        report = prepared.check()
    else:
        report, resolved = check_and_weigh(prepared)
        prepared = replace(prepared, recipe=resolved)
        if wanted.models[0].body.reference.identity() == report.models[0].body.reference.identity() and not error:
            adapter = add_adapters(report, plan_mix(report), rank, source=f"'{prepared.source.name}'")
        if adapter is None:
            report = report_of(ModelReference(model=str(mix(prepared).path)), digests=False)
    adapter = adapter or extract_adapter(
        report,
        wanted,
        rank=rank or RANK,
        error=error,
        matrices_only=matrices_only,
        source=f"'{prepared.source.name}'",
    )
    if output is not None:
        adapter.save(Path(output))
    return adapter


def publish(
    source: Any,
    repo_id: str,
    *,
    as_: Form | Literal["adapter"] = "merged",
    lora: Mapping[str, Any] | None = None,
    source_revision: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    commit_description: str | None = None,
    tags: Sequence[str] | str | None = None,
    max_shard_size: int | str | None = None,
    examples: bool = True,
    results: Evaluation | str | Path | None = None,
    token: str | bool | None = None,
    options: MixOptions | None = None,
) -> CommitInfo:
    """Publish a recipe, its merged weights, or both in one commit. Safe to repeat.

    Args:
        source: a `Mix`, or whatever `mix` takes.
        repo_id: repo to write to, in your own namespace if it names none; created if missing. Our section of an
            existing README is replaced, the rest kept.
        as_: `merged`: weights that load without this package; `recipe`: a few kilobytes, mixed where they are loaded;
            `both`: weights that can be loaded as a recipe, too; `adapter`: a LoRA adapter of the base.
        lora: keywords of `extract_lora` for an adapter, such as `{"rank": 64}`.
        source_revision: branch, tag or commit of the recipe's repo, when `source` is a Hub id.
        private: visibility of a repo that is created.
        revision: branch to commit to; created if missing.
        create_pr: open a pull request instead.
        commit_message: first line of the commit message.
        commit_description: the rest of it.
        tags: for the card, besides those that say what it is.
        max_shard_size: largest size of one weight file; `None`: that of the options, or of a given `Mix`.
        examples: for a recipe with open weights, whether to publish the file that they are computed from.
        results: an evaluation of the mix, or the file that `cocktail eval --json` printed; its figures go to the card.
        token: access token; `None`: the saved one.
        options: how to make the mix; `None`: the defaults.

    Raises:
        PublishError: nobody is logged in, the account may not write there (both are asked before anything is
            downloaded), or the Hub did not accept it; the repo is unchanged.
        RecipeError: `repo_id` is the address of a repo.
        CocktailError: the mix cannot be made.
    """
    from cocktail_hub.publishing.publish import FORMS, publish_weights
    from cocktail_hub.publishing.recipe_repo import publish_recipe, require_inside

    forms = (*FORMS, "adapter")
    if as_ not in forms:
        raise RecipeError(f"`as_` must be one of {', '.join(forms)}, got {as_!r}. {did_you_mean(str(as_), forms)}")
    refuse_address(repo_id, "The repo to publish to")
    options = with_hub(options, {} if token is None else {"token": token})
    if max_shard_size is not None:
        options = replace(options, max_shard_size=max_shard_size)
    publication = Publication(
        repo_id=repo_id,
        files={},
        readme=lambda existing: existing or "",
        message=commit_message
        or f"Publish {as_ if as_ in ('recipe', 'adapter') else 'merged weights'} with cocktail_hub",
        description=commit_description,
        tags=(tags,) if isinstance(tags, str) else tuple(tags or ()),
        results=_results_given(results),
        private=private,
        revision=revision,
        create_pr=create_pr,
    )
    publication = options.hub.claim(publication)  # before anything is downloaded or merged for it
    if as_ == "adapter":
        from cocktail_hub.publishing.adapter import publish_adapter

        recipe = source.recipe if isinstance(source, Mix) else source
        adapter = extract_lora(recipe, **(lora or {}), revision=source_revision, options=options)
        return publish_adapter(adapter, publication, options.hub)
    made = source if isinstance(source, Mix) else None
    if made and not made.path.is_dir():  # it left the cache
        source, made = made.recipe, None
    if as_ == "recipe":
        prepared = prepare(made.recipe if made else source, options, revision=source_revision, recall=False)
        labels = made.labels if made else prepared.source.labels
        weighting = prepared.recipe.weighting
        found = prepared.examples if weighting is not None and isinstance(weighting.examples, str) else None
        if found is not None:
            require_inside(found, prepared.source.root)
        return publish_recipe(prepared.recipe, found, publication, options, labels=labels, with_examples=examples)
    if made is None:
        prepared = prepare(source, options, revision=source_revision)
        if options.low_disk:
            return _publish_by_shard(prepared, publication, as_)
        made = mix(prepared)
    elif max_shard_size is not None:
        made = replace(mix(made.recipe, options=options), labels=made.labels)
    return publish_weights(made.path, made.recipe, publication, options.hub, labels=made.labels, as_=as_)


def _results_given(results: Evaluation | str | Path | None) -> dict[str, Any] | None:
    """An evaluation as JSON values."""
    if not isinstance(results, (str, Path)):
        return None if results is None else results.to_dict()
    try:
        read = json.loads(Path(results).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        read = error
    if not isinstance(read, dict) or "mixes" not in read:
        raise SourceError(
            f"There is no evaluation in '{results}'{f': {read}' if isinstance(read, Exception) else ''}.\n"
            "Its figures would go to the card.\nWrite one with `cocktail eval RECIPE ... --json > results.json`."
        )
    return read


def _publish_by_shard(prepared: Prepared, publication: Publication, as_: Form) -> CommitInfo:
    """Mix and publish without ever having a whole model, or the whole mix, on the disk.

    The result is that of an ordinary mix. An interrupted run leaves its uploaded files on the Hub and a journal of them
    here, from which the next run continues.
    """
    from cocktail_hub.publishing.publish import publish_weights
    from cocktail_hub.publishing.recipe_repo import refuse_local_models
    from cocktail_hub.publishing.streaming import staging_name, upload_expired, upload_weights, write_small_files
    from cocktail_hub.storage.cache import write_manifest

    options, source = prepared.options, prepared.source
    if as_ == "both":
        refuse_local_models(prepared.recipe)
    if made := cached_mix(prepared):
        return publish_weights(made.path, made.recipe, publication, options.hub, labels=made.labels, as_=as_)
    report, resolved = check_and_weigh(prepared)
    plan = plan_mix(report, options.max_shard_size)
    folder = OutputFolder(options=options, output=None)
    name = staging_name(folder.key(resolved), publication, options.hub)
    with folder.cache.locked(name):
        stage = folder.cache.staging(name)
        small = write_small_files(report, resolved, plan, stage / "files", options)
        with closing(LoadCheck(small, plan, report, trust_remote_code=options.trust_remote_code)) as loading:
            write_manifest(small, {}, options.max_shard_size, public_notes(resolved, (*report.notes, *loading.wait())))
        files, materials = upload_weights(plan, report, stage / "weights", publication, options)
        report.require_unchanged()
        uploaded, resolved = replace(publication, files=files), _made_of(resolved, materials)
        try:
            info = publish_weights(small, resolved, uploaded, options.hub, labels=source.labels, as_=as_, plan=plan)
        except PublishError as error:
            if expired := upload_expired(error, publication, stage):
                raise expired from error
            raise
        shutil.rmtree(stage, ignore_errors=True)
    return info

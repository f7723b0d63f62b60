"""Measure a mix, its models and what was published: score, evaluate, sweep, compare, verify."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cocktail_hub.errors import RecipeError, SourceError, did_you_mean
from cocktail_hub.evaluation.example_files import examples_given, examples_of
from cocktail_hub.merge.options import DEFAULT_SHARD_SIZE, MixOptions
from cocktail_hub.merge.output_folder import cut_size
from cocktail_hub.pipeline.mix import check_and_weigh, mix, prepare, recipe_or_model, weigh_prepared, with_hub
from cocktail_hub.publishing.sample import compare_sample
from cocktail_hub.publishing.verify import (
    Verification,
    changed_weights,
    evidence_differences,
    local_copies,
    manifest_of,
    require_merged,
    weight_hashes,
)
from cocktail_hub.recipe import SUFFIXES, ModelReference, as_resolved
from cocktail_hub.resolve.resolve import with_weights
from cocktail_hub.resolve.source import RecipeSource, load_recipe_source

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cocktail_hub.search.compare import Comparison
    from cocktail_hub.search.evaluate import Entrant, Evaluation
    from cocktail_hub.search.score import Score
    from cocktail_hub.search.sweep_report import Sweep


def score(
    source: Any,
    examples: str | Path | Sequence[Mapping[str, Any]] | None = None,
    *,
    rule: str | None = None,
    metric: str | None = None,
    temperature: float | str | None = None,
    columns: Mapping[str, str] | None = None,
    revision: str | None = None,
    options: MixOptions | None = None,
    **hub: Any,
) -> Score:
    """Compute each ingredient's loss on a few examples, and the weights from the losses.

    Args:
        source: a recipe, as `mix` takes it. It needs no weights; those that it gives are ignored.
        examples: a list, a path or a Hub dataset id; `None`: those of the recipe's `weighting`.
        rule: `softmax`, `ensemble`, `greedy`, `top_k`, `cma` or `uniform`; `None`: the recipe's, or softmax.
        metric: what mixes are chosen by with `greedy`, `top_k` and `cma`; `None`: the recipe's, or the first one that
            `evaluate` shows.
        temperature: in nats, above 0, or `auto`; `None`: the recipe's, or 5.
        columns: our key -> the column of `examples` that holds it, e.g. `{"input": "question"}`.
        revision: of the recipe's repo, when `source` is a Hub id.
        options: how to make the mix; `scoring_device` says where models are run.
        **hub: fields of `Hub`: `token`, `local_files_only`, `cache_dir`.

    Raises:
        ScoringError: the examples cannot rank the ingredients; names the example and the model.
        CocktailError: the recipe is wrong, or its models do not fit together.
    """
    from cocktail_hub.search.score import Score, open_recipe

    options = with_hub(options, hub)
    given = examples is not None or rule is not None
    loaded = load_recipe_source(source, options.hub, revision=revision, open_weights=given)
    changes = {"rule": rule, "metric": metric, "temperature": temperature, "columns": columns}
    recipe = open_recipe(loaded.recipe, examples, **changes)
    loaded = replace(loaded, recipe=recipe)
    if examples is not None:  # the caller may name files of this machine, which a recipe from the Hub may not
        loaded = replace(loaded, files=None, folder="")
    prepared = prepare(loaded, options, recall=False)
    report = prepared.check()
    weights, evidence = weigh_prepared(prepared, report)
    pinned = replace(prepared.recipe, evidence=report.recipe.evidence)  # which has the commits of trusted code
    return Score(recipe=as_resolved(with_weights(pinned, weights.values, evidence)), weights=weights)


def search_weights(
    source: Any,
    metric: Callable[[Any], Any],
    *,
    rule: str = "greedy",
    k: int | None = None,
    evaluations: int | None = None,
    seed: int | None = None,
    revision: str | None = None,
    options: MixOptions | None = None,
    **hub: Any,
) -> Score:
    """Search for the weights with which a mix is best by a metric of your own. No mix is written.

    Mixes are merged in memory and loaded: as `SentenceTransformer` or `CrossEncoder` where they are one, else as a
    model of transformers, whose tokenizer lies at its `name_or_path` as long as the metric runs.

    Args:
        source: a recipe, as `mix` takes it. It needs no weights; those that it gives are ignored.
        metric: takes a model, and returns a number, higher for better models; or an evaluator of sentence-transformers.
        rule: `greedy`: the best ingredient, and each next one that makes the mix no worse. `top_k`: the k best. `cma`:
            CMA-ES, which needs the extra `cma`.
        k: ingredients that `top_k` takes; `None`: 3.
        evaluations: mixes that `cma` tries, about; `None`: 100.
        seed: of `cma`.
        revision: of the recipe's repo, when `source` is a Hub id.
        options: how to make the mix; `scoring_device` says where models are run.
        **hub: fields of `Hub`: `token`, `local_files_only`, `cache_dir`.

    Returns:
        A recipe with plain weights, and as its evidence every mix that was tried.

    Raises:
        ScoringError: the metric gives something else than a finite number.
        CocktailError: the recipe is wrong, or its models do not fit together.
    """
    from cocktail_hub.recipe.weighting import SEARCHING, Weighting
    from cocktail_hub.search.by_metric import weigh_by_function
    from cocktail_hub.search.score import Score, open_recipe

    if rule not in SEARCHING:
        raise RecipeError(
            f"`rule` must be one of {', '.join(SEARCHING)}, got {rule!r}. {did_you_mean(rule, SEARCHING)}"
        )
    options = with_hub(options, hub)
    given = {"k": k, "evaluations": evaluations, "seed": seed}
    weighting = Weighting.from_value({"rule": rule, "examples": "a metric", **given})
    loaded = load_recipe_source(source, options.hub, revision=revision, open_weights=True)
    opened = replace(loaded, recipe=open_recipe(loaded.recipe, rule="uniform"))
    prepared = prepare(opened, options, recall=False)
    weights, evidence = weigh_by_function(prepared.recipe, metric, weighting, prepared.check(), options)
    return Score(recipe=as_resolved(with_weights(prepared.recipe, weights.values, evidence)), weights=weights)


def evaluate(
    *sources: Any,
    examples: Mapping[str, str | Path | Sequence[Mapping[str, Any]]] | None = None,
    tasks: Sequence[str] = (),
    data: str | Path | None = None,
    shots: int = 0,
    columns: Mapping[str, str] | None = None,
    reading: Mapping[str, Any] | None = None,
    generated: bool = True,
    revision: str | None = None,
    options: MixOptions | None = None,
    **hub: Any,
) -> Evaluation:
    """Measure a mix and its parts on examples or known tasks, or several models, with intervals. No mix is written.

    Args:
        *sources: a recipe, as `mix` takes it: its mix is compared with its base, its ingredients and a mix of equal
            weights. Or several recipes, folders or Hub ids: each is compared with the first.
        examples: name -> a list, a path or a Hub dataset id (docs/evaluation.md says what they look like).
        tasks: `flan30` or `mmlu57`, or `flan30:ag_news,squad_v1` for some of their tasks; `mteb:TASK`; `lm_eval:TASK`.
        data: folder or Hub dataset with the data of the first two; folder of further tasks of lm-eval.
        shots: examples before each question of `mmlu57` or of lm-eval.
        columns: our key -> the column of the examples that holds it, e.g. `{"input": "question"}`.
        reading: keys of `weighting` that say how models read, e.g. `{"chat_template": True}`; others are the recipe's.
        generated: whether language models write answers to examples without options, which takes longest.
        revision: of the recipes' repos, when sources are Hub ids.
        options: how to make the mix; `scoring_device` says where models are run.
        **hub: fields of `Hub`: `token`, `local_files_only`, `cache_dir`.

    Raises:
        ScoringError: the examples cannot be measured with the models; names the example and the model.
        CocktailError: a recipe is wrong, or a model cannot be read.
    """
    from cocktail_hub.search.evaluate import Evaluation, entrants_of, evaluate_entrants, reading_of, same_task
    from cocktail_hub.search.model_folders import staging_folder
    from cocktail_hub.search.tasks import evaluate_suites, open_suites

    options = with_hub(options, hub)
    if not sources or not (examples or tasks):
        raise RecipeError(
            "There is nothing to evaluate.\nA figure needs a model and examples.\n"
            "Give a recipe or models, and `examples={'target': 'file.jsonl'}` or `tasks=['flan30']`."
        )
    found = {name: examples_given(one, options.hub, name=name) for name, one in (examples or {}).items()}
    suites = open_suites(tasks, data, shots, options.hub)
    several = len(sources) > 1
    opened = [recipe_or_model(source, options, revision, merged=several) for source in sources]
    with staging_folder() as scratch:
        entrants: list[Entrant] = []
        kinds: list[tuple[str, str]] = []
        mixes: dict[str, str] = {}
        for index, (prepared, is_model) in enumerate(opened):
            name = prepared.source.name
            report, resolved = check_and_weigh(prepared)
            kinds.append((name, resolved.task or report.kind.task))
            mixed, first, *parts = entrants_of(resolved, report, options, scratch / str(index))
            if not is_model:
                mixes.setdefault(name if several else mixed.name, resolved.digest)
            if several or is_model:
                entrants.append(replace(first if is_model else mixed, name=name))
            else:
                entrants += [mixed, first, *parts]
        task, weighting = same_task(kinds), opened[0][0].source.recipe.weighting
        shared: dict[str, Any] = {"task": task, "options": options, "reference": several}
        known = evaluate_suites(entrants, suites, weighting=weighting, reading=reading or {}, **shared)
        if not found:
            return replace(known, mixes=mixes)
        own = evaluate_entrants(
            entrants,
            found,
            reading=reading_of(weighting, reading or {}),
            columns=columns,
            generated=generated,
            **shared,
        )
        return Evaluation(results=(*own.results, *known.results), mixes=mixes)


def sweep(
    source: Any,
    examples: Mapping[str, str | Path | Sequence[Mapping[str, Any]]],
    *,
    over: str | None = None,
    points: int = 11,
    choose: Sequence[str] = (),
    maximize: str | None = None,
    revision: str | None = None,
    options: MixOptions | None = None,
    **hub: Any,
) -> Sweep:
    """Find out how good a mix is along one of its numbers: predicted everywhere, measured where it matters.

    Args:
        source: a recipe, as `mix` takes it; one without weights starts with equal ones.
        examples: name -> a list, a path or a Hub dataset id.
        over: what goes from 0 to 1: `anchor` (its share), `lambda`, or an ingredient (its weight, of which the others
            divide the rest) by its model or its number from 1; `None`: what there is only one of.
        points: number of points on the curve, at least 3.
        choose: conditions such as `general >= start - 0.5`; `start` and `end` are the ends of the curve.
        maximize: name of the examples on which the chosen point is best among those that meet the conditions; `None`:
            the first without a condition, and without conditions the knee of the curve is chosen.
        revision: of the recipe's repo, when `source` is a Hub id.
        options: how to make the mix; `scoring_device` says where models are run.
        **hub: fields of `Hub`: `token`, `local_files_only`, `cache_dir`.

    Raises:
        ScoringError: the examples do not fit the models, or no point meets the conditions.
        CocktailError: the recipe is wrong, or its models do not fit together.
    """
    from cocktail_hub.search.evaluate import reading_of
    from cocktail_hub.search.sweep import SweepPlan, sweep_mix
    from cocktail_hub.search.sweep_axis import axis_of, read_goal

    if not examples or points < 3:  # noqa: PLR2004 - both ends, and something between
        what = "no `examples`" if not examples else f"{points} `points`"
        raise RecipeError(
            f"A sweep got {what}.\nIt shows figures on examples, at both ends of a curve and between.\n"
            "Give a file of examples under a name, and at least 3 points."
        )
    goal, options = read_goal(list(examples), maximize, choose), with_hub(options, hub)
    loaded = load_recipe_source(source, options.hub, revision=revision, open_weights=True)
    found = {name: examples_given(given, options.hub, name=name) for name, given in examples.items()}
    report, resolved = check_and_weigh(prepare(loaded, options))
    plan = SweepPlan(
        axis=axis_of(resolved, over),
        positions=tuple(index / (points - 1) for index in range(points)),
        goal=goal,
        reading=reading_of(loaded.recipe.weighting, {}),
    )
    return sweep_mix(plan, report, found, options)


def compare(
    source: Any,
    *,
    base: str | Mapping[str, Any] | None = None,
    revision: str | None = None,
    options: MixOptions | None = None,
    **hub: Any,
) -> Comparison:
    """Measure how far the models of a recipe went from their base, and how much they have in common (docs/compare.md).

    One pass over all weights; what was measured once is kept in the cache.

    Args:
        source: a recipe, as `mix` takes it, or a list of models; with `base`, one model. Method and weights do not
            matter.
        base: the model that they were fine-tuned from; `None`: the recipe's, or the one that its adapters adapt.
        revision: of the recipe's repo, when `source` is a Hub id.
        options: how to read the models: `threads`, `max_memory`, `device`, `low_disk`.
        **hub: fields of `Hub`: `token`, `local_files_only`, `cache_dir`.

    Raises:
        RecipeError: no base is known, or there is no other model.
        CocktailError: the models do not fit together, or cannot be read.
    """
    from cocktail_hub.search.compare import measure_task_vectors, recipe_of_task_vectors

    options = with_hub(options, hub)
    try:
        loaded = load_recipe_source(source, options.hub, revision=revision, open_weights=True)
    except SourceError:
        if base is None or not isinstance(source, (str, Path)) or Path(source).suffix in SUFFIXES:
            raise
        one = {"model": str(source), "revision": revision}
        loaded = load_recipe_source([base, one], options.hub, open_weights=True)
    pinned = prepare(loaded, options, recall=False).recipe
    given = None if base is None else ModelReference.from_value(base, "base")
    prepared = prepare(replace(loaded, recipe=recipe_of_task_vectors(pinned, given)), options)
    prepared = replace(prepared, recipe=recipe_of_task_vectors(prepared.recipe, None))
    return measure_task_vectors(as_resolved(prepared.recipe), prepared.check(), options)


def verify(
    source: Any,
    *,
    sample: int | None = None,
    evidence: bool = False,
    examples: str | Path | Sequence[Mapping[str, Any]] | None = None,
    revision: str | None = None,
    options: MixOptions | None = None,
    **hub: Any,
) -> Verification:
    """Make a published mix again from its ingredients, and compare the weights byte for byte.

    Published weights are not downloaded: the Hub records their hashes. Ingredients are hashed anew, those that this
    machine has already, and compared with what the Hub states and the recipe records.

    Args:
        source: a merged repo on the Hub, or a folder with a `recipe.json`.
        sample: compare only so many tensors, drawn at random, and the headers, from byte ranges of all files. Nothing
            is hashed, and a change in other tensors is not found. `None`: everything.
        evidence: whether to compute the evidence again, too: losses, weights and gain, from nothing that is cached.
        examples: those behind the weights, where they are not published; with them, `evidence` is checked.
        revision: of the repo.
        options: how to make the mix.
        **hub: fields of `Hub`: `token`, `local_files_only`, `cache_dir`.

    Raises:
        SourceError: an ingredient, or the examples behind the evidence, cannot be found or accessed, or is damaged.
        RecipeError: there are no merged weights, the recipe is not resolved, or its method makes no sample.
    """
    if sample is not None and sample < 1:
        raise RecipeError(f"`sample` is {sample}.\nIt says how many tensors to compare.\nGive a number from 1.")
    options = with_hub(options, hub)
    loaded = load_recipe_source(source, options.hub, revision=revision)
    files = require_merged(loaded)
    differences = None
    if evidence or examples is not None:
        differences = _check_evidence(loaded, examples, options)
    mixed = manifest_of(files, loaded.folder)
    cut = DEFAULT_SHARD_SIZE if mixed is None else cut_size(mixed)
    again = replace(options, max_shard_size=cut, force=True)  # ignore the cache
    prepared = prepare(replace(loaded, merged=False), again)
    copies: tuple[str, ...] = ()
    if sample is None:
        found, copies = weight_hashes(files), local_copies(prepared.recipe, options.hub)
        with tempfile.TemporaryDirectory(prefix="cocktail-", ignore_cleanup_errors=True) as scratch:
            made = mix(prepared, output=Path(scratch) / "mix")
            expected, recipe = weight_hashes(made.path), made.recipe
    else:
        report = prepared.check()
        (expected, found), recipe = compare_sample(report, files, sample, again), as_resolved(report.recipe)
    changed = changed_weights(files, loaded.folder)
    return Verification(
        name=loaded.name,
        digest=recipe.digest,
        expected=expected,
        found=found,
        changed=changed,
        evidence=differences,
        local_copies=copies,
        sample=None if sample is None else len(expected) - sum(path.endswith(".safetensors") for path in expected),
    )


def _check_evidence(
    loaded: RecipeSource, examples: str | Path | Sequence[Mapping[str, Any]] | None, options: MixOptions
) -> tuple[str, ...]:
    """Compute the weights of a recipe again from their examples, and say what differs from its evidence."""
    from cocktail_hub.search.score import scored_again
    from cocktail_hub.search.weigh import check_scoring

    old, name = loaded.recipe.evidence or {}, loaded.name
    found = examples_of(old, name, options.hub) if examples is None else examples_given(examples, options.hub)
    opened = scored_again(loaded.recipe, name, found.rows())
    prepared = prepare(replace(loaded, recipe=opened, merged=False, files=None, folder=""), options, recall=False)
    report, weighting = prepared.check(), opened.weighting
    if weighting is not None and weighting.rule != "uniform":
        given = check_scoring(prepared.recipe, weighting, report, prepared.examples, options)[1]
        if given.digest != old["examples"]["digest"]:
            raise SourceError(
                f"The examples are not those behind the weights of '{name}': their digest is {given.digest[:12]}, "
                f"not {old['examples']['digest'][:12]}.\nOther examples give other weights.\n"
                "Give the examples that the evidence was computed from."
            )
    weights, new = weigh_prepared(prepared, report, fresh=True)
    return evidence_differences(loaded.recipe, with_weights(prepared.recipe, weights.values, new))

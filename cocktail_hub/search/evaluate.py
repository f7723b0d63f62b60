"""Is the mix good? Models side by side on the same examples, with what can and cannot be concluded."""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cocktail_hub.compat.check import check_models
from cocktail_hub.errors import ScoringError, did_you_mean
from cocktail_hub.evaluation.intervals import Figure, figures
from cocktail_hub.evaluation.measure import check_measured, measure
from cocktail_hub.evaluation.metrics import metrics_of
from cocktail_hub.evaluation.scorer import ScoringJob
from cocktail_hub.evaluation.settings import TASKS, ScoringSettings
from cocktail_hub.hub.progress import bar
from cocktail_hub.recipe import Recipe, ResolvedRecipe, Weighting, canonical_json
from cocktail_hub.search.model_folders import copy_tokenizer, mix_folder, model_folder
from cocktail_hub.search.report import aligned
from cocktail_hub.storage.cache import Cache
from cocktail_hub.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from cocktail_hub.compat import CompatibilityReport
    from cocktail_hub.evaluation.example_files import ExamplesFound
    from cocktail_hub.evaluation.examples import Examples
    from cocktail_hub.evaluation.metrics import Columns, MeasuredKind, Metric
    from cocktail_hub.merge.options import MixOptions
    from cocktail_hub.recipe import ModelReference

CLASSIFIED = "text-classification"
"""The task of models that are measured, but not scored: no weights are computed from their losses."""
_READING = ("max_length", "negatives", "seed", "chat_template", "pooling", "normalize", "dtype", "batch_size")
"""Keys of `weighting` that say how models read examples."""
MIX = "The mix"
"""Name of the mix of a recipe beside its parts."""


@dataclass(frozen=True, kw_only=True)
class Entrant:
    """A model that takes part."""

    name: str
    """For people."""
    identity: str
    """What pins its weights."""
    folder: Callable[[], AbstractContextManager[Path]]
    """Provides its folder."""
    tokenizer: tuple[Path, str]
    """Folder of the tokenizer, and what pins it."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A model against another on the same examples."""

    subject: str
    other: str
    figures: Mapping[str, Figure]
    """Metric -> what the subject has more than the other, with its interval."""
    verdict: int
    """By the first metric: 1 better, -1 worse; 0 if it cannot be told."""


@dataclass(frozen=True, kw_only=True)
class ExamplesResult:
    """All models on one set of examples."""

    name: str
    source: str
    """Where the examples come from."""
    count: int
    """Number of examples."""
    models: Mapping[str, Mapping[str, Figure]]
    """Model -> metric -> its figure, with interval."""
    comparisons: tuple[Comparison, ...]
    parts: tuple[ExamplesResult, ...] = ()
    """What the figures are the mean of, if of several tasks."""

    @property
    def metric(self) -> str:
        """The metric that conclusions are drawn from."""
        return next(iter(next(iter(self.models.values()))))

    def sentences(self, verdict: int) -> Iterator[str]:
        """A sentence for every comparison that came out so."""
        for found in self.comparisons:
            if found.verdict != verdict:
                continue
            difference = found.figures[self.metric]
            shown = f"{difference:+} {self.metric}, {self.count} examples"
            if verdict:
                word = "better" if verdict > 0 else "worse"
                yield f"{found.subject} is {word} than {found.other} on {self.name}: {shown}"
            else:
                seen = f"{(difference.high - difference.low) / 2:.{difference.digits}f}"
                yield (
                    f"{found.subject} cannot be told from {found.other} on {self.name}: {shown}; "
                    f"a difference of {seen} would show"
                )

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "name": self.name,
            "source": self.source,
            "count": self.count,
            "metric": self.metric,
            "models": {name: _plain(found) for name, found in self.models.items()},
            "comparisons": [
                {"subject": c.subject, "other": c.other, "verdict": c.verdict, "differences": _plain(c.figures)}
                for c in self.comparisons
            ],
        } | ({"parts": [part.to_dict() for part in self.parts]} if self.parts else {})

    def __str__(self) -> str:
        """A table for people; of parts the figures alone."""
        head = [f"{self.name}: {self.count} examples of {self.source}", *next(iter(self.models.values()))]
        rows = [[name, *map(str, found.values())] for name, found in self.models.items()]
        rows += [
            [f"{c.subject} - {c.other}", *(f"{found:+}" for found in c.figures.values())] for c in self.comparisons
        ]
        tables = [[head, *rows]]
        if self.parts:
            shown = [[f"{p.name} ({p.metric})", *(str(m[p.metric]) for m in p.models.values())] for p in self.parts]
            tables.append([[f"{self.name}, task by task", *self.models], *shown])
        return "\n\n".join(map(aligned, tables))


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was measured, on every set of examples."""

    results: tuple[ExamplesResult, ...]
    mixes: Mapping[str, str] = field(default_factory=dict)
    """Name of a model that is a mix -> digest of its recipe."""

    @property
    def sentences(self) -> tuple[str, ...]:
        """What can and cannot be concluded: first where the mix is worse, then where it is better, then the rest."""
        return tuple(chain.from_iterable(one.sentences(verdict) for verdict in (-1, 1, 0) for one in self.results))

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "conclusions": list(self.sentences),
            "version": VERSION,
            "mixes": dict(self.mixes),
            "results": [one.to_dict() for one in self.results],
        }

    def __str__(self) -> str:
        """The conclusions, then a table for each set of examples."""
        return "\n\n".join(filter(None, ("\n".join(self.sentences), *map(str, self.results))))


def _plain(found: Mapping[str, Figure]) -> dict[str, Any]:
    return {metric: figure.to_dict() for metric, figure in found.items()}


# -- who takes part --------------------------------------------------------------------------------------------------


def entrants_of(
    recipe: ResolvedRecipe, report: CompatibilityReport, options: MixOptions, scratch: Path
) -> list[Entrant]:
    """The mix of a recipe; then base, ingredients, and a mix of equal weights; all read with the mix's tokenizer.

    Where rows of tokens are elsewhere in some, the models read with their own.
    """
    tokenizer = copy_tokenizer(report, scratch, code=options.trust_remote_code)

    def mixed(name: str, recipe: ResolvedRecipe) -> Entrant:
        folder = partial(mix_folder, recipe, report, options)
        return Entrant(name=name, identity=canonical_json({"mix": recipe.digest}), folder=folder, tokenizer=tokenizer)

    found = {MIX: mixed(MIX, recipe)}
    for index, model in enumerate(report.models):
        reference, place, own = model.located.reference, index, report
        if recipe.stacked and reference.recipe is None:  # some layers of a model are none: the whole takes part
            reference = replace(recipe.ingredients[index], layer_range=None, parameters={}, weight=0.5)
            whole = Recipe(ingredients=(reference, reference))
            place, own = 0, check_models(whole, options.hub, trust_remote_code=options.trust_remote_code)
        identity, name = canonical_json(reference.identity()), short_name(reference)
        found.setdefault(  # a model may be mixed with itself
            identity,
            Entrant(
                name=f"base {name}" if index < report.first else name,
                identity=identity,
                folder=partial(model_folder, place, own, options),
                tokenizer=copy_tokenizer(report, scratch, code=options.trust_remote_code, index=index)
                if report.tokens
                else tokenizer,
            ),
        )
    share = sum(recipe.weights or ()) / len(recipe.ingredients)
    ingredients = tuple(replace(ingredient, weight=share) for ingredient in recipe.ingredients)
    equal = replace(recipe, ingredients=ingredients, layers=(), evidence=None)
    return [*found.values(), *([mixed("equal weights", equal)] if equal.digest != recipe.digest else [])]


def short_name(reference: ModelReference) -> str:
    """A Hub id, or the last two parts of a path."""
    return "/".join(Path(reference.model).parts[-2:]) if reference.local else reference.label


def kind_of(task: str) -> MeasuredKind:
    """What models for a Hub task are measured as.

    Raises:
        ScoringError: no metric is defined for them here.
    """
    if task == CLASSIFIED:
        return "classifier"
    if task not in TASKS:
        raise ScoringError(
            f"Models for the task '{task}' cannot be evaluated here. {did_you_mean(task, (*TASKS, CLASSIFIED))}\n"
            "Metrics are there for embedders, rerankers, language models and classifiers of texts.\n"
            "Mix to a folder (`cocktail mix RECIPE -o FOLDER`), and give that to a harness for the task."
        )
    return TASKS[task]


def same_task(tasks: Sequence[tuple[str, str]]) -> str:
    """The task of all models, from the name and task of each.

    Raises:
        ScoringError: two models are measured in different ways, or one in none.
    """
    (first, task), *others = tasks
    for name, other in others:
        if kind_of(other) != kind_of(task):
            raise ScoringError(
                f"'{first}' is for {task}, but '{name}' for {other}.\nThey have no metric in common.\n"
                "Evaluate them one after the other, or set `task` in the recipe that is wrong."
            )
    kind_of(task)
    return task


# -- how they do -----------------------------------------------------------------------------------------------------


def reading_of(weighting: Weighting | None, changes: Mapping[str, Any]) -> Weighting:
    """How examples are read: as a recipe's `weighting` says, with changes.

    Raises:
        ScoringError: a change is not about reading.
        RecipeError: a value is out of range.
    """
    for key in changes:
        if key not in _READING:
            raise ScoringError(
                f"`reading` has the key '{key}'. {did_you_mean(key, _READING)}\n"
                "It says how models read examples.\nCorrect the key, or remove it."
            )
    given = weighting.to_dict() if weighting else {}
    return Weighting.from_value(
        {"rule": "uniform"} | {key: given[key] for key in _READING if key in given} | dict(changes)
    )


def evaluate_entrants(
    entrants: Sequence[Entrant],
    examples: Mapping[str, ExamplesFound],
    *,
    task: str,
    reading: Weighting,
    columns: Mapping[str, str] | None,
    options: MixOptions,
    generated: bool = True,
    reference: bool = False,
    seed: int = 0,
) -> Evaluation:
    """Measure every model on every set of examples, and compare the first with each of the others.

    Args:
        entrants: at least one.
        examples: name -> the examples.
        task: Hub task of all of them.
        reading: how examples are read.
        columns: our key -> the column of the examples that holds it.
        options: where models run.
        generated: whether language models write answers.
        reference: compare each of the others with the first instead.
        seed: of the intervals.

    Raises:
        ScoringError: a model cannot be measured on the examples.
        SourceError: a model cannot be downloaded or loaded.
    """
    kind = kind_of(task)
    checked = {name: check_measured(found.rows(), kind, columns=columns) for name, found in examples.items()}
    settings = ScoringSettings(
        task=task if task != CLASSIFIED else "text-ranking",  # of the same class
        weighting=reading,
        device=options.scoring_device,
        trust_remote_code=options.trust_remote_code,
    )
    measured: dict[str, list[Columns]] = {name: [] for name in checked}
    with bar("evaluate", len(entrants) * len(checked), unit="model") as advance:
        for entrant in entrants:
            for name, columns_found in _measure(entrant, checked, kind, settings, generated=generated):
                measured[name].append(columns_found)
                advance(1)
    names, pairs = lined_up(entrants, reference=reference)
    sources = {
        name: one.source + (f" ({checked[name].shape})" * bool(checked[name].shape)) for name, one in examples.items()
    }
    return Evaluation(
        results=tuple(
            compared(name, sources[name], names, found, pairs=pairs, metrics=metrics_of(found[0]), seed=seed)
            for name, found in measured.items()
        )
    )


def lined_up(entrants: Sequence[Entrant], *, reference: bool) -> tuple[list[str], list[tuple[int, int]]]:
    """Names, each once, and who is compared with whom: the first with each of the others, or the other way round."""
    given = [entrant.name for entrant in entrants]
    before = [given[:index].count(name) for index, name in enumerate(given)]
    names = [f"{name} ({count + 1})" if count else name for name, count in zip(given, before, strict=True)]
    return names, [(index, 0) if reference else (0, index) for index in range(1, len(names))]


def _measure(
    entrant: Entrant, checked: Mapping[str, Examples], kind: MeasuredKind, settings: ScoringSettings, *, generated: bool
) -> Iterator[tuple[str, Columns]]:
    """Measure a model on all sets of examples; its folder is opened once, if at all."""
    with ExitStack() as stack:
        folder = cache(lambda: stack.enter_context(entrant.folder()))
        for name, rows in checked.items():
            job = ScoringJob(
                name=entrant.name,
                identity=entrant.identity,
                folder=lambda: nullcontext(folder()),
                tokenizer_folder=entrant.tokenizer[0],
                tokenizer_identity=entrant.tokenizer[1],
                examples=rows,
                settings=settings,
            )
            yield name, measure(job, kind, Cache().root / "measured", generated=generated)


def compared(
    name: str,
    source: str,
    names: Sequence[str],
    columns: Sequence[Columns],
    *,
    pairs: Sequence[tuple[int, int]],
    metrics: Sequence[Metric],
    seed: int,
) -> ExamplesResult:
    """All models on one set of examples; conclusions are drawn from the first metric."""
    table = figures(metrics, columns, pairs, seed=seed)
    found = [
        {metric.name: figure for metric, figure in zip(metrics, column, strict=True)}
        for column in zip(*table, strict=True)
    ]
    main, direction = metrics[0].name, 1 if metrics[0].higher else -1
    return ExamplesResult(
        name=name,
        source=source,
        count=table[0][0].count,
        models=dict(zip(names, found, strict=False)),
        comparisons=tuple(
            Comparison(subject=names[one], other=names[other], figures=own, verdict=direction * own[main].sign)
            for (one, other), own in zip(pairs, found[len(names) :], strict=True)
        ),
    )

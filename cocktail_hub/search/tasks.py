"""Models on suites of known tasks, side by side: the paper's, and those of the harnesses of others."""

from __future__ import annotations

import gc
import math
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.errors import ScoringError, SourceError, did_you_mean
from cocktail_hub.evaluation.batches import release_memory
from cocktail_hub.evaluation.example_files import read_rows
from cocktail_hub.evaluation.examples import Examples
from cocktail_hub.evaluation.harnesses import LISTS, lm_eval_columns, load_cls_embedder, mteb_columns, require
from cocktail_hub.evaluation.intervals import Figure
from cocktail_hub.evaluation.loading import load_sentence_transformer
from cocktail_hub.evaluation.measure import LoadedRun, remembered
from cocktail_hub.evaluation.metrics import SUITE_METRICS, mean_of_values
from cocktail_hub.evaluation.model import ScoringRun, pick_device
from cocktail_hub.evaluation.questions import answer
from cocktail_hub.evaluation.settings import ScoringSettings
from cocktail_hub.evaluation.suites import FLAN30, MMLU_SUBJECTS, flan_tasks, mmlu_tasks
from cocktail_hub.hub.progress import bar
from cocktail_hub.recipe import as_path, is_path
from cocktail_hub.search.evaluate import Comparison, Evaluation, ExamplesResult, compared, kind_of, lined_up, reading_of
from cocktail_hub.storage.cache import Cache
from cocktail_hub.storage.disk import sha256_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from cocktail_hub.evaluation.metrics import Columns, MeasuredKind
    from cocktail_hub.hub import Hub
    from cocktail_hub.merge.options import MixOptions
    from cocktail_hub.recipe import Weighting
    from cocktail_hub.search.evaluate import Entrant

FORMAT = 1
"""Raised whenever the same model and tasks would give other numbers."""
NAMES = ("flan30", "mmlu57", "mteb", "lm_eval")
DATA = {"flan30": ("icl/icl/test.json",), "mmlu57": ("qa/mmlu/test.json", "qa/mmlu/dev.json")}
"""Suite -> its files in the llm-embedder data set: questions, and examples."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A part of a suite that is measured at once, and kept."""

    name: str
    identity: Mapping[str, Any]
    """Everything that decides the numbers, besides the model, as JSON values."""
    measure: Callable[[Any], Mapping[str, Columns]]
    """Takes what the suite loads; returns the columns of each task under `METRIC:NAME`."""


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Tasks that are known under one name."""

    name: str
    source: str
    kind: MeasuredKind
    """The kind of model that they are for."""
    load: Callable[[ScoringRun], Any]
    units: tuple[Unit, ...]
    whole: int
    """Number of tasks of the whole suite, or 0 if it is what there is."""


def open_suites(names: Sequence[str], data: str | Path | None, shots: int, hub: Hub) -> list[Suite]:
    """Find suites by their names, with their data.

    Args:
        names: `flan30` or `mmlu57`, with `:TASK,TASK` for some of their tasks; `mteb:TASK`, `mteb:retrieval15` or
            `mteb:retrieval12`, with `:TASK,TASK`, too; `lm_eval:TASK`.
        data: folder or dataset with the files of llm-embedder, for the first two; folder of further tasks of lm-eval.
        shots: examples before each question of `mmlu57` or of lm-eval.
        hub: where a dataset is.

    Raises:
        ScoringError: there is no such suite, or its data are malformed.
        SourceError: the data cannot be found.
        MissingExtraError: the library that has the tasks is not installed.
    """
    found = []
    for name in names:
        family, _, rest = name.partition(":")
        if family not in NAMES:
            raise ScoringError(
                f"There are no tasks '{name}'. {did_you_mean(family, NAMES)}\n"
                "A suite of tasks is known by its name.\nCorrect the name, or measure on `examples` of your own."
            )
        if family in ("mteb", "lm_eval"):
            found.append(harness_suite(family, rest, data, shots))
            continue
        if data is None:
            raise ScoringError(
                f"`{family}` needs its data.\nThey are not part of this package.\n"
                f"Give the folder, or a dataset on the Hub, that has {' and '.join(DATA[family])}, as `data`."
            )
        rows, source = _data_rows(family, str(data), hub, shots=shots)
        only = [task for task in rest.split(",") if task]
        if family == "flan30":
            tasks, whole = flan_tasks(rows[0], only), len(FLAN30)
        else:
            tasks, whole = mmlu_tasks(*rows, shots=shots, only=only), MMLU_SUBJECTS
        units = tuple(
            Unit(
                name=task.name,
                identity={"suite": family, "task": task.digest},
                measure=partial(lambda task, run: {f"{task.scored}:{task.name}": answer(run, task)}, task),
            )
            for task in tasks
        )
        found.append(
            Suite(
                name=name + (f", {shots} shots" if family == "mmlu57" and shots else ""),
                source=source,
                kind="decoder",
                load=partial(LoadedRun.of, task="text-generation"),
                units=units,
                whole=0 if only else whole,
            )
        )
    return found


def harness_suite(family: str, wanted: str, data: str | Path | None, shots: int) -> Suite:
    """A task, or a list of tasks, of another library."""
    if not wanted:
        raise ScoringError(
            f"`{family}` is a library of tasks.\nIts tasks are measured one by one.\n"
            f"Name one: `{'mteb:SciFact' if family == 'mteb' else 'lm_eval:mmlu'}`."
        )
    package = "mteb" if family == "mteb" else "lm-eval"
    installed = require(package, package)
    identity: dict[str, Any] = {"suite": package, "version": installed}
    if family == "mteb":
        listed, _, only = wanted.partition(":")
        as_paper, names = listed in LISTS, LISTS.get(listed, (wanted,))
        if only and as_paper:
            unknown = [name for name in only.split(",") if name not in names]
            if unknown:
                raise ScoringError(
                    f"`mteb:{listed}` has no task '{unknown[0]}'. {did_you_mean(unknown[0], names)}\n"
                    "The list is that of the paper.\nName tasks of the list, or measure another one as `mteb:TASK`."
                )
            names = tuple(only.split(","))
        load = load_cls_embedder if as_paper else partial(ScoringRun.load_with, load=load_sentence_transformer)
        measure = partial(partial, mteb_columns, as_paper=as_paper)
        identity |= {"as_paper": as_paper}
    else:
        names, load = (wanted,), partial(LoadedRun.of, task="text-generation")
        own = None if data is None else [[p.name, sha256_of(p)] for p in sorted(Path(data).rglob("*")) if p.is_file()]
        measure = partial(partial, lm_eval_columns, folder=data, shots=shots)
        identity |= {"shots": shots, "folder": own}
    return Suite(
        name=f"{family}:{wanted}" + (f", {shots} shots" if shots and family == "lm_eval" else ""),
        source=f"{package} {installed}",
        kind="encoder" if family == "mteb" else "decoder",
        load=load,
        units=tuple(Unit(name=name, identity=identity | {"task": name}, measure=measure(name)) for name in names),
        whole=0,
    )


def _data_rows(family: str, data: str, hub: Hub, *, shots: int) -> tuple[list[list[Any]], str]:
    """The rows of the files of a suite, and where they come from."""
    folder = as_path(data)
    if folder.is_dir():
        files: Any = LocalFiles(folder, any_link=True)
    elif is_path(data):
        raise SourceError(
            f"There is no folder '{data}'.\nThe tasks are read from it.\n"
            "Give an existing folder, or a dataset on the Hub such as 'org/name'."
        )
    else:
        files = hub.files(data, hub.resolve(data, None, repo_type="dataset"), repo_type="dataset")
    rows = []
    for wanted in DATA[family][: 2 if shots else 1]:
        fitting = [path for path in files.sizes if f"/{path}".endswith(f"/{wanted}")]
        if len(fitting) != 1:
            raise SourceError(
                f"'{data}' has {len(fitting)} files '{wanted}'.\n`{family}` is measured on one.\n"
                "Give the folder that the archive llm-embedder.tar.gz was unpacked to, or one with this file."
            )
        rows.append(read_rows(files.path(fitting[0])))
    return rows, f"{folder.name if folder.is_dir() else data}/{DATA[family][0]}"


def evaluate_suites(
    entrants: Sequence[Entrant],
    suites: Sequence[Suite],
    *,
    task: str,
    weighting: Weighting | None,
    reading: Mapping[str, Any],
    options: MixOptions,
    reference: bool,
    seed: int = 0,
) -> Evaluation:
    """Measure every model on every suite.

    Args:
        entrants: at least one.
        suites: what to measure.
        task: Hub task of all models.
        weighting: of the recipe, if any; it says how models read.
        reading: changes to that; without `dtype`, language models run in bfloat16 on a GPU, as in the paper.
        options: where models run.
        reference: compare each of the others with the first instead of the first with each of them.
        seed: of the intervals.

    Raises:
        ScoringError: the models are not of the kind that the tasks are for, or cannot answer a question.
    """
    for suite in suites:
        if kind_of(task) != suite.kind:
            raise ScoringError(
                f"`{suite.name}` has tasks for models of the kind {suite.kind}, but these are for {task}.\n"
                "They cannot do what is asked of them.\nMeasure them on `examples` of your own, or on other tasks."
            )
    names, pairs = lined_up(entrants, reference=reference)
    device, results = pick_device(options.scoring_device), []
    for suite in suites:
        usual = {"dtype": "bfloat16"} if suite.kind == "decoder" and device.type == "cuda" else {}  # as in the paper
        settings = ScoringSettings(
            task=task,
            weighting=reading_of(weighting, usual | dict(reading)),
            device=options.scoring_device,
            trust_remote_code=options.trust_remote_code,
        )
        with bar(suite.name, len(entrants) * len(suite.units), unit="task") as advance:
            measured = [dict(measure_suite(suite, entrant, settings, advance)) for entrant in entrants]
        units = []
        for unit in suite.units:
            parts = []
            for key in measured[0][unit.name]:
                metric, _, name = key.partition(":")
                by = SUITE_METRICS.get(metric) or mean_of_values(metric)
                columns = [own[unit.name][key] for own in measured]
                parts.append(compared(name, suite.source, names, columns, pairs=pairs, metrics=[by], seed=seed))
            units.append(mean_of_parts(unit.name, suite.source, 0, parts))
        results.append(mean_of_parts(suite.name, suite.source, suite.whole, units))
    return Evaluation(results=tuple(results))


def measure_suite(
    suite: Suite, entrant: Entrant, settings: ScoringSettings, advance: Callable[[int], object]
) -> Iterator[tuple[str, Mapping[str, Columns]]]:
    """Measure a model on a suite; it is loaded once, if at all, and every unit is kept as soon as it is done."""
    with ExitStack() as stack:

        @cache
        def model() -> Any:
            run = ScoringRun(
                name=entrant.name,
                folder=stack.enter_context(entrant.folder()),
                tokenizer_folder=entrant.tokenizer[0],
                examples=Examples(()),
                settings=settings,
                device=pick_device(settings.device),
            )
            return suite.load(run)

        for unit in suite.units:
            decisive = {"format": FORMAT, "model": entrant.identity, "tokenizer": entrant.tokenizer[1]}
            decisive |= {"unit": dict(unit.identity), "settings": settings.identity()}
            compute = partial(lambda unit: unit.measure(model()), unit)
            yield unit.name, remembered(Cache().root / "measured", decisive, entrant.name, compute)
            advance(1)
        model.cache_clear()
        gc.collect()
        release_memory()


def mean_of_parts(name: str, source: str, whole: int, parts: Sequence[ExamplesResult]) -> ExamplesResult:
    """The mean over tasks, whatever their numbers of examples, as the paper has it; `whole`: how many there are."""
    if len(parts) == 1:
        return replace(parts[0], name=name)
    count = f"{len(parts)}" + (f" of {whole}" if len(parts) < whole else "")
    metric = f"mean of {count} tasks"
    comparisons = []
    for index, first in enumerate(parts[0].comparisons):
        found = _mean_figure([next(iter(part.comparisons[index].figures.values())) for part in parts])
        comparisons.append(
            Comparison(subject=first.subject, other=first.other, figures={metric: found}, verdict=found.sign)
        )
    return ExamplesResult(
        name=name,
        source=source,
        count=sum(part.count for part in parts),
        models={
            model: {metric: _mean_figure([part.models[model][part.metric] for part in parts])}
            for model in parts[0].models
        },
        comparisons=tuple(comparisons),
        parts=tuple(parts),
    )


def _mean_figure(figures: Sequence[Figure]) -> Figure:
    """The mean of figures on different examples: what they may be off by adds up as independent errors do."""
    value = math.fsum(figure.value for figure in figures) / len(figures)
    below, above = (
        math.sqrt(math.fsum(off**2 for off in offs)) / len(figures)
        for offs in ([f.value - f.low for f in figures], [f.high - f.value for f in figures])
    )
    return Figure(value=value, low=value - below, high=value + above, count=sum(figure.count for figure in figures))

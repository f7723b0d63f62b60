"""Tasks of other people's harnesses: mteb for embedders, lm-eval for language models.

Both compute their own numbers; what is taken from them is the number of each example, because without it nothing is
known of what a figure may be off by.
"""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from cocktail_hub.errors import MissingExtraError, ScoringError
from cocktail_hub.evaluation.loading import main_folder

if TYPE_CHECKING:
    from pathlib import Path

    from cocktail_hub.evaluation.measure import LoadedRun
    from cocktail_hub.evaluation.metrics import Columns
    from cocktail_hub.evaluation.model import ScoringRun

INSTRUCTION = "Represent this sentence for searching relevant passages: "
"""What stands before a query of bge."""
_BATCH = 16
"""Texts in a batch of lm-eval, if none is given; to let it find the largest one takes longer for small models."""
_WITHOUT_INSTRUCTION = ("ArguAna", "QuoraRetrieval")
_FINE_TUNED = ("HotpotQA", "MSMARCO", "QuoraRetrieval")
"""Tasks that the paper has fine-tunes for."""
RETRIEVAL15 = (
    *("ArguAna", "ClimateFEVER", "CQADupstackRetrieval", "DBPedia", "FEVER", "FiQA2018", "HotpotQA", "MSMARCO"),
    *("NFCorpus", "NQ", "QuoraRetrieval", "SCIDOCS", "SciFact", "Touche2020", "TRECCOVID"),
)
LISTS = {
    "retrieval15": RETRIEVAL15,
    "retrieval12": tuple(name for name in RETRIEVAL15 if name not in _FINE_TUNED),
}
"""The paper's lists of tasks of mteb."""


def require(package: str, extra: str) -> str:
    """The version of an installed harness.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return version(package)
    except PackageNotFoundError as error:
        raise MissingExtraError.of(package, extra=extra, purpose="measure models on its tasks") from error


def load_cls_embedder(run: ScoringRun) -> Any:
    """A model as the paper's tables read it, whatever modules its folder has: the vector of the first token."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    with run.readable("model"):
        inner = Transformer(str(main_folder(run.folder)))
        size = inner.get_embedding_dimension()
        return SentenceTransformer(modules=[inner, Pooling(size, pooling_mode="cls")], device=str(run.device))


def mteb_columns(name: str, model: Any, *, as_paper: bool) -> dict[str, Columns]:
    """Measure an embedder on a retrieval task of mteb.

    Args:
        name: of the task; several tasks under one name are measured one by one.
        model: of sentence-transformers.
        as_paper: put bge's instruction before queries, but not before those of ArguAna and Quora; and measure MSMARCO
            on its dev split. Otherwise the model's own prompts and the task's splits count.

    Returns:
        `nDCG@10:TASK` -> `value` of each query.

    Raises:
        ScoringError: mteb has no such task, or it gives no number for each query.
    """
    import mteb

    splits = {"eval_splits": ["dev"]} if as_paper and name == "MSMARCO" else {}
    try:
        task = mteb.get_task(name, **splits)
    except (KeyError, ValueError) as error:
        raise ScoringError(
            f"mteb has no task '{name}': {error}\nThe name decides what is measured.\n"
            "Use a name of `mteb.get_tasks()`, or one of: " + ", ".join(LISTS) + "."
        ) from error
    if as_paper:
        model.prompts = {} if name in _WITHOUT_INSTRUCTION else {"query": INSTRUCTION}
    columns: dict[str, Columns] = {}
    for part in getattr(task.metadata, "tasks", None) or [task]:
        if not hasattr(part, "task_specific_scores"):
            raise ScoringError(
                f"'{name}' of mteb gives one number for all of its examples.\n"
                "Without one for each of them it is not known by how much a figure may be off.\n"
                "Use a retrieval task; or run mteb itself on the folder of `cocktail mix`."
            )
        own = part.task_specific_scores
        values: list[float] = []

        def noting(scores: Any, *args: Any, own: Any = own, values: Any = values, **kwargs: Any) -> Any:
            values.extend(float(each["ndcg_cut_10"]) for each in scores.values())
            return own(scores, *args, **kwargs)

        part.task_specific_scores = noting
        with redirect_stdout(sys.stderr):
            mteb.evaluate(model, part, cache=None, show_progress_bar=False)
        columns[f"nDCG@10:{part.metadata.name}"] = {"value": values}
    return columns


def lm_eval_columns(name: str, run: LoadedRun, *, folder: str | Path | None, shots: int) -> dict[str, Columns]:
    """Measure a language model on a task or a group of lm-eval.

    Args:
        name: of the task or group.
        run: the model.
        folder: of further tasks as YAML files (`--include_path` of lm-eval).
        shots: examples before each question; 0: as the task has it.

    Returns:
        `METRIC:TASK` -> `value` of each example, by the first metric of the task that is between 0 and 1.

    Raises:
        ScoringError: there is no such task, or it has no such metric.
    """
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=None if folder is None else str(folder))
    if name not in manager.all_tasks:
        raise ScoringError(
            f"lm-eval has no task '{name}'.\nThe name decides what is measured.\n"
            "Use a name of `lm-eval ls tasks`, or give the folder of its YAML file as `data`."
        )
    size = run.settings.weighting.batch_size or _BATCH
    lm = HFLM(pretrained=run.model, tokenizer=run.tokenizer, batch_size=size, device=str(run.device))
    with redirect_stdout(sys.stderr):  # stdout is for results
        found = simple_evaluate(
            lm, tasks=[name], num_fewshot=shots or None, task_manager=manager, bootstrap_iters=0, log_samples=True
        )
    columns: dict[str, Columns] = {}
    for task, samples in found["samples"].items():
        first = [each for each in samples if each.get("filter") == samples[0].get("filter")]
        usable = (
            metric
            for metric in first[0]["metrics"]
            if all(isinstance(value := each.get(metric), (int, float)) and 0 <= value <= 1 for each in first)
        )
        metric = next(usable, None)
        if metric is None:
            raise ScoringError(
                f"'{task}' of lm-eval has no metric that gives each example a number between 0 and 1.\n"
                "Without one it is not known by how much a figure may be off.\n"
                "Choose another task; or run lm-eval itself on the folder of `cocktail mix`."
            )
        columns[f"{metric}:{task}"] = {"value": [float(each[metric]) for each in first]}
    return columns

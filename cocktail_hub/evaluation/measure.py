"""Measure a model on examples: per example the numbers that metrics are made of."""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from cocktail_hub.errors import ScoringError
from cocktail_hub.evaluation.batches import pad_right, release_memory, run_in_batches
from cocktail_hub.evaluation.decoder import decoder_losses
from cocktail_hub.evaluation.encoder import TEMPERATURE, contrast, embed_examples
from cocktail_hub.evaluation.examples import Examples, check_examples
from cocktail_hub.evaluation.generation import generate
from cocktail_hub.evaluation.metrics import exact_match, ranking, rouge_l
from cocktail_hub.evaluation.model import ScoringRun, pick_device, token_limit
from cocktail_hub.evaluation.reranker import score_pairs
from cocktail_hub.evaluation.seq2seq import seq2seq_losses
from cocktail_hub.storage.disk import write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from cocktail_hub.evaluation.losses import Losses
    from cocktail_hub.evaluation.metrics import Columns, MeasuredKind
    from cocktail_hub.evaluation.scorer import ScoringJob

MEASURE_FORMAT = 1
"""Raised whenever the same model, examples and settings would give other numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedRun(ScoringRun):
    """A run whose model is loaded once for several passes over it."""

    tokenizer: Any
    model: Any

    @classmethod
    def of(cls, run: ScoringRun, task: str) -> LoadedRun:
        """Load the tokenizer and the model of a run, of the class for a Hub task."""
        own = {field.name: getattr(run, field.name) for field in fields(ScoringRun)}
        return cls(**own, tokenizer=run.load_tokenizer(), model=run.load_model(task))

    def load_tokenizer(self) -> Any:
        """The tokenizer."""
        return self.tokenizer

    def load_model(self, task: str, *, unused: str = "") -> Any:  # noqa: ARG002 - as in `ScoringRun`
        """The model."""
        return self.model


def measure(job: ScoringJob, kind: MeasuredKind, cache: Path, *, generated: bool = True) -> Columns:
    """Measure a model on examples, unless that was done before, and free its memory.

    Args:
        job: the model, the examples and how to read them; for classifiers the task of the settings does not matter.
        kind: of model.
        cache: folder of what was measured before.
        generated: whether language models write answers where examples have no options.

    Returns:
        The columns that `metrics_of` takes.

    Raises:
        ScoringError: the examples cannot be measured with this model.
        SourceError: the model cannot be downloaded or loaded.
    """
    decisive = {"format": MEASURE_FORMAT, "job": job.key, "kind": kind, "generated": generated}

    def compute() -> Columns:
        device = pick_device(job.settings.device)
        with job.folder() as folder:
            run = ScoringRun(
                name=job.name,
                folder=folder,
                tokenizer_folder=job.tokenizer_folder,
                examples=job.examples,
                settings=job.settings,
                device=device,
            )
            try:
                return _MEASURES[kind](run, generated)
            finally:
                gc.collect()
                release_memory()

    return remembered(cache, decisive, job.name, compute)


def remembered(
    cache: Path, decisive: Mapping[str, Any], name: str, compute: Callable[[], Mapping[str, Any]]
) -> dict[str, Any]:
    """What was computed before from the same `decisive` JSON values, else what is computed now."""
    key = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
    path = cache / key[:2] / f"{key}.json"
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        if known["key"] == key:
            return dict(known["columns"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass  # never measured, or the file is damaged
    columns = dict(compute())
    write_atomically(path, json.dumps({"key": key, "name": name, "columns": columns}), sync=False)
    return columns


def check_measured(rows: Sequence[Any], kind: MeasuredKind, *, columns: Mapping[str, str] | None = None) -> Examples:
    """Check examples that models are measured on, as `check_examples` does.

    Besides, they may have:

    - language models: beside `input`, `options` and the right one of them as `answer` or `output`, by its text or its
      index; or several right texts as `answers`.
    - classifiers: `text`, and `label` by its name or its index.

    Raises:
        ScoringError: an example lacks a key or has something else in it, or there is only one.
    """
    if len(rows) == 1:
        raise ScoringError(
            "There is one example only.\nWithout a second one it is not known by how much a figure may be off.\n"
            "Give at least 2; with less than a hundred, only large differences show."
        )
    given = columns or {}
    if kind == "classifier":
        label = given.get("label", "label")
        named = [{**row, label: str(row[label])} if isinstance(row, Mapping) and label in row else row for row in rows]
        pairs = check_examples(named, "decoder", columns={"input": given.get("text", "text"), "output": label})
        return Examples(tuple({"text": row["input"], "label": row["output"]} for row in pairs.rows))
    if kind not in ("decoder", "encoder-decoder"):
        return check_examples(rows, kind, columns=columns)
    extra = [_extra(row, index) for index, row in enumerate(rows)]
    if len({tuple(found) for found in extra}) > 1:
        raise ScoringError(
            "Some examples have `options` or `answers`, others have not.\n"
            "They are measured in different ways, so their mean says nothing.\nPut them into two files."
        )
    output = given.get("output", "output")
    whole = [{**row, output: next(iter(own.values()))[0]} if own else row for row, own in zip(rows, extra, strict=True)]
    checked = check_examples(whole, kind, columns=columns)
    return Examples(tuple({**row, **own} for row, own in zip(checked.rows, extra, strict=True)), checked.shape)


def _extra(row: Any, index: int) -> dict[str, tuple[str, ...]]:
    """The options of an example, the right one first, or its right texts; or nothing."""
    if not isinstance(row, Mapping) or not (row.get("options") or row.get("answers")):
        return {}
    key = "options" if row.get("options") else "answers"
    texts = tuple(map(str, row[key]))
    if key == "answers":
        return {"answers": texts}
    wanted = row.get("answer", row.get("output", (row.get("answers") or [None])[0]))
    place = next((place for place, text in enumerate(texts) if text == wanted), None)
    if place is None and str(wanted).isdecimal() and int(str(wanted)) < len(texts):
        place = int(str(wanted))
    if place is None or len(set(texts)) < max(len(texts), 2):
        raise ScoringError(
            f"Example {index} has the options {', '.join(map(repr, texts))} and the answer {wanted!r}.\n"
            "The answer must be one of two or more different options, or the index of one, from 0.\n"
            "Correct it, or remove the example.",
            example=index,
        )
    return {"options": (texts[place], *texts[:place], *texts[place + 1 :])}


# -- per kind of model -----------------------------------------------------------------------------------------------


def _columns(rows: Iterator[dict[str, float]] | Sequence[dict[str, float]]) -> dict[str, list[float]]:
    """One list per key of all rows."""
    listed = list(rows)
    return {key: [row[key] for row in listed] for key in listed[0]}


def _measure_encoder(run: ScoringRun, _: bool) -> Columns:
    """Rank the passages of all examples by their similarity to each query; every known positive is right."""
    found = embed_examples(run)

    def each() -> Iterator[dict[str, float]]:
        for index, (row, known, line) in enumerate(zip(found.rows, found.known, found.similarities(), strict=True)):
            positives = [found.passages.index[text] for text in dict.fromkeys(row.positives)]
            loss = contrast(line / TEMPERATURE, positives, known, index)
            yield {"loss": loss, **_ranked(line, sorted(known), run, index)}

    return _columns(each())


def _measure_reranker(run: ScoringRun, _: bool) -> Columns:
    """Rank each example's own passages, each different text once."""
    found = score_pairs(run)

    def each() -> Iterator[dict[str, float]]:
        for index, (row, scores, known) in enumerate(zip(found.rows, found.scores, found.known, strict=True)):
            loss = contrast(scores, range(len(row.positives)), known, index)
            places = {text: place for place, text in reversed(list(enumerate((*row.positives, *row.negatives))))}
            right = [new for new, place in enumerate(places.values()) if place in known]
            yield {"loss": loss, **_ranked(scores[[*places.values()]], right, run, index)}

    return _columns(each())


def _ranked(scores: torch.Tensor, right: Sequence[int], run: ScoringRun, example: int) -> dict[str, float]:
    if not bool(torch.isfinite(scores).all()):
        raise ScoringError(
            f"'{run.name}' gives a score for example {example} that is not a finite number.\n"
            "Passages cannot be ranked by it.\nCheck the weights of the model, or use `dtype: float32`.",
            model=run.name,
            example=example,
        )
    return ranking(scores.numpy(), right)


def _measure_text(run: ScoringRun, generated: bool, *, task: str, losses: Callable[[ScoringRun], Losses]) -> Columns:
    """The loss, and the choice among options, or written answers."""
    loaded = LoadedRun.of(run, task)
    columns: dict[str, list[float]] = {"loss": list(losses(loaded).per_example)}
    rows = run.examples.rows
    if "options" in rows[0]:
        columns["right"] = _choices(loaded, losses)
    elif generated:
        references = [[str(text) for text in row.get("answers", (row["output"],))] for row in rows]
        pairs = list(zip(generate(loaded, references), references, strict=True))
        columns["exact"] = [exact_match(text, right) for text, right in pairs]
        columns["rouge"] = [rouge_l(text, right[0]) for text, right in pairs]
    return columns


def _choices(run: LoadedRun, losses: Callable[[ScoringRun], Losses]) -> list[float]:
    """Per example 1 if the right option has the lowest mean loss per token, as LM-Cocktail chooses; else 0."""
    tokenizer = deepcopy(run.tokenizer)
    if not (run.settings.weighting.chat_template and tokenizer.chat_template):  # which writes the end of a turn itself
        tokenizer.eos_token = None  # an option is judged by its own tokens
    options = [(row["input"], text) for row in run.examples.rows for text in row["options"]]
    rows = tuple({"input": source, "output": text} for source, text in options)
    found = iter(losses(replace(run, examples=Examples(rows), tokenizer=tokenizer)).per_example)
    each = [[next(found) for _ in row["options"]] for row in run.examples.rows]
    return [float(right < min(wrong)) for right, *wrong in each]


def _measure_classifier(run: ScoringRun, _: bool) -> Columns:
    """The label with the highest logit."""
    tokenizer, model = run.load_tokenizer(), run.load_model("text-classification")
    names = {int(key): str(name) for key, name in model.config.id2label.items()}
    labels = [_label(str(row["label"]), names, run, index) for index, row in enumerate(run.examples.rows)]
    limit = token_limit(model, tokenizer, run.settings)
    cutting = {"truncation": True, "max_length": limit} if limit else {}
    rows = [dict(tokenizer(row["text"], verbose=False, **cutting)) for row in run.examples.rows]
    for index, row in enumerate(rows):
        run.check_ids(row["input_ids"], model, index)

    # A classifier that does not know the tokenizer's padding cannot find the end of a padded text.
    pad = model.config.get_text_config().pad_token_id
    known = pad is not None and pad == tokenizer.pad_token_id

    @torch.inference_mode()
    def forward(batch: Sequence[int]) -> list[int]:
        fill = {"input_ids": pad or 0, "token_type_ids": tokenizer.pad_token_type_id}
        found = []
        for part in [batch] if known else [[index] for index in batch]:
            logits = model(**pad_right([rows[index] for index in part], fill, run.device)).logits
            found += [int(best) for best in logits.argmax(dim=-1)]
        return found

    best = run_in_batches([len(row["input_ids"]) for row in rows], forward, run)
    predicted = [names[index] for index in best]
    right = [float(found == label) for found, label in zip(predicted, labels, strict=True)]
    return {"right": right, "label": labels, "predicted": predicted}


def _label(given: str, names: Mapping[int, str], run: ScoringRun, example: int) -> str:
    """The name of a label that is given by its name or its index."""
    if given in names.values():
        return given
    if given.isdecimal() and int(given) in names:
        return names[int(given)]
    raise ScoringError(
        f"The label of example {example} is '{given}', which '{run.name}' does not have.\n"
        "No text can be given this label, so the example would always be wrong.\n"
        f"Write one of: {', '.join(names.values())}; or its index, from 0.",
        model=run.name,
        example=example,
    )


_MEASURES: Mapping[MeasuredKind, Callable[[ScoringRun, bool], Columns]] = {
    "encoder": _measure_encoder,
    "reranker": _measure_reranker,
    "decoder": partial(_measure_text, task="text-generation", losses=decoder_losses),
    "encoder-decoder": partial(_measure_text, task="text2text-generation", losses=seq2seq_losses),
    "classifier": _measure_classifier,
}

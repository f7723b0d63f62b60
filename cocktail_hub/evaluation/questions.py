"""Language models answer questions: they choose among options, or write."""

from __future__ import annotations

import inspect
import math
from collections import defaultdict
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import cross_entropy

from cocktail_hub.errors import ScoringError
from cocktail_hub.evaluation.batches import pad_right, run_in_batches
from cocktail_hub.evaluation.decoder import LOGITS_PER_TOKEN
from cocktail_hub.evaluation.generation import continued
from cocktail_hub.evaluation.metrics import exact_match, rouge_l_of_words
from cocktail_hub.evaluation.model import position_limit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cocktail_hub.evaluation.measure import LoadedRun
    from cocktail_hub.evaluation.metrics import Columns
    from cocktail_hub.evaluation.suites import LanguageTask

NEW_TOKENS = 64
"""Most tokens of a written answer."""


def answer(run: LoadedRun, task: LanguageTask) -> Columns:
    """Put the questions of a task to a model.

    Returns:
        `label` and `predicted` (indices of options as text) and `right` for a choice; else `written`, and `exact` or
        `rouge`; one value per question.

    Raises:
        ScoringError: an option has no token of its own, a loss is not finite, or memory is too small.
    """
    questions = task.questions
    if questions[0].options:
        predicted, labels = choose(run, task), [question.answers[0] for question in questions]
        right = [float(found == label) for found, label in zip(predicted, labels, strict=True)]
        return {"right": right, "label": labels, "predicted": predicted}
    written = write(run, task)
    pairs = zip(written, questions, strict=True)
    if task.scored == "exact match":
        return {"exact": [exact_match(text, question.answers) for text, question in pairs], "written": written}
    return {"rouge": [rouge_l_of_words(text, question.answers[0]) for text, question in pairs], "written": written}


def choose(run: LoadedRun, task: LanguageTask) -> list[str]:
    """Per question the index of the option whose tokens have the lowest mean loss; of equal ones the first.

    The tokens of an option are the last of the whole text, as many as it has by itself. What stands before the last one
    goes through the model once for all options of a question that differ in it alone, such as the letters of MMLU.
    """
    tokenizer = run.tokenizer

    def count(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) if text else 0

    each = [(index, one, option) for index, one in enumerate(task.questions) for option in one.options]
    rows = _tokenized(run, [one.prompt + option for _, one, option in each], _limit(run, task))
    counts = {key: count("".join(key)) - count(key[0]) for key in {(one.seam, option) for _, one, option in each}}
    wanted: dict[tuple[int, ...], list[tuple[int, int]]] = defaultdict(list)  # read -> text, number of its tokens
    for index, (ids, (owner, one, option)) in enumerate(zip(rows, each, strict=True)):
        own = counts[one.seam, option]
        if not 0 < own < len(ids):
            raise ScoringError(
                f"'{run.name}' cannot choose in question {owner} of '{task.name}': its option {option!r} has {own} of "
                f"{len(ids)} tokens.\nAn option is judged by the loss of its tokens, which stand after others.\n"
                "Correct the question, or leave the task out.",
                model=run.name,
                example=owner,
            )
        wanted[tuple(ids[:-1])].append((index, own))
    read = list(wanted)
    keeps = "logits_to_keep" in inspect.signature(run.model.forward).parameters

    @torch.inference_mode()
    def forward(batch: Sequence[int]) -> list[list[tuple[int, float]]]:
        inputs = [read[index] for index in batch]
        padded = pad_right([{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in inputs], {}, run.device)
        length = padded["input_ids"].shape[1]
        kept = length - min(len(ids) - count for ids in inputs for _, count in wanted[ids])
        logits = run.model(**padded, **({"logits_to_keep": kept} if keeps else {})).logits[:, -kept:]
        found = []
        for row, ids in zip(logits, inputs, strict=True):
            end, losses = len(ids) - (length - kept), []
            for index, count in wanted[ids]:
                targets = torch.tensor(rows[index][-count:], device=run.device)
                losses.append((index, float(cross_entropy(row[end - count : end].float(), targets))))
            found.append(losses)
        return found

    cost = max(1, run.model.config.get_text_config().vocab_size // LOGITS_PER_TOKEN)
    first = [each[wanted[ids][0][0]][0] for ids in read]
    found = dict(chain.from_iterable(run_in_batches([len(ids) * cost for ids in read], forward, run, owners=first)))
    losses: dict[int, list[float]] = defaultdict(list)
    for index, (owner, _, _) in enumerate(each):
        losses[owner].append(found[index])
    for owner, those in losses.items():
        if not all(map(math.isfinite, those)):
            raise ScoringError(
                f"'{run.name}' has a loss in question {owner} of '{task.name}' that is not a finite number.\n"
                "Options cannot be compared by it.\nCheck the weights of the model, or use `dtype: float32`.",
                model=run.name,
                example=owner,
            )
    return [str(those.index(min(those))) for those in losses.values()]


def write(run: LoadedRun, task: LanguageTask) -> list[str]:
    """Per question what the model writes: greedily, up to the token of a line break, at most 64 tokens.

    As in the original, nothing else ends an answer (but where no token stands for a line break); special tokens are
    left out of it.
    """
    limit = _limit(run, task)
    prompts = _tokenized(run, [q.prompt for q in task.questions], None if limit is None else max(1, limit - NEW_TOKENS))
    stop = next(reversed(run.tokenizer("\n", add_special_tokens=False)["input_ids"]), None)
    new = continued(run, prompts, NEW_TOKENS, end=stop)
    kept = [row[: row.index(stop)] if stop in row else row for row in new]
    return [str(text).strip() for text in run.tokenizer.batch_decode(kept, skip_special_tokens=True)]


def _limit(run: LoadedRun, task: LanguageTask) -> int | None:
    """The most tokens of a text."""
    limits = (task.max_tokens, run.settings.weighting.max_length, position_limit(run.model))
    return min((limit for limit in limits if limit is not None), default=None)


def _tokenized(run: LoadedRun, texts: Sequence[str], limit: int | None) -> list[list[int]]:
    """Tokens of each text without an end; one that is too long loses its beginning, but for a token that begins all."""
    tokenizer: Any = run.tokenizer
    found = []
    for ids in tokenizer(list(texts), verbose=False)["input_ids"]:
        while len(ids) > 1 and ids[-1] == tokenizer.eos_token_id:
            ids.pop()
        head = ids[:1] if ids[:1] == [tokenizer.bos_token_id] else []
        cut = len(ids) if limit is None else min(len(ids), limit)
        run.check_ids(ids, run.model)
        found.append(ids if cut == len(ids) else head + ids[len(ids) - max(cut - len(head), 0) :])
    return found

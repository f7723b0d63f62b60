"""The language tasks that LM-Cocktail was measured on: their files, and what is asked of a model. Pure: no models.

The protocol is that of FlagEmbedding at 7ed43d6 (`research/llm_embedder/evaluation`), which made the tables of the
paper, and the files have its format.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal

from cocktail_hub.errors import ScoringError, did_you_mean

Scored = Literal["accuracy", "F1", "exact match", "ROUGE-L"]
"""What is computed from the answers to a task. The first two are choices, the others are written."""

FLAN30: Mapping[str, Scored] = MappingProxyType(
    {
        **dict.fromkeys(("arc_c", "arc_e"), "accuracy"),
        "natural_questions": "exact match",
        **dict.fromkeys(
            ("copa", "hellaswag", "piqa", "winogrande", "wsc", "wsc273", "mrpc", "paws", "qqp"), "accuracy"
        ),
        **dict.fromkeys(("rte", "snli", "mnli_m", "mnli_mm", "qnli"), "accuracy"),
        "multirc": "F1",
        **dict.fromkeys(("openbookqa", "boolq"), "accuracy"),
        "squad_v1": "exact match",
        **dict.fromkeys(("sentiment140", "sst2", "yelp"), "accuracy"),
        **dict.fromkeys(("common_gen", "e2e_nlg", "dart", "aeslc"), "ROUGE-L"),
        "ag_news": "accuracy",
        "gigaword": "ROUGE-L",
    }
)
"""The 30 tasks of FLAN, and how each is scored."""
MMLU_SUBJECTS = 57
MMLU_TOKENS = 2048
"""Longer questions lose their beginning."""
_LETTERS = "ABCD"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a model is asked."""

    prompt: str
    """The text before the answer."""
    answers: tuple[str, ...]
    """The right texts; for a choice, the index of the right option as text."""
    options: tuple[str, ...] = ()
    """Texts that may follow the prompt; of them the one with the lowest mean loss is chosen."""
    seam: str = ""
    """An option has as many tokens as it adds to this text."""


@dataclass(frozen=True, kw_only=True)
class LanguageTask:
    """Questions of one kind."""

    name: str
    scored: Scored
    questions: tuple[Question, ...]
    max_tokens: int | None = None
    """A longer prompt loses its beginning; `None`: only where it is too long for the model."""

    @cached_property
    def digest(self) -> str:
        """Sha256 of everything that is asked, and how it is scored."""
        shown = [self.scored, self.max_tokens, [asdict(question) for question in self.questions]]
        return hashlib.sha256(json.dumps(shown).encode()).hexdigest()


def flan_tasks(rows: Sequence[Any], only: Sequence[str] = ()) -> tuple[LanguageTask, ...]:
    """The tasks of `icl/icl/test.json`.

    Args:
        rows: `{"task_name": str, "query": str, "answers": [str], "options": [str]}`; other tasks are left out.
        only: names of the wanted tasks; empty for all that are there.

    Raises:
        ScoringError: a row is malformed, or a wanted task is not there.
    """
    found: dict[str, list[Question]] = defaultdict(list)
    for number, row in enumerate(rows, start=1):
        name = _value(row, "task_name", str, number)
        if name not in FLAN30 or (only and name not in only):
            continue
        query, *answers = (
            re.sub(" {2,}", " ", text) for text in (_value(row, "query", str, number), *_texts(row, "answers", number))
        )
        if FLAN30[name] in ("exact match", "ROUGE-L"):
            found[name].append(Question(prompt=query + "\n", answers=tuple(answers)))
            continue
        options = _texts(row, "options", number)
        if answers[0] not in map(str, range(len(options))) or not all(options):
            raise _malformed(number, f"the answer {answers[0]!r} to {len(options)} options, of which none may be empty")
        found[name].append(Question(prompt=query + "\n ", answers=(answers[0],), options=options))
    return _tasks(found, FLAN30, only, None)


def mmlu_tasks(
    rows: Sequence[Any], examples: Sequence[Any] = (), *, shots: int = 0, only: Sequence[str] = ()
) -> tuple[LanguageTask, ...]:
    """The subjects of `qa/mmlu/test.json`.

    Args:
        rows: `{"query": str, "choices": [str] * 4, "answer": int, "subject": str}`.
        examples: of `dev.json`, in the same form.
        shots: how many of them, of the same subject, stand before each question; as many as there are, if fewer.
        only: names of the wanted subjects; empty for all that are there.

    Raises:
        ScoringError: a row is malformed, or a wanted subject is not there.
    """
    shown: dict[str, list[str]] = defaultdict(list)
    for number, row in enumerate(examples, start=1):
        subject, query, choices, right = _mmlu(row, number)
        shown[subject].append(f"{query}{choices} {right}\n\n")
    found: dict[str, list[Question]] = defaultdict(list)
    for number, row in enumerate(rows, start=1):
        subject, query, choices, right = _mmlu(row, number)
        head = f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}.\n\n"
        found[subject].append(
            Question(
                prompt=head + "".join(shown[subject][:shots]) + query.strip() + choices,
                answers=(str(_LETTERS.index(right)),),
                options=tuple(f" {letter}" for letter in _LETTERS),
                seam="Answer:",
            )
        )
    return _tasks(found, dict.fromkeys(found, "accuracy"), only, MMLU_TOKENS)


def _mmlu(row: Any, number: int) -> tuple[str, str, str, str]:
    """Subject, question, the text from there up to the answer, and the letter of the right one."""
    choices, right = _texts(row, "choices", number), _value(row, "answer", int, number)
    if len(choices) != len(_LETTERS) or right not in range(len(_LETTERS)):
        raise _malformed(number, f"{len(choices)} choices and the answer {right}, not 4 and one of 0 to 3")
    lines = "".join(f"\n{letter}. {choice}" for letter, choice in zip(_LETTERS, choices, strict=True))
    subject, query = (_value(row, key, str, number) for key in ("subject", "query"))
    return subject, query, f"{lines}\nAnswer:", _LETTERS[right]


def _tasks(
    found: Mapping[str, Sequence[Question]], scored: Mapping[str, Scored], only: Sequence[str], max_tokens: int | None
) -> tuple[LanguageTask, ...]:
    """Tasks in the order of `scored`."""
    missing = [name for name in only if name not in found]
    if missing or not found:
        what = f"'{missing[0]}'" if missing else "any task that is known here"
        raise ScoringError(
            f"The data have no question of {what}.\nA task is known by the name that its questions have.\n"
            + (did_you_mean(missing[0], scored) if missing and scored else "Name the folder of the tasks with `data`.")
        )
    wanted = [name for name in scored if name in (only or found)]
    for name in wanted:
        if len(found[name]) == 1:
            raise ScoringError(
                f"The task '{name}' has one question only.\nWithout a second one it is not known by how much a figure "
                "may be off.\nGive the whole data, or name the tasks that you want."
            )
    return tuple(
        LanguageTask(name=name, scored=scored[name], questions=tuple(found[name]), max_tokens=max_tokens)
        for name in wanted
    )


def _texts(row: Any, key: str, number: int) -> tuple[str, ...]:
    values = _value(row, key, list, number)
    if not values or not all(isinstance(text, str) for text in values):
        raise _malformed(number, f"`{key}` {values!r}, which is not a list of texts")
    return tuple(values)


def _value(row: Any, key: str, kind: type, number: int) -> Any:
    value = row.get(key) if isinstance(row, Mapping) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        raise _malformed(number, f"`{key}` {value!r}, which is no {kind.__name__}")
    return value


def _malformed(number: int, what: str) -> ScoringError:
    return ScoringError(
        f"Row {number} of the task data has {what}.\nFigures would not be those of the task.\n"
        "Use the files of the llm-embedder data set, or write yours like them (docs/evaluation.md)."
    )

"""How well an embedder finds the right answer: two small question sets, and two scores."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

SETS = {"general": "everyday words", "sre": "terms of site reliability engineering"}
"""Name of a question set -> what it asks for. Each has 40 short descriptions, each of one term."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A description, and the term that it describes."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How well the answers of one set were found, among the answers of all sets."""

    top1: float
    """Share of the questions whose own answer comes first, in [0, 1]."""
    mrr: float
    """Mean of 1 / rank of the own answer, in (0, 1]."""


def read_questions() -> dict[str, list[Question]]:
    """Both sets, by name."""
    folder = files("cocktail_hub.cli.demo").joinpath("data")
    lines = {name: folder.joinpath(f"{name}.jsonl").read_text(encoding="utf-8").splitlines() for name in SETS}
    return {name: [Question(**json.loads(line)) for line in found] for name, found in lines.items()}


def score(model: Any, sets: Mapping[str, list[Question]]) -> dict[str, Score]:
    """Score an embedder on every set. The answers of all sets are candidates for every question.

    Args:
        model: a SentenceTransformer.
        sets: name -> questions.

    Returns:
        Name of the set -> its scores.
    """
    pool = [item.answer for items in sets.values() for item in items]
    answers = _embed(model, pool)
    return {
        name: _score(_embed(model, [i.question for i in items]) @ answers.T, [pool.index(i.answer) for i in items])
        for name, items in sets.items()
    }


def _embed(model: Any, texts: list[str]) -> np.ndarray[Any, Any]:
    """Unit vectors, shape `(len(texts), dimensions)`, float64."""
    vectors = np.asarray(model.encode(texts, show_progress_bar=False), dtype=np.float64)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def _score(similarities: np.ndarray[Any, Any], own: list[int]) -> Score:
    """Scores from cosines of shape `(questions, candidates)` and the column of each question's own answer."""
    right = similarities[np.arange(len(own)), own]
    ranks = 1 + (similarities > right[:, None]).sum(axis=1)
    return Score(top1=float((ranks == 1).mean()), mrr=float((1 / ranks).mean()))

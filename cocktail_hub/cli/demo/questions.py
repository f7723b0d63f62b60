"""Two small question sets, and how well an embedder finds their answers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

SETS = {"general": "everyday words", "sre": "terms of site reliability engineering"}
"""Name of a question set -> its topic. Each has 40 short descriptions, each of one term."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A description and the term that it describes."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Retrieval scores of one set, with the answers of all sets as candidates."""

    top1: float
    """Fraction of the questions whose own answer comes first, in [0, 1]."""
    mrr: float
    """Mean of 1 / rank of the own answer, in (0, 1]."""


def read_questions() -> dict[str, list[Question]]:
    """Return name -> questions."""
    folder = files("cocktail_hub.cli.demo").joinpath("data")
    lines = {name: folder.joinpath(f"{name}.jsonl").read_text(encoding="utf-8").splitlines() for name in SETS}
    return {name: [Question(**json.loads(line)) for line in found] for name, found in lines.items()}


def score(model: Any, sets: Mapping[str, list[Question]]) -> dict[str, Score]:
    """Score a `SentenceTransformer` on every set, with the answers of all sets as candidates for every question."""
    pool = [item.answer for items in sets.values() for item in items]
    answers = _embed(model, pool)
    found = {}
    for name, items in sets.items():
        cosines = _embed(model, [item.question for item in items]) @ answers.T  # (questions, candidates)
        own = cosines[np.arange(len(items)), [pool.index(item.answer) for item in items]]
        ranks = 1 + (cosines > own[:, None]).sum(axis=1)
        found[name] = Score(top1=float((ranks == 1).mean()), mrr=float((1 / ranks).mean()))
    return found


def _embed(model: Any, texts: list[str]) -> np.ndarray[Any, Any]:
    """Unit vectors, shape `(len(texts), dimensions)`, float64."""
    vectors = np.asarray(model.encode(texts, show_progress_bar=False), dtype=np.float64)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))

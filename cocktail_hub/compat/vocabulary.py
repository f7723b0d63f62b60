"""Do two tokenizers give each token the same id? Compared from their files, without loading them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from cocktail_hub.errors import IncompatibleError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cocktail_hub.checkpoint.files import RepoFiles

_FAST_FILE = "tokenizer.json"
_SLOW_FILES = ("vocab.txt", "vocab.json", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model")
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The vocabulary of a tokenizer, as one of its files has it."""

    name: str
    """The ingredient, for messages."""
    path: str
    """Path of the file in the repository; empty when there is none."""
    text: bytes
    """Content of the file."""

    @cached_property
    def tokens(self) -> tuple[Mapping[int, str], Mapping[int, str]] | None:
        """The model's own tokens and the added ones (special tokens among them), by id.

        `None` where the file cannot be taken apart: sentencepiece, or a vocabulary for each of several languages.

        Raises:
            IncompatibleError: the file is damaged.
        """
        file = PurePosixPath(self.path)
        if file.suffix == ".txt":  # only a newline ends a token, which may contain any other line break
            lines = self.text.decode("utf-8", errors="replace").replace("\r\n", "\n").removesuffix("\n").split("\n")
            return dict(enumerate(lines)), {}
        if file.suffix != ".json":
            return None
        try:
            data = json.loads(self.text)
            if file.name == _FAST_FILE:
                vocab, listed = data["model"].get("vocab") or {}, data.get("added_tokens") or ()
            else:
                vocab, listed = data, ()
            if file.name != _FAST_FILE and any(isinstance(number, dict) for number in vocab.values()):
                return None
            added = {int(token["id"]): str(token["content"]) for token in listed}
            # a unigram model lists pairs of token and score
            pairs = vocab.items() if isinstance(vocab, dict) else ((entry[0], n) for n, entry in enumerate(vocab))
            return {int(n): str(token) for token, n in pairs if int(n) not in added}, added
        except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
            raise IncompatibleError(
                f"'{self.path}' of '{self.name}' is damaged: {error!r}.\n"
                "Without it the vocabularies cannot be compared.\nDownload or save the tokenizer again.",
                model=self.name,
            ) from error


def find_vocabulary(files: RepoFiles, folder: str = "") -> Vocabulary:
    """Find `tokenizer.json`, or else an older vocabulary file, in the transformer's folder."""
    for name in (_FAST_FILE, *_SLOW_FILES):
        path = str(PurePosixPath(folder, name))
        if path in files.sizes:
            return Vocabulary(name=files.name, path=path, text=files.read(path))
    return Vocabulary(name=files.name, path="", text=b"")


def compare(first: Vocabulary, other: Vocabulary) -> list[str]:
    """Refuse vocabularies that give the same id to different tokens.

    Returns:
        One sentence for each difference that does not spoil the mix but is worth knowing.

    Raises:
        IncompatibleError: an id belongs to different tokens, or a file is damaged.
    """
    same_file = PurePosixPath(first.path).name == PurePosixPath(other.path).name
    if same_file and first.text == other.text:  # fine-tuning seldom changes the tokenizer
        return []
    if not first.path or not other.path:
        lacking = other if first.path else first
        return [f"'{lacking.name}' has no tokenizer files, so its vocabulary could not be compared."]
    if first.tokens is None or other.tokens is None:
        if same_file:
            raise _different(first, other, f"their '{PurePosixPath(first.path).name}' differ")
        files = f"'{first.name}' ({first.path}) and '{other.name}' ({other.path})"
        return [f"The vocabularies of {files} have different formats and were not compared."]
    tokens, added = first.tokens
    mine, theirs = {**tokens, **added}, {**other.tokens[0], **other.tokens[1]}
    if moved := [n for n, token in tokens.items() if theirs.get(n, token) != token]:
        shown = ", ".join(f"{n} is {mine[n]!r} and {theirs[n]!r}" for n in moved[:_SHOWN])
        raise _different(first, other, f"{len(moved)} ids belong to different tokens ({shown})")
    notes = []
    if renamed := [n for n, token in added.items() if theirs.get(n, token) != token]:
        shown = ", ".join(f"{n}: {mine[n]!r} / {theirs[n]!r}" for n in renamed[:_SHOWN])
        notes.append(f"'{other.name}' has different names for {len(renamed)} added tokens ({shown}).")
    if extra := [n for n in theirs if n not in mine]:
        shown = ", ".join(repr(theirs[n]) for n in extra[:_SHOWN])
        notes.append(f"'{other.name}' has {len(extra)} tokens that the tokenizer of the mix lacks ({shown}).")
    if missing := [n for n in mine if n not in theirs]:
        shown = ", ".join(repr(mine[n]) for n in missing[:_SHOWN])
        notes.append(f"'{other.name}' lacks {len(missing)} tokens of the mix ({shown}); it never learnt them.")
    return notes


def _different(first: Vocabulary, other: Vocabulary, what: str) -> IncompatibleError:
    return IncompatibleError(
        f"Cannot mix '{other.name}' with '{first.name}': different vocabularies, {what}.\n"
        "A row of the embeddings would be the average of two unrelated tokens.\n"
        f"Remove '{other.name}' from `ingredients`, or choose a model fine-tuned from the same base.",
        model=other.name,
    )

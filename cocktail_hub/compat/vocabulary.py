"""Do two tokenizers give each token the same id? Compared from their files, without loading them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from cocktail_hub.errors import IncompatibleError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cocktail_hub.checkpoint.files import RepoFiles
    from cocktail_hub.resolve.resolve import ResolvedModel

_FAST_FILE = "tokenizer.json"
_SLOW_FILES = ("vocab.txt", "vocab.json", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model")
_SHOWN = 3
# fmt: off
FILE_GROUPS: Mapping[str, tuple[str, ...]] = {
    "generation": ("generation_config.json",),
    "template": ("chat_template*",),
    "processor": ("*processor_config.json",),
    "tokenizer": (
        "tokenizer*", "vocab*", "merges.txt", "*.codes", "*.tokenizer", "*_vocab.json", "dict.txt", "emoji.json",
        "byte_maps.json", "word_*.json", "tekken.json", "special_tokens_map.json", "added_tokens.json", "*.model",
        "*.spm", "*.tiktoken", "*.bpe", "normalizer.json",
    ),
}
# fmt: on
"""Group of files that one model gives as a whole -> patterns of their names. The first group that matches counts."""
SETTINGS = "tokenizer_config.json"
_NO_VOCABULARY = (SETTINGS, "special_tokens_map.json", "added_tokens.json")
"""Tokenizer files that are of use only beside a vocabulary. (Tokenizers over bytes have no other.)"""


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


def group_of(path: str) -> str:
    """The group of small files that a path belongs to; empty for one that is in none of FILE_GROUPS."""
    file = PurePosixPath(path)
    if file.parent.name.endswith("chat_templates"):
        return "template"
    return next((group for group, names in FILE_GROUPS.items() if any(fnmatchcase(file.name, n) for n in names)), "")


def giver(group: str, candidates: Sequence[ResolvedModel]) -> ResolvedModel | None:
    """The first of the candidates that has the group's files; for a tokenizer, best one with a vocabulary.

    A chat template may also be an entry of tokenizer_config.json.
    """
    if group == "template":
        return next((model for model in candidates if template_files(model) or inner_template(model)), None)
    names = [
        {PurePosixPath(path).name for path in model.model_files.carried if group_of(path) == group}
        for model in candidates
    ]
    for useless in (_NO_VOCABULARY, ()):
        for model, found in zip(candidates, names, strict=True):
            if found.difference(useless):
                return model
    return None


def template_files(model: ResolvedModel) -> list[str]:
    """Paths of the files with chat templates."""
    return [path for path in model.model_files.carried if group_of(path) == "template"]


def inner_template(model: ResolvedModel) -> dict[str, str]:
    """The chat templates in tokenizer_config.json, by name."""
    found = _read_object(model.files, str(PurePosixPath(model.model_files.main, SETTINGS))).get("chat_template")
    if isinstance(found, str):
        return {"default": found}
    entries = [entry for entry in found or () if isinstance(entry, dict)]
    named = {str(entry.get("name")): str(entry.get("template")) for entry in entries}
    return {name: text for name, text in named.items() if name.replace("-", "_").isidentifier()}  # names become files


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


def _read_object(files: RepoFiles, path: str) -> dict[str, Any]:
    """A small JSON mapping; empty where the file is missing."""
    if path not in files.sizes:
        return {}
    try:
        return dict(json.loads(files.read(path)))
    except (ValueError, TypeError, RecursionError) as error:
        raise IncompatibleError(
            f"'{path}' of '{files.name}' is damaged: {error!r}.\n"
            "Without it the tokenizer of the mix is unknown.\nDownload or save the tokenizer again.",
            model=files.name,
        ) from error

"""Do two tokenizers give each token the same id? Compared from their files, without loading them."""

from __future__ import annotations

import gc
import json
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from hashlib import sha256
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from cocktail_hub.checkpoint.adapters.lora import AdaptedWeights
from cocktail_hub.checkpoint.conversion.align import vocabulary_size
from cocktail_hub.checkpoint.files import read_settings
from cocktail_hub.errors import IncompatibleError
from cocktail_hub.storage.disk import LARGEST_SETTINGS, require_small

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from cocktail_hub.checkpoint.files import RepoFiles
    from cocktail_hub.checkpoint.weight_files import WeightFiles
    from cocktail_hub.compat.pieces import Pieces
    from cocktail_hub.resolve.resolve import ResolvedModel

_FAST_FILE = "tokenizer.json"
_SLOW_FILES = ("vocab.txt", "vocab.json", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model")
_WORD_FILES = ("whitespacetokenizer_config.json", "phrasetokenizer_config.json")
"""Words in the order of their rows: WordEmbeddings of sentence-transformers."""
_WRAPPED = re.compile(r"[<\[{].+[>\]}]")
"""Names of tokens that no text is learnt to be split into, such as `<pad>`."""
_SPARE = re.compile(
    r"(?=[<\[{].+[>\]}]$|.*\d$).*(reserved|unused|not_used|dummy|placeholder|madeup|(control|special)_?\d)",
    re.IGNORECASE,
)
"""Names of tokens that a base keeps for fine-tuning to rename: in brackets or numbered, for `reserved` is a word."""
_EMBEDDINGS = re.compile(
    r"(^|[._])(word_embeddings|embed_tokens|wte|embed_in|tok_embeddings|shared|embeddings?)\.weight$"
)
"""Names of a matrix with a row for each token."""
MOST_VALUES = 4_000_000
"""Values in a vocabulary: twice those of 260,000 tokens and 580,000 pairs, and read in 500 MB."""
_ADDED_ID = re.compile(rb'"id":\s*(\d{1,18})')
"""In a tokenizer.json, of an added token."""
SHOWN = 3
"""Tokens in a sentence."""
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
    declared: Mapping[int, str] = field(default_factory=dict)
    """Added tokens by id, according to tokenizer_config.json and added_tokens.json."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What other files say of how text is split: `merges`, and hashes of other files."""

    @cached_property
    def tokens(self) -> tuple[Mapping[int, str], Mapping[int, str]] | None:
        """The model's own tokens and the added ones (special tokens among them), by id.

        `None` where the file cannot be taken apart: a vocabulary for each of several languages, or another format.
        The ids of sentencepiece are positions in its file, which some tokenizers move by a constant.

        Raises:
            IncompatibleError: the file is damaged.
        """
        file = PurePosixPath(self.path)
        if self.pieces:
            return self.pieces.learnt, self.pieces.special
        values = sum(map(self.text.count, (b"\n",) if file.suffix == ".txt" else (b",", b"[", b"{")))
        if values > MOST_VALUES:
            problem = ValueError(f"it has about {values:,} values, and no real one more than {MOST_VALUES:,}")
            raise _damaged(self.name, self.path, problem)
        if file.suffix == ".txt":  # only a newline ends a token, which may contain any other line break
            lines = self.text.decode("utf-8", errors="replace").replace("\r\n", "\n").removesuffix("\n").split("\n")
            return dict(enumerate(lines)), {}
        if file.suffix != ".json":
            return None
        try:
            data = self._data
            listed: Sequence[Any] = ()
            if file.name == _FAST_FILE:
                vocab, listed = data["model"].get("vocab") or {}, data.get("added_tokens") or ()
            else:
                vocab = data["vocab"] if file.name in _WORD_FILES else data
                if isinstance(vocab, dict) and any(isinstance(number, dict) for number in vocab.values()):
                    return None
            added = {int(token["id"]): str(token["content"]) for token in listed}
            if isinstance(vocab, dict):
                learnt = dict(zip(map(int, vocab.values()), vocab, strict=True))
            else:  # a unigram model lists pairs of token and score
                learnt = dict(enumerate(entry if isinstance(entry, str) else str(entry[0]) for entry in vocab))
            _require_ids(learnt, added)
            for number in added:
                learnt.pop(number, None)
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError) as error:
            raise _damaged(self.name, self.path, error) from error
        return learnt, added

    @cached_property
    def pieces(self) -> Pieces | None:
        """The content of a sentencepiece model; `None` for another file."""
        if PurePosixPath(self.path).suffix != ".model":
            return None
        from cocktail_hub.compat.pieces import read_pieces

        return read_pieces(self.text)

    @cached_property
    def _data(self) -> Any:
        collecting = gc.isenabled()
        gc.disable()  # with half a million lists, looking for garbage takes as long as reading
        try:
            return json.loads(self.text)
        finally:
            if collecting:
                gc.enable()

    @cached_property
    def known(self) -> Mapping[int, str]:
        """Every token by id, as far as the files tell."""
        tokens, added = self.tokens or ({}, {})
        return {**self.declared, **tokens, **added}

    @cached_property
    def splitting(self) -> Mapping[str, Any]:
        """How text becomes tokens, apart from the vocabulary: merges, normaliser, special tokens around it."""
        if self.pieces:
            return {**self.settings, "scores": self.pieces.scores, "normalizer": self.pieces.normalizer}
        if PurePosixPath(self.path).name != _FAST_FILE or self.tokens is None:
            return self.settings
        try:
            model = self._data["model"]  # older files leave settings out, or have a text for each merge
            found = {key: how or None for key, how in model.items() if key not in ("type", "vocab", "merges")}
            if (merges := model.get("merges")) is not None:
                found["merges"] = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in merges]
            if isinstance(vocab := model.get("vocab"), list):
                found["scores"] = [entry[1:] for entry in vocab]
            added = self._data.get("post_processor") or {}
            if added.get("type") == "Sequence":
                added = next((part for part in added["processors"] if part["type"] != "ByteLevel"), {})
            if added.get("type") != "ByteLevel":  # which trims offsets only
                found["post_processor"] = added or None
        except (TypeError, LookupError, AttributeError) as error:
            raise _damaged(self.name, self.path, error) from error
        return {**found, **{key: self._data.get(key) for key in ("normalizer", "pre_tokenizer")}}

    def same(self, other: Vocabulary) -> bool:
        """Whether the files are the same, without parsing them: fine-tuning seldom changes the tokenizer."""
        return (
            PurePosixPath(self.path).name == PurePosixPath(other.path).name
            and self.text == other.text
            and self.declared == other.declared
            and self.settings == other.settings
        )


def _require_ids(*known: Mapping[int, str]) -> None:
    if min(number for ids in ({0: ""}, *known) for number in ids) < 0:
        raise ValueError("a token has an id below 0")


def group_of(path: str) -> str:
    """The group of small files that a path belongs to; empty for one that is in none of FILE_GROUPS."""
    file = PurePosixPath(path)
    if file.parent.name.endswith("chat_templates"):
        return "template"
    for group, patterns in FILE_GROUPS.items():
        for pattern in patterns:
            if fnmatchcase(file.name, pattern):
                return group
    return ""


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
    entries = [entry for entry in (found if isinstance(found, list) else ()) if isinstance(entry, dict)]
    named = {str(entry.get("name")): str(entry.get("template")) for entry in entries}
    return {name: text for name, text in named.items() if name.replace("-", "_").isidentifier()}  # names become files


def chat_templates(model: ResolvedModel) -> dict[str, str]:
    """The chat templates of a model by name, from files, or else from tokenizer_config.json."""
    files = {path: model.files.read(path).decode(errors="replace").strip() for path in template_files(model)}
    named = {PurePosixPath(path).stem: text for path, text in files.items()}
    return {name.replace("chat_template", "default"): text for name, text in named.items()} or inner_template(model)


def code_configs(model: ResolvedModel) -> list[str]:
    """Paths of the configs of tokenizer and processors that name Python code (`auto_map`)."""
    paths = (p for p in model.model_files.carried if group_of(p) in ("tokenizer", "processor"))
    return [path for path in paths if path.endswith("_config.json") and b'"auto_map"' in model.files.read(path)]


def find_vocabulary(files: RepoFiles, folder: str = "") -> Vocabulary:
    """Find `tokenizer.json` in the transformer's folder, or else an older vocabulary file, or any of a tokenizer."""
    inside = {PurePosixPath(path).name for path in files.sizes if PurePosixPath(path).parent == PurePosixPath(folder)}
    useful = sorted(n for n in inside.difference(_NO_VOCABULARY) if group_of(n) == "tokenizer" and n[-3:] != ".py")
    name = next((name for name in (_FAST_FILE, *_SLOW_FILES, *_WORD_FILES, *useful) if name in inside), "")
    if not name:
        return Vocabulary(name=files.name, path="", text=b"")
    path = str(PurePosixPath(folder, name))
    config = _read_object(files, str(PurePosixPath(folder, SETTINGS)))
    added = _read_object(files, str(PurePosixPath(folder, "added_tokens.json")))
    decoder = config.get("added_tokens_decoder") or {}
    others = [n for n in useful if n not in (name, "merges.txt") and name != _FAST_FILE]
    settings: dict[str, Any] = {n: sha256(files.read(str(PurePosixPath(folder, n)))).digest() for n in others}
    merges = str(PurePosixPath(folder, "merges.txt"))
    if name == "vocab.json" and merges in files.sizes:
        require_small(merges, files.name, files.sizes[merges], LARGEST_SETTINGS)
        lines = files.read(merges).decode("utf-8", errors="replace").replace("\r\n", "\n").split("\n")
        settings["merges"] = [line.split(" ", 1) for line in lines if line and not line.startswith("#version")]
    try:
        declared = {int(number): token for token, number in added.items()}
        declared |= {int(n): str(t["content"] if isinstance(t, dict) else t) for n, t in decoder.items()}
        _require_ids(declared)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise _damaged(files.name, "added_tokens.json' or 'tokenizer_config.json", error) from error
    return Vocabulary(name=files.name, path=path, text=files.read(path), declared=declared, settings=settings)


def shared(vocabularies: Iterable[Vocabulary]) -> list[Vocabulary]:
    """Let equal vocabularies have one text, so that memory does not grow with their number."""
    found: list[Vocabulary] = []
    for own in vocabularies:
        same = next((other for other in found if other.same(own)), own)
        found.append(replace(own, text=same.text))
    return found


def compare_all(vocabularies: Iterator[Vocabulary], sizes: Sequence[int | None], *, tokenizer: str) -> list[str]:
    """Compare each vocabulary with the first, one at a time, so that memory does not grow with their number.

    `sizes` are the rows of each model's embeddings, where they are known; `tokenizer` and the rest as for `compare`.
    """
    first, notes = next(vocabularies), []
    for other, size in zip(vocabularies, sizes[1:], strict=True):
        rows = None if sizes[0] is None or size is None else min(sizes[0], size)
        notes += compare(first, other, rows=rows, tokenizer=tokenizer)
    return notes


def compare(first: Vocabulary, other: Vocabulary, *, rows: int | None = None, tokenizer: str = "") -> list[str]:
    """Refuse vocabularies that give the same id to different tokens.

    Args:
        first: the vocabulary to compare with.
        other: the one that is compared.
        rows: rows of the embeddings that both models have, where that is known; ids beyond them have no row to mix.
        tokenizer: the model that gives the tokenizer of the mix, for messages.

    Returns:
        One sentence for each difference that does not spoil the mix but is worth knowing.

    Raises:
        IncompatibleError: an id belongs to different tokens, or a file is damaged.
    """
    if first.same(other):
        return []
    if not first.path or not other.path:
        lacking = other if first.path else first
        return [f"'{lacking.name}' has no tokenizer files, so its vocabulary could not be compared."]
    if first.tokens and other.tokens and bool(first.pieces) != bool(other.pieces):
        return _compare_formats(first, other)
    mine, theirs = first.known, other.known
    renamed = [] if mine == theirs else [n for n, token in mine.items() if theirs.get(n, token) != token]
    own = first.tokens[0] if first.tokens else {}
    if moved := [n for n in renamed if n in own or not (alike(mine[n], theirs[n]) or (rows and n >= rows))]:
        shown = ", ".join(f"{n} is {mine[n]!r} and {theirs[n]!r}" for n in moved[:SHOWN])
        raise _different(first, other, f"{len(moved)} ids belong to different tokens ({shown})")
    notes = []
    if renamed:
        shown = ", ".join(f"{n}: {mine[n]!r} / {theirs[n]!r}" for n in renamed[:SHOWN])
        notes.append(f"'{other.name}' has different names for {len(renamed)} added tokens ({shown}).")
    notes += splits_otherwise(first, other, tokenizer=tokenizer)
    if first.tokens is not None and other.tokens is not None:
        return notes + _only_in_one(first, other)
    if PurePosixPath(first.path).name != PurePosixPath(other.path).name:
        files = f"'{first.name}' ({first.path}) and '{other.name}' ({other.path})"
        return [*notes, f"The vocabularies of {files} have different formats and were not compared."]
    if first.text != other.text:
        raise _different(first, other, f"their '{PurePosixPath(first.path).name}' differ")
    return notes + (_only_in_one(first, other) if first.declared and other.declared else [])


def splits_otherwise(first: Vocabulary, other: Vocabulary, *, tokenizer: str) -> list[str]:
    """Return a sentence if another vocabulary splits text in another way than the first."""
    split = [key for key, how in first.splitting.items() if other.splitting.get(key, how) != how]
    whose = f" The mix has the tokenizer of '{tokenizer}'." if tokenizer else ""
    text = (
        f"'{other.name}' splits text in another way than '{first.name}' ({', '.join(split)} differ), so the same "
        f"text becomes other tokens.{whose}"
    )
    return [text] if split else []


def embedding_rows(weights: WeightFiles | AdaptedWeights, config: Mapping[str, Any]) -> int | None:
    """Rows of the matrix with a row for each token, from the headers; `None` where no such matrix is known.

    `config` is that of the whole model; an adapter on it may have more rows.
    """
    own = weights.base.specs if isinstance(weights, AdaptedWeights) else weights.specs
    names = ["embedding.weight"] if "embedding.weight" in own else []  # static embeddings have no config
    size = vocabulary_size(config)
    names += [name for name, spec in own.items() if spec.shape[:1] == (size,) and _EMBEDDINGS.search(name)]
    return weights.specs[names[0]].shape[0] if names else None


def require_rows(
    own: Vocabulary, others: Iterable[Vocabulary], rows: int, *, base: Vocabulary | None = None
) -> list[str]:
    """Refuse a tokenizer with ids beyond the embeddings, unless all ingredients have them (as Gemma 3's has one).

    Args:
        own: the vocabulary of the mix.
        others: those of all models, its own included, under the names that a recipe has for them.
        rows: rows of the embeddings.
        base: where `own` comes with an adapter, that of the model that it adapts.

    Raises:
        IncompatibleError: another model's tokenizer, or the base's, lacks such an id.
    """
    others = [other for other in others if other.path and not other.same(own)]
    added = max((*own.declared, *map(int, _ADDED_ID.findall(own.text))), default=-1)
    if added < rows and not others:  # the one file of all, which takes long to parse, has hardly any id beyond these
        return []
    beyond = [n for n in own.known if n >= rows]
    if not beyond:
        return []
    what = f"{len(beyond)} tokens (such as {beyond[0]}: {own.known[beyond[0]]!r}), but the embeddings have {rows} rows"
    lacking = [other.name for other in others if other.tokens and not set(beyond) <= other.known.keys()]
    if lacking or (base and base.tokens and not set(beyond) <= base.known.keys()):
        fix = (
            "Save the adapter again with its embeddings (PEFT's `save_embedding_layers=True`), or without a tokenizer."
        )
        raise IncompatibleError(
            f"Cannot give the mix the tokenizer of '{own.name}': it has ids for {what}.\n"
            "The mix would fail at the first text with such a token, because it has no vector for it.\n"
            + (
                f"Name a model with a tokenizer that fits under `tokenizer`, such as '{lacking[0]}'."
                if lacking
                else fix
            ),
            model=own.name,
        )
    return [f"The tokenizer of the mix has ids for {what}, as in its ingredients."]


def _compare_formats(first: Vocabulary, other: Vocabulary) -> list[str]:
    """Compare a sentencepiece model with a list of tokens and ids, of which the ids may be moved by a constant."""
    listed, pieces = ((v.tokens or ({}, {}))[0] for v in ((other, first) if first.pieces else (first, other)))
    ids = {token: number for number, token in listed.items()}
    moves = [(token, position, ids[token]) for position, token in pieces.items() if token in ids]
    usual = Counter(number - position for _, position, number in moves).most_common(1)
    if 2 * len(moves) < min(len(ids), len(pieces)) or not usual:
        raise _different(first, other, f"they have {len(moves)} tokens in common")
    if odd := [f"{token!r} is {n} and {p}" for token, p, n in moves if n - p != usual[0][0]]:
        raise _different(first, other, f"{len(odd)} tokens have other ids ({', '.join(odd[:SHOWN])})")
    alone = len(pieces) + len(ids) - 2 * len(moves)
    files = f"'{first.name}' ({first.path}) and '{other.name}' ({other.path})"
    return [f"{alone} tokens are in the vocabulary of only one of {files}."] if alone else []


def _only_in_one(first: Vocabulary, other: Vocabulary) -> list[str]:
    mine, theirs, notes = first.known, other.known, []
    if mine == theirs:
        return []
    if extra := [n for n in theirs if n not in mine]:
        shown = ", ".join(repr(theirs[n]) for n in extra[:SHOWN])
        notes.append(f"'{other.name}' has {len(extra)} tokens that the tokenizer of '{first.name}' lacks ({shown}).")
    if missing := [n for n in mine if n not in theirs]:
        shown = ", ".join(repr(mine[n]) for n in missing[:SHOWN])
        notes.append(f"'{other.name}' lacks {len(missing)} tokens of '{first.name}' ({shown}); it never learnt them.")
    return notes


def alike(one: str, other: str) -> bool:
    """Tell whether two names may be of one row: a spare one that was given a name, or `[PAD]` and `<pad>`.

    `</s>` and `<s>` are two tokens, and so are the words `K` and `##k`.
    """
    if _SPARE.match(one) or _SPARE.match(other):
        return True
    if not (_WRAPPED.fullmatch(one) and _WRAPPED.fullmatch(other)):
        return False
    plain = [re.sub(r"[^\w/]|_", "", name).lower() for name in (one, other)]
    return plain[0] == plain[1] != ""


def _different(first: Vocabulary, other: Vocabulary, what: str) -> IncompatibleError:
    return IncompatibleError(
        f"Cannot mix '{other.name}' with '{first.name}': different vocabularies, {what}.\n"
        "A row of the embeddings would be the average of two unrelated tokens.\n"
        f"Remove '{other.name}' from `ingredients`, choose a model fine-tuned from the same base, or name one of them "
        "under `tokenizer`, so that rows are matched by token.",
        model=other.name,
    )


def _read_object(files: RepoFiles, path: str) -> dict[str, Any]:
    """A small JSON mapping; empty where the file is missing."""
    if path not in files.sizes:
        return {}
    content = read_settings(files, path)
    try:
        return dict(json.loads(content))
    except (ValueError, TypeError, RecursionError) as error:
        raise _damaged(files.name, path, error) from error


def _damaged(name: str, path: str, error: Exception) -> IncompatibleError:
    return IncompatibleError(
        f"'{path}' of '{name}' is damaged: {error!r}.\n"
        "Without it the vocabularies cannot be compared.\nDownload or save the tokenizer again.",
        model=name,
    )

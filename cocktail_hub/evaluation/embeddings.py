"""Vectors of texts, made the way the model itself makes them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch

from cocktail_hub.errors import ScoringError, SourceError
from cocktail_hub.evaluation.batches import pad_right
from cocktail_hub.evaluation.model import (
    NO_LIMIT,
    check_ids,
    device_of,
    hard_limit,
    limit_of,
    load_model,
    load_tokenizer,
    pick_device,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cocktail_hub.evaluation.settings import ScoringSettings

Role = Literal["query", "document"]
_PASSAGE_PROMPTS = ("document", "passage", "corpus")
"""What sentence-transformers' `encode_document` looks for, in this order."""


class Embedder(Protocol):
    """Turns texts into vectors, and vectors into similarities."""

    device: torch.device
    """Where it computes."""
    limit: int | None
    """The most tokens a text may have, special tokens included."""
    reading: str
    """How vectors are made and compared, e.g. `cls pooling, cosine`."""

    def lengths(self, texts: Sequence[str], role: Role) -> list[tuple[int, int]]:
        """Per text its tokens in all, uncut, prompt and special tokens included, and those it has without content."""

    def embed(self, texts: Sequence[str], role: Role) -> torch.Tensor:
        """Vectors of one batch: float64 [texts, dimensions] on the CPU."""

    def similarity(self, queries: torch.Tensor, passages: torch.Tensor) -> torch.Tensor:
        """Float64 [queries, passages], higher is more alike."""


def open_embedder(folder: Path, settings: ScoringSettings, *, name: str, tokenizer_folder: Path) -> Embedder:
    """The way this folder makes vectors.

    A folder with `modules.json` makes them with its own sentence-transformers modules, prompts and similarity. Any
    other is a plain encoder: vectors of the first token scaled to length 1, or what `pooling` and `normalize` say.
    With `compat` every folder is a plain encoder, as in the original.

    Raises:
        SourceError: the folder cannot be loaded.
        ScoringError: weights are missing.
    """
    if (folder / "modules.json").is_file() and not settings.compat:
        _require_dense(folder, name)
        return ModulesEmbedder(folder, settings, name=name)
    return PlainEmbedder(folder, settings, name=name, tokenizer_folder=tokenizer_folder)


def _require_dense(folder: Path, name: str) -> None:
    """Refuse models that sentence-transformers would read as something else, with a warning only."""
    path = folder / "config_sentence_transformers.json"
    kind = json.loads(path.read_text(encoding="utf-8")).get("model_type") if path.is_file() else None
    if kind not in (None, "SentenceTransformer"):
        raise ScoringError(
            f"'{name}' is a {kind}, which cannot be scored on examples.\n"
            "Its loss is not defined here: read as a SentenceTransformer it would be another model.\n"
            "Give every ingredient a `weight`, or use `rule: uniform`.",
            model=name,
        )


class ModulesEmbedder:
    """A sentence-transformers folder."""

    def __init__(self, folder: Path, settings: ScoringSettings, *, name: str) -> None:
        from sentence_transformers import SentenceTransformer

        self.device = pick_device(settings.device)
        try:
            self._model = SentenceTransformer(
                str(folder),
                device=str(self.device),
                local_files_only=True,
                trust_remote_code=settings.trust_remote_code,
                model_kwargs={"dtype": getattr(torch, settings.dtype)},
            )
        except (OSError, ValueError, ImportError) as error:
            raise SourceError(f"'{name}' cannot be loaded by sentence-transformers: {error}") from error
        self.limit = limit_sequences(self._model, settings)
        self.reading = _reading_of(self._model)

    def lengths(self, texts: Sequence[str], role: Role) -> list[tuple[int, int]]:
        """See `Embedder`. A prompt counts as content: it goes through the model like text."""
        return uncut_lengths(self._model, texts, prompt=self._prompt(role), task=role)

    def _prompt(self, role: Role) -> str:
        prompts = self._model.prompts or {}
        for key in ("query",) if role == "query" else _PASSAGE_PROMPTS:
            if key in prompts:
                return str(prompts[key] or "")
        return str(prompts.get(self._model.default_prompt_name) or "")

    def embed(self, texts: Sequence[str], role: Role) -> torch.Tensor:
        """See `Embedder`."""
        encode = self._model.encode_query if role == "query" else self._model.encode_document
        vectors = encode(list(texts), batch_size=len(texts), convert_to_tensor=True, show_progress_bar=False)
        return torch.as_tensor(vectors).cpu().double()

    def similarity(self, queries: torch.Tensor, passages: torch.Tensor) -> torch.Tensor:
        """See `Embedder`."""
        return torch.as_tensor(self._model.similarity(queries, passages))


def _class_of(folder: Path) -> Any:
    """`AutoModel`; but of an encoder alone (T5) that would add a decoder of random weights."""
    import transformers

    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    architecture = str((config.get("architectures") or [""])[0])
    own = getattr(transformers, architecture, None) if architecture.endswith("EncoderModel") else None
    return own or transformers.AutoModel


class PlainEmbedder:
    """A transformers encoder without sentence-transformers modules."""

    def __init__(self, folder: Path, settings: ScoringSettings, *, name: str, tokenizer_folder: Path) -> None:
        self._name = name
        self._tokenizer = load_tokenizer(tokenizer_folder, settings, name=name)
        self._model = load_model(_class_of(folder), folder, settings, name=name, spare="pooler")
        self.device = device_of(self._model)
        self.limit = limit_of(self._model, self._tokenizer, settings)
        if self._model.config.is_encoder_decoder:
            self._model = self._model.get_encoder()
        self._pooling = "cls" if settings.compat else settings.pooling or "cls"
        self._normalize = settings.compat or settings.normalize is not False
        self.reading = f"{self._pooling} pooling, {'cosine' if self._normalize else 'dot'}"

    def lengths(self, texts: Sequence[str], role: Role) -> list[tuple[int, int]]:  # noqa: ARG002 - one role for all
        """See `Embedder`."""
        return _token_lengths(self._tokenizer, texts)

    @torch.inference_mode()
    def embed(self, texts: Sequence[str], role: Role) -> torch.Tensor:  # noqa: ARG002 - one role for all
        """See `Embedder`."""
        cutting = {"truncation": True, "max_length": self.limit} if self.limit else {}
        encoded = self._tokenizer(list(texts), return_attention_mask=True, verbose=False, **cutting)
        rows = [{key: encoded[key][row] for key in encoded} for row in range(len(texts))]
        check_ids([token for row in rows for token in row["input_ids"]], self._model, name=self._name)
        batch = pad_right(rows, _fill(self._tokenizer), self.device)
        vectors = _pool(self._model(**batch).last_hidden_state, batch["attention_mask"], self._pooling)
        if self._normalize:
            vectors = torch.nn.functional.normalize(vectors, dim=-1)
        return vectors.cpu().double()

    def similarity(self, queries: torch.Tensor, passages: torch.Tensor) -> torch.Tensor:
        """See `Embedder`: the dot product, which is the cosine of vectors of length 1."""
        return queries @ passages.T


def limit_sequences(model: Any, settings: ScoringSettings) -> int | None:
    """Bound what a sentence-transformers model reads by `max_length` and by its positions, and say the bound.

    Its own limit stands where it is lower. `None`: there is no bound, or the model does not read tokens.
    """
    inner = model.transformers_model
    limits = [model.max_seq_length, settings.max_length, hard_limit(inner) if inner is not None else None]
    known = [int(limit) for limit in limits if limit is not None and limit < NO_LIMIT]
    if not known:
        return None
    if inner is not None:
        model.max_seq_length = min(known)
    return min(known)


def uncut_lengths(model: Any, inputs: Sequence[Any], **kwargs: Any) -> list[tuple[int, int]]:
    """Per text or pair its tokens as a sentence-transformers model reads it, but uncut: see `Embedder.lengths`.

    Args:
        model: a sentence-transformers model of any family.
        inputs: texts, or pairs of texts.
        kwargs: `prompt` and `task`, as for the model's `preprocess`.
    """
    tokenizer = model.tokenizer
    adds = hasattr(tokenizer, "model_max_length")  # not so a bare `tokenizers.Tokenizer`, as static embeddings have
    lengths = []
    for one in inputs:
        features = model.preprocess([one], processing_kwargs={"text": {"truncation": False}}, **kwargs)
        mask = features.get("attention_mask")
        length = int(mask.sum()) if mask is not None else features["input_ids"].numel()
        lengths.append((length, tokenizer.num_special_tokens_to_add(pair=not isinstance(one, str)) if adds else 0))
    return lengths


def _token_lengths(tokenizer: Any, texts: Sequence[str]) -> list[tuple[int, int]]:
    """Per text its tokens uncut, and those of them that carry no content: see `Embedder.lengths`."""
    special = tokenizer.num_special_tokens_to_add(pair=False)
    return [(len(row), special) for row in tokenizer(list(texts), verbose=False)["input_ids"]]


def check_lengths(lengths: Sequence[tuple[int, int]], owners: Sequence[int], *, name: str, limit: int | None) -> int:
    """How many texts will be cut.

    Raises:
        ScoringError: a text has no token of its own, or none that fits into the limit; names the example.
    """
    for (length, special), owner in zip(lengths, owners, strict=True):
        if min(length, limit or length) <= special:
            cut = limit is not None and length > limit
            raise ScoringError(
                f"A text of example {owner} cannot be scored with '{name}': "
                f"{f'nothing of it fits into {limit} tokens' if cut else 'the tokenizer gives no token for it'}.\n"
                "All such texts look the same to the model.\n"
                "Raise `max_length`, or remove the example.",
                model=name,
                example=owner,
            )
    return sum(limit is not None and length > limit for length, _ in lengths)


def _pool(hidden: torch.Tensor, mask: torch.Tensor, pooling: str) -> torch.Tensor:
    """One vector per text, float32 [texts, dimensions], from hidden states padded on the right."""
    hidden = hidden.float()
    if pooling == "cls":
        return hidden[:, 0]
    if pooling == "lasttoken":
        return hidden[torch.arange(len(hidden), device=hidden.device), mask.sum(dim=1) - 1]
    outside = mask.unsqueeze(-1) == 0
    if pooling == "max":
        return hidden.masked_fill(outside, -torch.inf).amax(dim=1)
    return hidden.masked_fill(outside, 0).sum(dim=1) / mask.sum(dim=1, keepdim=True)


def _fill(tokenizer: Any) -> dict[str, int]:
    return {"input_ids": tokenizer.pad_token_id or 0, "token_type_ids": tokenizer.pad_token_type_id}


def _reading_of(model: Any) -> str:
    """The pooling and every module that changes what is compared, e.g. `mean pooling, Dense, cosine`."""
    from sentence_transformers.sentence_transformer.modules import Pooling

    parts = []
    for module in list(model)[1:]:
        if isinstance(module, Pooling):
            parts.append(f"{_pooling_name(module)} pooling")
        elif type(module).__name__ != "Normalize" or model.similarity_fn_name != "cosine":
            parts.append(type(module).__name__)
    return ", ".join([*parts, str(model.similarity_fn_name)])


def _pooling_name(module: Any) -> str:
    mode = module.get_pooling_mode_str() if hasattr(module, "get_pooling_mode_str") else module.pooling_mode
    return str(mode)

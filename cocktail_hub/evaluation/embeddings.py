"""Vectors of texts, computed the way the model itself does it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch

from cocktail_hub.errors import ScoringError
from cocktail_hub.evaluation.batches import pad_right
from cocktail_hub.evaluation.loading import folder_kind, load_sentence_transformer
from cocktail_hub.evaluation.model import NO_LIMIT, ScoringRun, position_limit, token_limit

if TYPE_CHECKING:
    from collections.abc import Sequence

Role = Literal["query", "document"]
_PROMPTS = {"query": ("query",), "document": ("document", "passage", "corpus")}
"""Role -> names of prompts that sentence-transformers' `encode_query` and `encode_document` look for, in order."""
_TOGETHER = 64
"""Texts that are tokenized at once to count their tokens."""


class Embedder(Protocol):
    """Turns texts into vectors, and vectors into similarities."""

    limit: int | None
    """The most tokens a text may have, special tokens included."""
    cosine: bool
    """Whether `similarity` is the cosine; else it is the dot product, or another measure of vectors as they are."""
    reading: str
    """How vectors are computed and compared, e.g. `cls pooling, cosine`."""

    def lengths(self, texts: Sequence[str], role: Role) -> list[tuple[int, int]]:
        """Per text its number of tokens before cutting, and how many of them are special tokens."""

    def embed(self, texts: Sequence[str], role: Role) -> torch.Tensor:
        """Vectors of one batch: float64 [texts, dimensions] on the CPU."""

    def similarity(self, queries: torch.Tensor, passages: torch.Tensor) -> torch.Tensor:
        """Float64 [queries, passages], higher is more similar."""


def open_embedder(run: ScoringRun) -> Embedder:
    """Load the embedder of a folder.

    A folder with `modules.json` uses its own sentence-transformers modules, prompts and similarity. Any other is a
    plain encoder: vectors of the first token scaled to length 1, or what `pooling` and `normalize` say. For the losses
    of LM_Cocktail every folder is a plain encoder, as in the original.

    Raises:
        SourceError: the folder cannot be loaded.
        ScoringError: weights are missing, or the model is a sparse or multi-vector encoder.
    """
    if run.settings.lm_cocktail or not (run.folder / "modules.json").is_file():
        return PlainEmbedder(run)
    family = folder_kind(run.folder).sentence_transformers
    if family != "SentenceTransformer":
        raise ScoringError(
            f"'{run.name}' is a {family}, which cannot be scored on examples.\n"
            "No loss is defined for it here; read as a SentenceTransformer it would be another model.\n"
            "Give every ingredient a `weight`, or use `rule: uniform`.",
            model=run.name,
        )
    return ModulesEmbedder(run)


class ModulesEmbedder:
    """A sentence-transformers folder."""

    def __init__(self, run: ScoringRun) -> None:
        self._model = run.load_with(load_sentence_transformer)
        self.limit = limit_sequences(self._model, run)
        self.reading = _describe(self._model)
        if run.settings.outputs and self._model.similarity_fn_name not in ("cosine", "dot"):
            raise ScoringError(
                f"'{run.name}' compares vectors by {self._model.similarity_fn_name} distance.\n"
                "The loss of averaged vectors is defined for cosines and dot products only.\n"
                "Use `rule: softmax`.",
                model=run.name,
            )
        if run.settings.outputs and type(self._model[-1]).__name__ == "Normalize" and self._model.truncate_dim is None:
            del self._model[-1]  # outputs are averaged before they are scaled to length 1
            self._model.similarity_fn_name = "cosine"
        self.cosine = self._model.similarity_fn_name == "cosine"

    def lengths(self, texts: Sequence[str], role: Role) -> list[tuple[int, int]]:
        """See `Embedder`. A prompt does not count as special tokens: it goes through the model like text."""
        prompts = self._model.prompts or {}
        names = (*_PROMPTS[role], self._model.default_prompt_name)
        prompt = next((str(prompts[name] or "") for name in names if name in prompts), "")
        return uncut_lengths(self._model, texts, prompt=prompt, task=role)

    def embed(self, texts: Sequence[str], role: Role) -> torch.Tensor:
        """See `Embedder`."""
        encode = self._model.encode_query if role == "query" else self._model.encode_document
        vectors = encode(list(texts), batch_size=len(texts), convert_to_tensor=True, show_progress_bar=False)
        return torch.as_tensor(vectors).cpu().double()

    def similarity(self, queries: torch.Tensor, passages: torch.Tensor) -> torch.Tensor:
        """See `Embedder`."""
        return torch.as_tensor(self._model.similarity(queries, passages))


class PlainEmbedder:
    """A transformers encoder without sentence-transformers modules."""

    def __init__(self, run: ScoringRun) -> None:
        weighting = run.settings.weighting
        self._run = run
        self._tokenizer = run.load_tokenizer()
        self._model = run.load_model("feature-extraction", unused="pooler")
        self.limit = token_limit(self._model, self._tokenizer, run.settings)
        if self._model.config.is_encoder_decoder:
            self._model = self._model.get_encoder()
        self._pooling = "cls" if run.settings.lm_cocktail else weighting.pooling or "cls"
        self.cosine = run.settings.lm_cocktail or weighting.normalize is not False
        self.reading = f"{self._pooling} pooling, {'cosine' if self.cosine else 'dot'}"

    def lengths(self, texts: Sequence[str], role: Role) -> list[tuple[int, int]]:  # noqa: ARG002 - one role for all
        """See `Embedder`."""
        special = self._tokenizer.num_special_tokens_to_add(pair=False)
        return [(len(row), special) for row in self._tokenizer(list(texts), verbose=False)["input_ids"]]

    @torch.inference_mode()
    def embed(self, texts: Sequence[str], role: Role) -> torch.Tensor:  # noqa: ARG002 - one role for all
        """See `Embedder`."""
        tokenizer = self._tokenizer
        cutting = {"truncation": True, "max_length": self.limit} if self.limit else {}
        encoded = tokenizer(list(texts), return_attention_mask=True, verbose=False, **cutting)
        rows = [{key: encoded[key][row] for key in encoded} for row in range(len(texts))]
        self._run.check_ids([token for row in rows for token in row["input_ids"]], self._model)
        fill = {"input_ids": tokenizer.pad_token_id or 0, "token_type_ids": tokenizer.pad_token_type_id}
        batch = pad_right(rows, fill, self._run.device)
        vectors = _pool(self._model(**batch).last_hidden_state, batch["attention_mask"], self._pooling)
        if self.cosine and not self._run.settings.outputs:
            vectors = torch.nn.functional.normalize(vectors, dim=-1)
        return vectors.cpu().double()

    def similarity(self, queries: torch.Tensor, passages: torch.Tensor) -> torch.Tensor:
        """See `Embedder`: the dot product, which is the cosine of vectors of length 1."""
        if self.cosine and self._run.settings.outputs:
            queries, passages = (torch.nn.functional.normalize(part, dim=-1) for part in (queries, passages))
        return queries @ passages.T


def limit_sequences(model: Any, run: ScoringRun) -> int | None:
    """Lower the limit of a sentence-transformers model to `max_length` and its positions, and return it.

    `None`: there is no limit, or the model does not read tokens.
    """
    inner = model.transformers_model
    limits = [
        model.max_seq_length,
        run.settings.weighting.max_length,
        position_limit(inner) if inner is not None else None,
    ]
    limit = min((int(limit) for limit in limits if limit is not None and limit < NO_LIMIT), default=None)
    if limit is not None and inner is not None:
        model.max_seq_length = limit
    return limit


def uncut_lengths(model: Any, inputs: Sequence[Any], **kwargs: Any) -> list[tuple[int, int]]:
    """Token counts of texts or pairs as a sentence-transformers model reads them, uncut: see `Embedder.lengths`.

    Args:
        model: a sentence-transformers model of any family.
        inputs: texts, or pairs of texts.
        kwargs: `prompt` and `task`, as for the model's `preprocess`.
    """
    tokenizer = model.tokenizer
    adds = hasattr(tokenizer, "model_max_length")  # static embeddings have a bare `tokenizers.Tokenizer` without it
    lengths: list[int] = []
    together = _TOGETHER if adds else 1  # without an attention mask, the tokens of several texts are one list
    for start in range(0, len(inputs), together):
        part = list(inputs[start : start + together])
        features = model.preprocess(part, processing_kwargs={"text": {"truncation": False}}, **kwargs)
        mask = features.get("attention_mask")
        lengths += [features["input_ids"].numel()] if mask is None else mask.sum(dim=1).tolist()
    special = [tokenizer.num_special_tokens_to_add(pair=not isinstance(one, str)) if adds else 0 for one in inputs]
    return list(zip(lengths, special, strict=True))


def check_lengths(lengths: Sequence[tuple[int, int]], owners: Sequence[int], *, name: str, limit: int | None) -> int:
    """Count the texts that will be cut.

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


def _describe(model: Any) -> str:
    """The pooling and every module that changes what is compared, e.g. `mean pooling, Dense, cosine`."""
    from sentence_transformers.sentence_transformer.modules import Pooling

    parts = []
    for module in list(model)[1:]:
        if isinstance(module, Pooling):
            own = hasattr(module, "get_pooling_mode_str")
            parts.append(f"{module.get_pooling_mode_str() if own else module.pooling_mode} pooling")
        elif type(module).__name__ != "Normalize" or model.similarity_fn_name != "cosine":
            parts.append(type(module).__name__)
    return ", ".join([*parts, str(model.similarity_fn_name)])

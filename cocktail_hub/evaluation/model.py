"""A model folder that is being scored: loading it, and the number of tokens it takes."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from cocktail_hub.errors import ScoringError, SourceError
from cocktail_hub.evaluation.loading import load_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from cocktail_hub.evaluation.examples import Examples
    from cocktail_hub.evaluation.settings import ScoringSettings

NO_LIMIT = 1_000_000
"""A tokenizer without a limit says `int(1e30)`; anything above this counts as none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringRun:
    """One model folder that is scored on examples."""

    name: str
    """The ingredient, for messages."""
    folder: Path
    """A checkpoint as transformers or sentence-transformers saves it."""
    tokenizer_folder: Path
    """Folder of the tokenizer for models without sentence-transformers modules."""
    examples: Examples
    """For the settings' kind of model."""
    settings: ScoringSettings
    """How to compute the losses."""
    device: torch.device
    """Where the model computes."""
    on_texts: Callable[[int, int], object] | None = None
    """Called after every batch with the number of texts done and the number of all texts."""

    def load_tokenizer(self) -> Any:
        """The tokenizer of `tokenizer_folder`.

        Raises:
            SourceError: it cannot be loaded.
        """
        from transformers import AutoTokenizer

        with self.readable("tokenizer"):
            return AutoTokenizer.from_pretrained(
                self.tokenizer_folder, local_files_only=True, trust_remote_code=self.settings.trust_remote_code
            )

    def load_model(self, task: str, *, unused: str = "") -> Any:
        """The transformers model of `folder` on the device, ready for inference.

        Args:
            task: Hub task, which decides the class.
            unused: tensors with this in their name may be missing, because the loss does not depend on them.

        Raises:
            SourceError: the folder cannot be loaded.
            ScoringError: weights are missing, so the loss would be that of random numbers.
        """
        with self.readable("model"):
            model, info = load_model(
                self.folder,
                task,
                local_files_only=True,
                trust_remote_code=self.settings.trust_remote_code,
                dtype=getattr(torch, self.settings.weighting.dtype),
                output_loading_info=True,
            )
        self.refuse_missing([key for key in info["missing_keys"] if not (unused and unused in key)], model)
        return model.eval().to(self.device)

    def load_with(self, load: Callable[..., Any]) -> Any:
        """The sentence-transformers model of `folder` on the device, by one of the loaders of `loading`.

        Raises:
            SourceError: the folder cannot be loaded.
        """
        with self.readable("model"):
            return load(
                self.folder,
                device=str(self.device),
                local_files_only=True,
                trust_remote_code=self.settings.trust_remote_code,
                model_kwargs={"dtype": getattr(torch, self.settings.weighting.dtype)},
            )

    @contextmanager
    def readable(self, what: str) -> Iterator[None]:
        """Name the ingredient in errors of the libraries that load it, and leave out their bars: ours counts texts."""
        from transformers.utils import logging

        hook = logging.set_tqdm_hook(lambda _, args, keywords: logging.EmptyTqdm(*args, **keywords))
        try:
            yield
        except (OSError, ValueError, ImportError) as error:
            raise SourceError(f"The {what} of '{self.name}' cannot be loaded for scoring: {error}") from error
        finally:
            logging.set_tqdm_hook(hook)

    def refuse_missing(self, missing: Sequence[str], model: Any) -> None:
        """Refuse a model that lacks tensors: the libraries fill them with random numbers."""
        if not missing:
            return
        shown = ", ".join(f"'{key}'" for key in sorted(missing)[:3]) + (" ..." if len(missing) > 3 else "")  # noqa: PLR2004
        raise ScoringError(
            f"'{self.name}' lacks {len(missing)} of the weights of a {type(model).__name__}: {shown}.\n"
            "They would be filled with random numbers, and so the loss would be random.\n"
            "Check that the model was trained for the recipe's `task`.",
            model=self.name,
        )

    def check_ids(self, ids: Sequence[int], model: Any, example: int | None = None) -> None:
        """Refuse tokens that the model has no embedding for.

        Raises:
            ScoringError: the tokenizer has more tokens than the model.
        """
        # On a GPU such an index would be a device-side assertion, after which the process cannot use the GPU any more.
        rows = getattr(model.get_input_embeddings(), "num_embeddings", None)
        if rows is not None and ids and max(ids) >= rows:
            raise ScoringError(
                f"The tokenizer gives token {max(ids)}, but '{self.name}' has embeddings for {rows} tokens only.\n"
                "The tokenizer belongs to another model, or has tokens that the model was not extended by.\n"
                "Score with the ingredient's own tokenizer, or leave it out of the recipe.",
                model=self.name,
                example=example,
            )


def pick_device(wanted: str) -> torch.device:
    """The device to compute on.

    Args:
        wanted: `auto` (CUDA, else Apple's MPS, else the CPU) or a torch device.

    Raises:
        ScoringError: torch does not know the device, or this machine does not have it.
    """
    if wanted == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch built without CUDA
        raise ScoringError(f"The device '{wanted}' cannot be used: {error}\nUse `auto` or `cpu`.") from error
    return device


def position_limit(model: Any) -> int | None:
    """Number of tokens that a transformers model has positions for; `None` if positions do not limit it."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(limit, int) or limit < 1:  # DeBERTa-v2 and others say -1 or None
        return None
    # RoBERTa and its relatives number positions from `padding_idx + 1`, so they take that many tokens fewer.
    offsets = [
        module.padding_idx + 1
        for path, module in model.named_modules()
        if path.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None
    ]
    return limit - max(offsets, default=0)


def token_limit(model: Any, tokenizer: Any, settings: ScoringSettings) -> int | None:
    """The most tokens a text may have: the least of what the model, its tokenizer and the settings allow.

    For the losses of LM_Cocktail the tokenizer's limit does not count: the original cuts at `max_input_length` only.
    """
    limits = [position_limit(model), settings.weighting.max_length]
    allowed = getattr(tokenizer, "model_max_length", None)
    if not settings.lm_cocktail and allowed is not None and allowed < NO_LIMIT:
        limits.append(int(allowed))
    return min((limit for limit in limits if limit is not None), default=None)

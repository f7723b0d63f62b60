"""One ingredient, loaded for scoring: its model, tokenizer, device and limits."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from cocktail_hub.errors import ScoringError, SourceError
from cocktail_hub.evaluation.batches import release_memory

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from cocktail_hub.evaluation.settings import ScoringSettings

NO_LIMIT = 1_000_000
"""A tokenizer without a limit says `int(1e30)`; anything above this is taken for none."""


def pick_device(wanted: str) -> torch.device:
    """The device to compute on.

    Args:
        wanted: `auto` (CUDA, else Apple's MPS, else the CPU) or a torch device.

    Raises:
        ScoringError: torch does not know the device, or it is not there.
    """
    if wanted != "auto":
        try:
            device = torch.device(wanted)
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:  # AssertionError: torch built without CUDA
            raise ScoringError(f"The device '{wanted}' cannot be used: {error}\nUse `auto` or `cpu`.") from error
        return device
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def load_tokenizer(folder: Path, settings: ScoringSettings, *, name: str) -> Any:
    """The tokenizer of a folder, as transformers' `AutoTokenizer` gives it.

    Raises:
        SourceError: there is none that can be loaded.
    """
    from transformers import AutoTokenizer

    with _readable(name, "tokenizer"):
        return AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=settings.trust_remote_code
        )


def load_model(auto_class: Any, folder: Path, settings: ScoringSettings, *, name: str, spare: str = "") -> Any:
    """The model of a folder, in `settings.dtype` on the device, ready for inference.

    Args:
        auto_class: transformers' Auto class.
        folder: a local checkpoint folder.
        settings: dtype, device and trust.
        name: the ingredient, for messages.
        spare: tensors with this in their name may be missing, because the loss does not depend on them.

    Raises:
        SourceError: the folder cannot be loaded.
        ScoringError: weights are missing, so that the loss would be that of random numbers.
    """
    with _readable(name, "model"):
        model, info = auto_class.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=settings.trust_remote_code,
            dtype=getattr(torch, settings.dtype),
            output_loading_info=True,
        )
    missing = sorted(key for key in info["missing_keys"] if not (spare and spare in key))
    if missing:
        raise missing_weights(name, missing, type(model).__name__)
    return model.eval().to(pick_device(settings.device))


def missing_weights(name: str, missing: list[str], wanted: str) -> ScoringError:
    """The error for a model that lacks weights the loss depends on."""
    shown = ", ".join(f"'{key}'" for key in missing[:3]) + (" ..." if len(missing) > 3 else "")  # noqa: PLR2004
    return ScoringError(
        f"'{name}' lacks {len(missing)} of the weights of a {wanted}: {shown}.\n"
        "They would be filled with random numbers, and the loss would be one of them.\n"
        "Check that the model was trained for the recipe's `task`.",
        model=name,
    )


@contextmanager
def _readable(name: str, what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, ImportError) as error:
        raise SourceError(f"The {what} of '{name}' cannot be loaded for scoring: {error}") from error


def hard_limit(model: Any) -> int | None:
    """How many tokens a transformers model has positions for; `None` when positions do not limit it.

    RoBERTa and its relatives number positions from `padding_idx + 1`, so they take that many tokens fewer than
    `max_position_embeddings` says.
    """
    config = model.config.get_text_config()
    limit = getattr(config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit < 1:  # DeBERTa-v2 and others say -1 or None where there is no limit
        return None
    offsets = [
        module.padding_idx + 1
        for path, module in model.named_modules()
        if path.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None
    ]
    return limit - max(offsets, default=0)


def limit_of(model: Any, tokenizer: Any, settings: ScoringSettings) -> int | None:
    """The most tokens a text may have: the least of what the model, its tokenizer and the settings say.

    With `compat` the tokenizer's word does not count, as in the original, which cuts at `max_input_length` only.
    """
    limits = [hard_limit(model), settings.max_length]
    if not settings.compat:
        limits.append(tokenizer_limit(tokenizer))
    return min((limit for limit in limits if limit is not None), default=None)


def tokenizer_limit(tokenizer: Any) -> int | None:
    """The most tokens the tokenizer's author allows; `None` when it does not say."""
    limit = getattr(tokenizer, "model_max_length", None)
    return int(limit) if limit is not None and limit < NO_LIMIT else None


def check_ids(ids: Sequence[int], model: Any, *, name: str, example: int | None = None) -> None:
    """Refuse tokens that the model has no embedding for: on a GPU they would end the process's use of it.

    Raises:
        ScoringError: the tokenizer has more tokens than the model.
    """
    rows = getattr(model.get_input_embeddings(), "num_embeddings", None)
    if rows is not None and ids and max(ids) >= rows:
        raise ScoringError(
            f"The tokenizer gives token {max(ids)}, but '{name}' has embeddings for {rows} tokens only.\n"
            "The tokenizer belongs to another model, or has tokens that the model was not extended by.\n"
            "Score with the ingredient's own tokenizer, or leave it out of the recipe.",
            model=name,
            example=example,
        )


def device_of(model: torch.nn.Module) -> torch.device:
    """Where the model computes; the CPU for one without parameters."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def free_memory() -> None:
    """Collect a model that nothing refers to any more, and give its memory back."""
    gc.collect()
    release_memory()

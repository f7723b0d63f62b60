"""What a model gave for the examples, in arrays that are kept: from them the loss of a mean of models is predicted."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch.nn.functional import cross_entropy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Outputs: TypeAlias = "Mapping[str, np.ndarray]"
"""Arrays by name.

- encoder: `queries` [examples, dimensions] and `passages` [different passages, dimensions] before they are scaled to
  length 1, and `cosine`: whether they are compared at that length.
- reranker: `scores`, one per pair.
- decoder and encoder-decoder: see `output_tokens`, with the tokens of all examples; `counts` [examples] of tokens.
"""

KEPT = 256
"""Most tokens whose probabilities are kept for each token of an output; of the others, only the sum."""


def output_tokens(logits: torch.Tensor, targets: torch.Tensor, *, keep: bool) -> tuple[float, Outputs]:
    """The loss of one example's output, and what is kept of the logits.

    Args:
        logits: [tokens, vocabulary].
        targets: [tokens] ids.
        keep: whether to return anything but the loss.

    Returns:
        The sum of the cross-entropies in nats, and per token `targets`, `target` (its log-probability), `ids` and
        `values` of the likeliest (at most `KEPT`, the likeliest first), `rest` (the logarithm of the others'
        probability) and `vocabulary` (its size).
    """
    logits = logits.float()
    losses = cross_entropy(logits, targets, reduction="none")
    total = float(losses.cpu().double().sum())  # Apple's MPS has no float64
    if not keep:
        return total, {}
    logs = logits.log_softmax(dim=-1)
    values, ids = logs.topk(min(KEPT, logs.shape[1]))
    rest = logs.scatter(1, ids, -torch.inf).logsumexp(dim=1)
    found = {"targets": targets.int(), "target": -losses, "ids": ids.int(), "values": values, "rest": rest}
    vocabulary = np.full(len(targets), logs.shape[1])
    return total, {name: tensor.cpu().numpy() for name, tensor in found.items()} | {"vocabulary": vocabulary}


def join_outputs(examples: Sequence[Outputs]) -> Outputs:
    """The outputs of all examples as one, from those of each; nothing from nothing."""
    if not examples[0]:
        return {}
    joined = {name: np.concatenate([one[name] for one in examples]) for name in examples[0]}
    return joined | {"counts": np.array([len(one["targets"]) for one in examples])}


def digest_of(outputs: Outputs) -> str:
    """Sha256 over names, shapes, types and values: 64 hex digits."""
    digest = hashlib.sha256()
    for name, array in sorted(outputs.items()):
        digest.update(f"{name} {array.shape} {array.dtype}\n".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()

"""The numbers that the original computes (`LM_Cocktail`, FlagEmbedding at 7ed43d6), for its drop-in replacement.

With `ScoringSettings(compat=True, batch_size=...)` a loss equals the original's where the original is right:

- decoder: the text is `input + " " + output + eos` even when the input ends in white space; a text that is too long
  loses its end; the loss is the mean over batches of the mean over their tokens.
- encoder: the first token's vector at length 1, whatever modules the folder has; the first positive of an example and
  its negatives; the candidates are the passages of the same batch, repeated ones included; mean over batches.
- encoder-decoder: as for a decoder, the mean over batches of the mean over their tokens.
- reranker: the original cannot score one; nothing changes.

`DIFFERENCES` says where the numbers differ, because the original's are wrong.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

DIFFERENCES = (
    "Negatives are chosen by a seed; the original's choice is new in every run. Equal where all negatives are used.",
    "Fewer negatives than asked for are all used; the original raises ValueError.",
    "The output begins where the offsets say; the original tokenizes the input alone, which may give other tokens.",
    "An EOS that the tokenizer writes itself is not written twice.",
    "Texts are cut where the model's positions end; the original's default of 2048 crashes shorter models.",
    "A missing pad token is no problem; the original raises TypeError.",
    "An encoder-decoder's labels are masked by length; the original masks every token that looks like padding.",
    "An example of which no output token is left is an error; the original's loss is NaN.",
    "Precision is float32 unless asked otherwise; the original takes the checkpoint's.",
)
"""What differs from the original although `compat` is on, a sentence each."""


def mean_of_batches(sums: Sequence[float], counts: Sequence[int], batch_size: int) -> float:
    """The mean over batches of the mean over what is in them, in the order of the examples.

    A last batch that is shorter counts as much as the others, as in the original.

    Args:
        sums: n sums of losses, one per example.
        counts: n numbers of terms in each sum: tokens, or 1.
        batch_size: examples per batch, >= 1.

    Example:
        >>> mean_of_batches([1.0, 2.0, 6.0], [1, 1, 1], 2)
        3.75
    """
    means = [
        math.fsum(sums[start : start + batch_size]) / sum(counts[start : start + batch_size])
        for start in range(0, len(sums), batch_size)
    ]
    return math.fsum(means) / len(means)

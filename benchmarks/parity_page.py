"""The tables of the comparison with LM_Cocktail as a page of Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_TOP = """# Parity with LM_Cocktail

Made by one command, which installs the original into an environment of its own, beside the same torch and transformers
that run here, and asks both for the same mixes:

    python benchmarks/parity_lm_cocktail.py -o docs/parity.md

With `--models KIND=A,B[,C]` (KIND: decoder, encoder, reranker, encoder-decoder) it compares any folders of yours, with
`--original FOLDER` the original's source in a folder. It exits with 1 if a number is not as it should be.
"""
_MERGES = """## Merged weights

*Most* is the largest distance to the exact weighted sum, in units in the last place of the largest term; 0.5 is the
best that a rounded number can do. *Off* is the part of the values for which there is a nearer number of their type. No
value of the original may be nearer than ours; the script checks every one. In a 16-bit mix up to one in a thousand may
be off, where the exact sum lies almost halfway between two numbers.
"""
_LOSSES = """## Losses and weights

`mix_models_with_data` with temperature 5, batches of 2, and as many negatives as the examples have, so that none is
drawn. Losses in nats. Ours are float32 whatever the checkpoint is; they must be within 1e-4 of the original's where it
computes in float32, too.
"""
_DEFECTS = """## Where we differ on purpose

The same call to both. What the defect is and what we do instead is told in
[migrate-from-lm-cocktail.md](migrate-from-lm-cocktail.md).
"""


def page(
    facts: Mapping[str, Any],
    merges: Sequence[Sequence[str]],
    losses: Sequence[Sequence[str]],
    defects: Sequence[Sequence[str]],
) -> str:
    """All of it, ready to be written."""
    theirs = ", ".join(f"{name} {version}" for name, version in facts["theirs"].items())
    ours = ", ".join(f"{name} {version}" for name, version in facts["ours"].items())
    lines = [
        _TOP,
        f"- original: {facts['original']}, with {theirs}",
        f"- ours: {ours}",
        f"- machine: {facts['machine']}; {facts['seconds'] / 60:.0f} minutes",
        f"- result: {'; '.join(facts['failures']) if facts['failures'] else 'everything as it should be'}",
        "",
        _MERGES,
        _table(
            ["models", "values", "type", "ours: most, off", "`mix_models`: most, off", "by layers: most, off"],
            merges,
        ),
        "",
        _LOSSES,
        _table(
            ["models", "our losses", "our weights", "its losses", "losses apart (relative)", "weights apart"], losses
        ),
        "",
        _DEFECTS,
        _table(["what is asked", "LM_Cocktail", "cocktail_hub"], defects),
        "",
    ]
    return "\n".join(lines)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells)

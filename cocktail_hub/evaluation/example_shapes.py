"""Examples in the shapes that people have, recognised by their columns and brought to ours."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "query": ("query", "anchor", "question", "sentence1", "sentence_A"),
    "pos": ("pos", "positive", "positives", "answer", "sentence2", "sentence_B", "passage", "document"),
    "neg": ("neg", "negative", "negatives"),
    "input": ("input", "prompt", "question", "instruction"),
    "output": ("output", "completion", "answer", "response"),
}
"""Our key -> the columns that it is read from; the first that an example has."""
GRADED = ("score", "similarity_score", "label")
"""Columns that grade a pair, so that its second text is no answer that is known to be right."""
BORROWED = 7
"""Most positives of other examples that a reranker's example without negatives gets as such."""
_NUMBERED = re.compile(r"neg(ative)?_?\d+")


def recognize(rows: Sequence[Any], keys: Sequence[str], *, borrow: bool = False) -> tuple[list[Any], str]:
    """Bring examples to the keys that scoring needs, by the columns of the first one.

    Args:
        rows: the examples as they are written.
        keys: `input, output` or `query, pos, neg`.
        borrow: give examples without negatives the positives of others. Otherwise they have none: an embedder's
            candidates are all passages anyway.

    Returns:
        The examples, and in words what is read from where; as they are, and no words, where nothing is recognised.
    """
    first = next((row for row in rows if isinstance(row, Mapping)), {})
    found = {key: next((name for name in COLUMNS[key] if name in first), None) for key in keys}
    if "input" in keys and "messages" in first:
        found = {"input": "messages", "output": "messages"}
    elif "input" in keys and "instruction" in first:
        found["input"] = "instruction"  # `input` is what it is about
    graded = "pos" in keys and found["pos"] != "pos" and any(name in first for name in GRADED)
    if (
        graded
        or any(name is None for key, name in found.items() if key != "neg")
        or all(k == v for k, v in found.items())
    ):
        return list(rows), ""
    numbered = sorted(filter(_NUMBERED.fullmatch, first), key=lambda name: int(re.sub(r"\D", "", name)))

    def brought(index: int, row: Any) -> Any:
        if not isinstance(row, Mapping):
            return row
        own = {key: _text(row[name]) for key, name in found.items() if name in row}
        if found.get("input") == "messages" and isinstance(row.get("messages"), Sequence) and row["messages"]:
            *before, last = row["messages"]
            own = {"input": _text(before), "output": _text([last])}
        elif found.get("input") == "instruction" and row.get("input"):
            own["input"] = f"{row['instruction']}\n\n{row['input']}"
        elif "neg" in keys and "neg" not in own:
            own["neg"] = [row[name] for name in numbered if row.get(name)]
            if borrow and not numbered:
                own["neg"] = positives_of_others(rows, index, str(found["pos"]))
        return {**row, **own}

    lender = ", ".join(f"`{name}`" for name in numbered) or "the other examples"
    words = {key: f"`{name}`" if name else lender for key, name in found.items() if name != key}
    return [brought(index, row) for index, row in enumerate(rows)], ", ".join(
        f"{key} from {where}" for key, where in words.items()
    )


def _text(value: Any) -> Any:
    """The texts of a conversation, joined; anything else as it is."""
    if isinstance(value, Sequence) and value and all(isinstance(one, Mapping) and "content" in one for one in value):
        return "\n\n".join(str(one["content"]) for one in value)
    return value


def positives_of_others(rows: Sequence[Any], index: int, column: str) -> list[str]:
    """Up to `BORROWED` positives of the examples that follow, the first after the last."""
    listed = [row.get(column, ()) if isinstance(row, Mapping) else () for row in (*rows[index:], *rows[:index])]
    own, *others = ([one] if isinstance(one, str) else list(one) for one in listed)
    return [text for text in dict.fromkeys(text for texts in others for text in texts) if text not in own][:BORROWED]

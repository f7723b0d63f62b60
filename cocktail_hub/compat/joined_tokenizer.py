"""One tokenizer with the tokens of several: the first one's keep their ids, what only others have comes after them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from cocktail_hub.errors import IncompatibleError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cocktail_hub.compat.vocabulary import Vocabulary

UNLIKELY = -100.0
"""Score of a token of a unigram model that is no piece of text."""


def join_tokenizers(vocabularies: Sequence[Vocabulary], tokens: Mapping[int, str]) -> bytes:
    """Return a tokenizer.json with all tokens, each under its id.

    Tokens that were added keep their flags. Those that a tokenizer learnt go on being found in its language as far as
    the first one's rules allow: its merges come after the first one's, its pieces keep their scores.

    Args:
        vocabularies: of the models, in the order of their tokens.
        tokens: every token by its id in the mix.

    Raises:
        IncompatibleError: a tokenizer is not of the kind of the first, but has learnt tokens that the first lacks.
    """
    first, *others = vocabularies
    joined: dict[str, Any] = json.loads(first.text)
    model, known = joined["model"], {*first.known.values()}
    joined["added_tokens"] = joined.get("added_tokens") or []
    ids = {token: number for number, token in tokens.items()}
    scores: dict[str, float] = {}
    for other in others:
        data = json.loads(other.text)
        joined["added_tokens"] += [
            {**token, "id": ids[token["content"]]}
            for token in data.get("added_tokens") or ()
            if token["content"] not in known
        ]
        learnt = set((other.tokens or ({}, {}))[0].values()) - known
        if learnt and (how := _kind(data)) != _kind(joined):
            raise IncompatibleError(
                f"Cannot join the tokenizer of '{other.name}' to that of '{first.name}': it is of another kind "
                f"({how} and {_kind(joined)}).\n"
                "Its tokens are found in text by other rules, which would be lost.\n"
                "Name one of the models under `tokenizer`: rows are then matched by token, and others left out.",
                model=other.name,
            )
        if learnt and model.get("merges") is not None:
            pairs, found = (
                [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in merges]  # older files have texts
                for merges in (model["merges"], data["model"].get("merges") or ())
            )
            paired = set(map(tuple, pairs))
            model["merges"] = [*pairs, *(pair for pair in found if tuple(pair) not in paired)]
        if isinstance(data["model"].get("vocab"), list):
            scores = {token: score for token, score in data["model"]["vocab"] if token in learnt} | scores
        known |= set(other.known.values())
    if isinstance(model.setdefault("vocab", {}), list):  # of a unigram model, where a place is an id
        for number in range(len(model["vocab"]), max(tokens) + 1):
            token = tokens.get(number, f"<|no token {number}|>")
            model["vocab"].append([token, scores.get(token, UNLIKELY)])
    else:  # all are in the model: the ids of added tokens that it lacks would be counted anew
        model["vocab"] |= ids
    joined["added_tokens"].sort(key=lambda token: token["id"])
    return (json.dumps(joined, ensure_ascii=False) + "\n").encode()


def _kind(data: Mapping[str, Any]) -> str:
    """What kind of model finds the tokens, and how it writes spaces and parts of words."""
    model, decoder = data["model"], data.get("decoder") or {}
    parts = [model.get("type"), decoder.get("type"), model.get("continuing_subword_prefix")]
    return ", ".join(str(part) for part in parts if part)

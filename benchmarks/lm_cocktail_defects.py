"""Calls on which the original is wrong, and what we answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parity_models import ANSWERS, PASSAGES, state_of

from cocktail_hub import mix_models, mix_models_by_layers, mix_models_with_data

if TYPE_CHECKING:
    from parity_lm_cocktail import Case

LONG = "the disk is full and the pod keeps crashing again and again " * 12
"""More tokens than the tiny encoders have positions for (64)."""


@dataclass(frozen=True)
class Defect:
    """One call that shows a defect."""

    name: str
    """What is asked for."""
    function: str
    arguments: dict[str, Any]
    """Of the original's function; ours gets the same."""
    ours: Callable[[], str]
    """Makes the call to us, and says what came of it in words."""
    expected: str
    """What our words must begin with."""
    seen: Callable[[Sequence[dict[str, Any]]], str]
    """What the original's runs show, in words."""
    times: int = 1
    """How often the original is asked."""
    keeps_spelling: bool = False
    """`example_data` stays spelt so for version 0.0.4, which spells it `example_ata`."""


def defects(tiny: dict[str, list[Path]], pair: Case | None, work: Path) -> list[Defect]:
    """Every defect that one call shows on the tiny models, and one that needs real ones."""
    paths = {kind: [str(folder) for folder in folders[:2]] for kind, folders in tiny.items()}
    found = [*_of_weights(paths, work), *_of_kinds(paths), *_of_scoring(paths)]
    return found if pair is None else [*found, _pooling(pair, work)]


def _of_weights(paths: dict[str, list[str]], work: Path) -> list[Defect]:
    def scaled(runs: Sequence[dict[str, Any]]) -> str:
        if "error" in runs[0]:
            return _raised(runs)
        from safetensors.torch import load_file

        merged = load_file(str(state))["embeddings.word_embeddings.weight"]
        first = state_of(Path(paths["encoder"][0]), "encoder")["embeddings.word_embeddings.weight"]
        return f"accepted; the merged embeddings have {float(merged.norm() / first.norm()):.2f} of the norm"

    state = work / "scaled" / "model.safetensors"
    low = {"model_names_or_paths": paths["encoder"], "model_type": "encoder", "weights": [0.2, 0.2]}
    thirds = {
        "model_names_or_paths": [*paths["encoder"], paths["encoder"][0]],
        "model_type": "encoder",
        "weights": [0.333, 0.333, 0.333],
    }

    def normalised() -> str:
        recipe = mix_models(**thirds).cocktail
        return f"divided by their sum: {sum(i['weight'] for i in recipe['ingredients']):.6f} in all"

    return [
        Defect(
            "weights [0.2, 0.2]",
            "mix_models",
            low | {"output_path": str(state.parent)},
            lambda: f"accepted{mix_models(**low) and ''}",
            "`RecipeError`: The weights sum to 0.4",
            scaled,
        ),
        Defect(
            "weights 0.333 three times",
            "mix_models",
            thirds,
            normalised,
            "divided by their sum: 1.000000",
            lambda runs: _raised(runs) or "accepted; every value is 0.999 of what it should be",
        ),
    ]


def _of_kinds(paths: dict[str, list[str]]) -> list[Defect]:
    half = {"weights": [0.5, 0.5]}
    reranker = {"model_names_or_paths": paths["reranker"], "model_type": "reranker"}
    t5 = {"model_names_or_paths": paths["encoder-decoder"], "model_type": "encoder-decoder"}
    return [
        Defect(
            "a reranker by layers",
            "mix_models_by_layers",
            reranker | half,
            lambda: f"a {type(mix_models_by_layers(**reranker, **half)).__name__}",
            "a BertForSequenceClassification",
            _raised,
        ),
        Defect(
            "an encoder-decoder with given weights",
            "mix_models",
            t5 | half,
            lambda: f"a {type(mix_models(**t5, **half)).__name__}",
            "a T5ForConditionalGeneration",
            _raised,
        ),
        _with_data("a reranker with examples", reranker | {"example_data": PASSAGES}, "weights"),
        _with_data(
            "an encoder-decoder with examples, spelt `example_data`",
            t5 | {"example_data": ANSWERS},
            "weights",
            keeps_spelling=True,
        ),
    ]


def _of_scoring(paths: dict[str, list[str]]) -> list[Defect]:
    encoder = {"model_names_or_paths": paths["encoder"], "model_type": "encoder"}
    decoder = {"model_names_or_paths": paths["decoder-unpadded"], "model_type": "decoder"}
    long = [PASSAGES[0] | {"query": LONG}, *PASSAGES[1:]]
    return [
        _with_data("fewer negatives than `neg_number` (7)", encoder | {"example_data": PASSAGES}, "weights"),
        _with_data(
            "one of several negatives, twice", encoder | {"example_data": PASSAGES, "neg_number": 1}, "weights", times=2
        ),
        _with_data(
            "a text longer than the model has positions, `max_input_length` left at 2048",
            encoder | {"example_data": long, "neg_number": 3},
            "weights",
        ),
        _with_data(
            "a decoder without a pad token",
            decoder | {"example_data": ANSWERS, "max_input_length": 64},
            "weights",
        ),
        _with_data(
            "`example_data`, as the README spells it",
            decoder | {"model_names_or_paths": paths["decoder"], "example_data": ANSWERS, "max_input_length": 64},
            "weights",
            keeps_spelling=True,
        ),
    ]


def _with_data(
    name: str, arguments: dict[str, Any], expected: str, *, times: int = 1, keeps_spelling: bool = False
) -> Defect:
    def ours() -> str:
        found = [mix_models_with_data(**arguments).cocktail for _ in range(times)]
        weights = [[f"{i['weight']:.6f}" for i in recipe["ingredients"]] for recipe in found]
        words = f"weights {' / '.join(weights[0])}"
        return words if times == 1 else f"{words} {'both times' if weights[0] == weights[1] else 'and others'}"

    def seen(runs: Sequence[dict[str, Any]]) -> str:
        if raised := _raised(runs):
            return raised
        losses = [" / ".join(f"{loss:.4f}" for loss in run["losses"]) for run in runs]
        return "losses " + ", then ".join(losses)

    wanted = expected if times == 1 else ""
    return Defect(
        name, "mix_models_with_data", arguments, ours, wanted, seen, times=times, keeps_spelling=keeps_spelling
    )


def _pooling(pair: Case, work: Path) -> Defect:
    """The folder that is written: do its modules pool as those of the models do?"""
    theirs, mine = work / "pooled-theirs", work / "pooled-ours"
    arguments = {"model_names_or_paths": pair.paths, "model_type": "encoder", "weights": [0.5, 0.5]}

    def pooling(folder: Path) -> str:
        config = json.loads((folder / "1_Pooling" / "config.json").read_text())
        old = next((key for key, value in config.items() if key.startswith("pooling_mode_") and value is True), "")
        name = config.get("pooling_mode") or old.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix(
            "_token"
        )
        return f"{name} pooling in the folder"

    def ours() -> str:
        mix_models(**arguments, output_path=str(mine))
        return pooling(mine)

    return Defect(
        "the folder of two embedders with mean pooling",
        "mix_models",
        arguments | {"output_path": str(theirs)},
        ours,
        "mean",
        lambda runs: _raised(runs) or pooling(theirs),
    )


def _raised(runs: Sequence[dict[str, Any]]) -> str:
    error = runs[0].get("error", "")
    return f"`{error if len(error) <= 100 else error[:97] + '...'}`" if error else ""

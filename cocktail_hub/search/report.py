"""How the weights were found: for a recipe's `evidence`, and for people."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from cocktail_hub.evaluation.outputs import digest_of
from cocktail_hub.recipe.weighting import LOCATING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cocktail_hub.evaluation.example_files import ExamplesFound
    from cocktail_hub.evaluation.settings import ScoringSettings
    from cocktail_hub.recipe import Weighting
    from cocktail_hub.search.softmax import Weights

FEW = 20
"""With fewer examples, a temperature from their noise is a guess."""
_COLUMNS = ("ingredient", "loss", "± s.e.", "weight")


def evidence_of(weights: Weights, found: ExamplesFound, digest: str, settings: ScoringSettings) -> dict[str, Any]:
    """Everything a reader needs to check the weights, as JSON values.

    Args:
        weights: of the rule `softmax` or `ensemble`.
        found: where the examples come from.
        digest: of the checked examples.
        settings: how the losses were computed.

    Returns:
        `weighting` (its keys but those that say where the examples are), `rule`, `temperature` (nats; with `auto:
        true` if it was found), `effective_number`, `noise` (paired standard error, nats), `gain` over equal weights
        (`mean`, `low`, `high`, `unit`), `sentence`, `examples` (`count`, `digest`, `source`, `revision`), `settings`
        (what decides a loss), and `ingredients`: in recipe order `model`, `loss`, `standard_error` (nats), `weight`,
        `outputs` (digest), `per_example`, `truncated`, `texts`, `tokens`, `reading`. Unknown values are left out.
    """
    rows = []
    for losses, weight in zip(weights.losses, weights.values, strict=True):
        data = losses.to_dict()
        row = {"model": data.pop("name"), "loss": data.pop("mean"), "standard_error": losses.standard_error}
        outputs = digest_of(losses.outputs) if losses.outputs else None
        rows.append(_known(row | {"weight": weight, "outputs": outputs} | data))
    return _known(
        {
            "rule": weights.rule,
            "temperature": weights.temperature,
            "auto": weights.auto or None,
            "effective_number": weights.effective_number,
            "noise": weights.noise,
            "gain": weights.gain and asdict(weights.gain),
            "sentence": weights.sentence or None,
            "examples": {"count": len(weights.losses[0].per_example), "digest": digest} | found.to_dict(),
            "settings": _known(settings.identity()),
            "weighting": how_weighed(settings.weighting),
            "ingredients": rows,
        }
    )


def how_weighed(weighting: Weighting) -> dict[str, Any]:
    """The keys of a recipe's `weighting` but those that say where the examples are."""
    return {key: value for key, value in weighting.to_dict().items() if key not in LOCATING}


def _known(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def table_of(weights: Weights, names: Sequence[str] = ()) -> str:
    """A table for people: loss in nats, its standard error and weight per ingredient, then what to know about them.

    Where mixes were tried, what each ingredient has alone is in place of the loss; `names` are the ingredients'.

    Example:
        >>> from cocktail_hub.evaluation.losses import Losses
        >>> from cocktail_hub.search.softmax import weigh
        >>> print(table_of(weigh([Losses.of(name, [loss]) for name, loss in (("a", 1.5), ("b", 2.0), ("c", 3.0))])))
        ingredient    loss  ± s.e.  weight
        a           1.5000       -   0.378
        b           2.0000       -   0.342
        c           3.0000       -   0.280
        effective number of ingredients: 2.96 of 3
        temperature 5 cannot tell these apart: 0.378 / 0.342 / 0.280
    """
    rows = [("ingredient", weights.metric, "weight") if weights.trials else _COLUMNS]
    alone = {trial.weights.index(1.0): trial.value for trial in weights.trials if 1.0 in trial.weights}
    for index, (name, weight) in enumerate(zip(names, weights.values, strict=True) if weights.trials else ()):
        rows.append((name, f"{alone[index]:.4g}" if index in alone else "-", f"{weight:.3f}"))
    for losses, weight in zip(weights.losses, weights.values, strict=False):
        error = losses.standard_error
        rows.append((losses.name, f"{losses.mean:.4f}", "-" if error is None else f"{error:.4f}", f"{weight:.3f}"))
    first, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
    lines = ["  ".join([name.ljust(first), *map(str.rjust, cells, widths)]) for name, *cells in rows]
    lines.append(f"effective number of ingredients: {weights.effective_number:.2f} of {len(weights.values)}")
    if weights.auto:
        lines.append(f"temperature: {weights.temperature:.3g} nats, from the noise of the losses")
        count = len(weights.losses[0].per_example)
        if count < FEW:
            unsure = 1 / math.sqrt(2 * (count - 1))  # of a standard deviation of that many normal numbers, about
            lines.append(
                f"{count} examples tell this noise only to within {unsure:.0%}: give {FEW} or more, or a number"
            )
    if weights.sentence:
        lines.append(weights.sentence)
    cut = [one for one in weights.losses if one.truncated]
    lines += [
        f"{one.name}: {one.truncated} of {one.texts} texts were longer than the limit and were cut" for one in cut
    ]
    return "\n".join(lines)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as text, each column as wide as its longest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)

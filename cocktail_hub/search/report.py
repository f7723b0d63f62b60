"""What the shares came from: for a recipe's `evidence`, and for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cocktail_hub.errors import ScoringError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cocktail_hub.evaluation.examples import Examples
    from cocktail_hub.evaluation.losses import Losses
    from cocktail_hub.evaluation.settings import ScoringSettings
    from cocktail_hub.search.softmax import Shares

_COLUMNS = ("ingredient", "loss", "± s.e.", "share")


def evidence_of(
    losses: Sequence[Losses], shares: Shares, *, examples: Examples, settings: ScoringSettings
) -> dict[str, Any]:
    """Everything a reader needs to check the shares, as plain JSON values.

    Returns:
        `rule`, `temperature` (nats; with `auto: true` when it was found), `effective_number`, `noise` (paired
        standard error, nats), `sentence`, `examples` (`count`, `digest`), `settings` (what decides a loss), and
        `ingredients`: in recipe order `model`, `loss`, `standard_error` (nats), `share`, `per_example`,
        `truncated`, `texts`, `tokens`. Numbers that are unknown are left out.

    Raises:
        ScoringError: not one loss per share.
    """
    if len(losses) != len(shares.weights):
        raise ScoringError(f"There are {len(losses)} losses, but {len(shares.weights)} shares.")
    shown = {
        "rule": shares.rule,
        "temperature": shares.temperature,
        "auto": shares.auto or None,
        "effective_number": shares.effective_number,
        "noise": shares.noise,
        "sentence": shares.sentence or None,
        "examples": {"count": len(examples), "digest": examples.digest},
        "settings": {key: value for key, value in settings.identity().items() if value is not None},
        "ingredients": [_row(one, share) for one, share in zip(losses, shares.weights, strict=True)],
    }
    return {key: value for key, value in shown.items() if value is not None}


def _row(losses: Losses, share: float) -> dict[str, Any]:
    data = losses.to_dict()
    shown = {"model": data.pop("name"), "loss": data.pop("mean"), "standard_error": losses.standard_error}
    return {key: value for key, value in (shown | {"share": share} | data).items() if value is not None}


def table_of(losses: Sequence[Losses], shares: Shares) -> str:
    """A table for people: loss in nats, its standard error and share per ingredient, then what to know about them.

    Example:
        >>> from cocktail_hub.evaluation.losses import Losses
        >>> from cocktail_hub.search.softmax import weigh
        >>> three = [Losses.of(name, [loss]) for name, loss in (("a", 1.5), ("b", 2.0), ("c", 3.0))]
        >>> print(table_of(three, weigh(three)))
        ingredient    loss  ± s.e.  share
        a           1.5000       -  0.378
        b           2.0000       -  0.342
        c           3.0000       -  0.280
        effective number of ingredients: 2.96 of 3
        temperature 5 cannot tell these apart: 0.378 / 0.342 / 0.280
    """
    rows = [_COLUMNS, *(_cells(one, share) for one, share in zip(losses, shares.weights, strict=True))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    lines = [
        "  ".join(cell.ljust(width) if place == 0 else cell.rjust(width) for place, (cell, width) in enumerate(pairs))
        for pairs in (zip(row, widths, strict=True) for row in rows)
    ]
    lines.append(f"effective number of ingredients: {shares.effective_number:.2f} of {len(shares.weights)}")
    if shares.auto and shares.temperature is not None:
        lines.append(f"temperature: {shares.temperature:.3g} nats, from the noise of the losses")
    if shares.sentence:
        lines.append(shares.sentence)
    return "\n".join([*lines, *_truncations(losses)])


def _cells(losses: Losses, share: float) -> tuple[str, str, str, str]:
    error = losses.standard_error
    return losses.name, f"{losses.mean:.4f}", "-" if error is None else f"{error:.4f}", f"{share:.3f}"


def _truncations(losses: Sequence[Losses]) -> list[str]:
    return [
        f"{one.name}: {one.truncated} of {one.texts} texts were longer than the limit and were cut"
        for one in losses
        if one.truncated
    ]

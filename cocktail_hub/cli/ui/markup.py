"""What the page shows: plain values as HTML that reads well in both themes, by ear and on a telephone."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from cocktail_hub.cli.output import size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cocktail_hub.cli.ui.answers import Answer
    from cocktail_hub.compat.preview import Preview

WIDTH, HEIGHT, LEFT, BOTTOM = 360, 220, 44, 34
"""A chart, and the margins of its axes, in its own units."""


def error(message: object) -> str:
    """An error of three lines: what is wrong, and below why and how to fix it."""
    what, *rest = str(message).strip().split("\n")
    return f'<div class="note bad" role="alert"><b>{escape(what)}</b><p>{"<br>".join(map(escape, rest))}</p></div>'


def preview(found: Preview) -> str:
    """What a mix would take, as a table of models and a line of facts."""
    rows = "".join(
        f"<tr><td>{escape(one.model)}</td><td>{size(one.nbytes)}</td><td>{escape(one.license or 'not said')}</td></tr>"
        for one in found.models
    )
    facts = {
        "Download": size(found.to_download),
        "Result": size(found.output_bytes),
        "Disk": f"at most {size(found.peak_disk)}",
        "Memory": size(found.peak_memory),
        "Licence": found.license or "none named",
    }
    shown = "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items())
    notes = "".join(f"<li>{escape(note)}</li>" for note in (*found.notes, found.license_note) if note)
    return (
        f'<div class="note good" role="status"><b>These models fit together.</b> '
        f"{escape(found.architecture or 'Modules')} for {escape(found.task)}, {found.tensors} tensors.</div>"
        f'<dl class="facts">{shown}</dl><div class="scroll"><table><thead><tr><th>Model</th><th>Size</th><th>Licence'
        f"</th></tr></thead><tbody>{rows}</tbody></table></div>{f'<ul>{notes}</ul>' if notes else ''}"
    )


def progress(title: str, percent: int | None, details: str) -> str:
    """A bar; one that only moves where it is not known how much is done."""
    value = "" if percent is None else f' value="{percent}" max="100"'
    return (
        f'<div class="work"><label>{escape(title)} <span>{"" if percent is None else f"{percent} %"}</span>'
        f"<progress{value}></progress></label><small>{escape(details)}</small></div>"
    )


def done(sentence: str, *, link: str = "", code: str = "") -> str:
    """A result in one sentence, perhaps with an address or a name to copy."""
    address = f'<p><a href="{escape(link)}" target="_blank" rel="noopener">{escape(link)}</a></p>' if link else ""
    copied = f"<p><code>{escape(code)}</code></p>" if code else ""
    return f'<div class="note good" role="status"><b>{escape(sentence)}</b>{address}{copied}</div>'


def side_by_side(found: Sequence[Answer]) -> str:
    """One card a model, the mix first."""
    cards = []
    for answer in found:
        items = "".join(f"<li><span>{escape(text)}</span> <b>{score:.3f}</b></li>" for text, score in answer.ranked)
        body = f"<ol>{items}</ol>" if items else f"<p>{escape(answer.text) or '<i>nothing</i>'}</p>"
        cards.append(f"<article><h4>{escape(answer.model)}</h4>{body}</article>")
    return f'<div class="cards" role="status">{"".join(cards)}</div>'


def charts(found: Mapping[str, Any]) -> str:
    """The curves of a sweep that decide, with what was measured and the chosen point, and what follows from them.

    `found` is what `cocktail sweep --json` prints.
    """
    first: dict[str, Mapping[str, Any]] = {}
    for curve in found["curves"]:
        first.setdefault(curve["examples"], curve)
    drawn = "".join(chart(curve, found["positions"], found["chosen"]) for curve in first.values())
    sentences = "".join(f"<li>{escape(one)}</li>" for one in found["sentence"].split("; "))
    head = f"Chosen: {found['chosen']:g} of {found['over']}"
    return f'<div role="status"><p><b>{escape(head)}</b></p><div class="cards">{drawn}</div><ul>{sentences}</ul></div>'


def chart(curve: Mapping[str, Any], positions: Sequence[float], chosen: float) -> str:
    """One curve with its band, what was measured, and the chosen point, as SVG."""
    measured = [(float(at), figure) for at, figure in curve["measured"].items()]
    every = [end for figure in (*curve["predicted"], *(one for _, one in measured)) for end in figure["interval"]]
    low, high = min(every), max(every)
    span = (high - low) or 1.0

    def at(x: float, y: float) -> str:
        return f"{LEFT + x * (WIDTH - LEFT - 10):.1f},{10 + (high - y) / span * (HEIGHT - BOTTOM - 10):.1f}"

    line = " ".join(at(x, one["value"]) for x, one in zip(positions, curve["predicted"], strict=True))
    lows = [at(x, one["interval"][0]) for x, one in zip(positions, curve["predicted"], strict=True)]
    highs = [at(x, one["interval"][1]) for x, one in zip(positions, curve["predicted"], strict=True)]
    dots = "".join(
        '<circle cx="{}" cy="{}" r="4"/>'.format(*at(x, figure["value"]).split(",")) for x, figure in measured
    )
    cross, floor = at(chosen, low).split(",")
    ticks = "".join(
        f'<text x="{at(x, low).split(",")[0]}" y="{HEIGHT - 18}" text-anchor="middle">{x:g}</text>' for x in (0, 0.5, 1)
    ) + "".join(
        f'<text x="{LEFT - 6}" y="{float(at(0, y).split(",")[1]) + 4:.1f}" text-anchor="end">{y:.3g}</text>'
        for y in (low, high)
    )
    title = escape(f"{curve['examples']}, {curve['metric']}")
    return (
        f'<figure><figcaption>{title}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}: '
        f'predicted curve, {len(measured)} measured points, chosen {chosen:g}"><polygon points="'
        f'{" ".join([*lows, *reversed(highs)])}"/><polyline points="{line}"/>{dots}'
        f'<line x1="{cross}" x2="{cross}" y1="10" y2="{floor}"/>{ticks}'
        f'<text x="{cross}" y="{HEIGHT - 3}" text-anchor="middle">chosen</text></svg></figure>'
    )

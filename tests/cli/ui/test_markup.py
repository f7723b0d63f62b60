from __future__ import annotations

import re
from xml.etree import ElementTree as ET

from cocktail_hub.cli.ui import markup
from cocktail_hub.cli.ui.answers import Answer
from cocktail_hub.compat.preview import ModelPreview, Preview


def words(html: str) -> str:
    """The text of well-formed markup, its spaces made one."""
    return " ".join(" ".join(ET.fromstring(html.replace("<br>", "<br/>")).itertext()).split())


def test_an_error_is_read_out_and_cannot_bring_markup_of_its_own() -> None:
    shown = markup.error("Cannot mix '<b>a</b>'.\nWhy & what.\nFix it.")
    assert 'role="alert"' in shown
    assert "<b>a</b>" not in shown
    assert words(shown) == "Cannot mix '<b>a</b>'. Why & what. Fix it."


def test_a_preview_names_sizes_licences_and_notes() -> None:
    models = [
        ModelPreview(model="org/<a>", revision=None, weight=0.5, nbytes=1500, to_download=0, license=one)
        for one in ("mit", None)
    ]
    found = Preview(
        method="linear",
        architecture="BertModel",
        task="feature-extraction",
        models=tuple(models),
        tensors=3,
        output_bytes=2000,
        files=("model.safetensors",),
        input_bytes=3000,
        largest_file=2000,
        largest_input=3000,
        to_download=0,
        peak_disk=2000,
        peak_memory=10**6,
        license=None,
        license_note="Ask <them>.",
        numbers={},
        notes=("A note.",),
    )
    shown = words(f"<div>{markup.preview(found)}</div>")
    assert "These models fit together. BertModel for feature-extraction, 3 tensors." in shown
    assert "org/<a> 1.5 kB mit org/<a> 1.5 kB not said A note. Ask <them>." in shown
    assert "Disk at most 2.0 kB Memory 1.0 MB Licence none named" in shown


def test_progress_shows_how_much_is_done_where_that_is_known() -> None:
    assert 'value="40" max="100"' in markup.progress("Merging", 40, "1/2 GB")
    assert words(markup.progress("Merging", 40, "1/2 GB")) == "Merging 40 % 1/2 GB"
    assert "<progress></progress>" in markup.progress("Reading", None, "")


def test_answers_stand_side_by_side() -> None:
    ranked = Answer(model="The mix", ranked=(("a <cat>", 0.5), ("a dog", 0.25)))
    shown = markup.side_by_side([ranked, Answer(model="org/a", text="Yes & no")])
    assert words(shown) == "The mix a <cat> 0.500 a dog 0.250 org/a Yes & no"
    assert shown.count("<article>") == 2
    assert "nothing" in markup.side_by_side([Answer(model="org/a")])


def test_a_curve_has_its_points_where_they_belong() -> None:
    figures = [{"value": value, "interval": [value - 10, value + 10]} for value in (20.0, 40.0, 30.0)]
    curve = {"examples": "mine", "metric": "MRR", "predicted": figures, "measured": {"0.5": figures[1]}}
    found = {"over": "org/b", "positions": [0, 0.5, 1], "chosen": 0.5, "curves": [curve, {**curve, "metric": "loss"}]}
    shown = markup.charts({**found, "sentence": "mine: better; mine: worse"})
    assert words(shown).startswith("Chosen: 0.5 of org/b mine, MRR")
    assert shown.count("<svg") == 1, "the metric that decides"
    assert re.findall(r'<polyline points="([^"]*)"', shown) == ["44.0,142.0 197.0,54.0 350.0,98.0"]
    assert '<circle cx="197.0" cy="54.0"' in shown
    assert '<line x1="197.0" x2="197.0"' in shown
    assert "<li>mine: better</li><li>mine: worse</li>" in shown


def test_a_result_is_a_link_or_a_name_to_copy() -> None:
    assert 'href="https://hf.co/a?b=&quot;"' in markup.done("Published.", link='https://hf.co/a?b="')
    assert words(markup.done("Mixed.", code="/tmp/<x>")) == "Mixed. /tmp/<x>"

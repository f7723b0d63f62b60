"""A card put into a README that is there already."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import yaml
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cocktail_hub.errors import PublishError
from cocktail_hub.publishing.card.facts import LicenseInfo
from cocktail_hub.publishing.card.header import (
    END,
    START,
    YAML_BLOCK,
    change_metadata,
    drop_section,
    merge_readme,
    read_metadata,
    split_readme,
)
from cocktail_hub.publishing.card.render import render_card

if TYPE_CHECKING:
    from cocktail_hub.publishing.card.facts import CardFacts
    from cocktail_hub.recipe import ResolvedRecipe

pytestmark = pytest.mark.filterwarnings("error")
SLOW_FIXTURES = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)


@pytest.fixture
def card(recipe: ResolvedRecipe, facts: CardFacts) -> str:
    return render_card(recipe, facts)


@pytest.fixture
def later(recipe: ResolvedRecipe, facts: CardFacts) -> str:
    """Another card of the same repo: other licence, kind and repo."""
    licenses = dict.fromkeys(facts.licenses, LicenseInfo(license="mit"))
    return render_card(recipe, replace(facts, form="recipe", licenses=licenses, pipeline_tag=None, languages={}))


def _data(readme: str) -> dict[str, object]:
    return yaml.safe_load(split_readme(readme).block)


def _outside(readme: str) -> tuple[str, str]:
    """What stands before and after our section, without the metadata."""
    body = split_readme(readme).body
    return body[: body.index(START)], body[body.index(END) + len(END) :]


@pytest.mark.parametrize("existing", [None, "", "\n \n", "\ufeff\n"])
def test_where_there_is_no_readme_the_card_is_the_readme(card, existing) -> None:
    assert merge_readme(existing, card) == card


def test_merging_a_card_into_itself_changes_nothing(card) -> None:
    assert merge_readme(card, card) == card


def test_a_new_card_replaces_the_old_one(card, later) -> None:
    merged = merge_readme(card, later)
    assert merged.count(START) == merged.count(END) == 1
    assert "This repo contains no weights" in merged
    assert "These weights are" not in merged
    assert _data(merged) == _data(later)  # language and pipeline_tag were ours: they went


def test_what_the_user_wrote_around_the_section_stays(card, later) -> None:
    mine = card.replace("# bge-hotpot\n", "# My own title\n\nFirst words.\n") + "\n## Evaluation\n\nGood.\n"
    merged = merge_readme(mine, later)
    assert _outside(merged) == _outside(mine)


def test_a_readme_without_a_section_gets_it_at_the_end(card) -> None:
    existing = "---\n# our team\nlicense: mit # from legal\ntags: [a, b]\n\nlanguage:\n- de\n---\n# Mine\n\nText\n"
    merged = merge_readme(existing, card)
    assert merged.startswith(
        "---\nlicense: mit\ntags:\n- a\n- b\n- merge\n- lm-cocktail\n- cocktail-hub\n"
        "language:\n- de\nbase_model:\n- BAAI/bge-base-en-v1.5\n- Shitao/bge-hotpotqa\n"
        "base_model_relation: merge\nlibrary_name: transformers\npipeline_tag: feature-extraction\n"
        "---\n# Mine\n\nText\n\n<!-- cocktail_hub: start -->\n"
    )
    assert merged.endswith("\n<!-- cocktail_hub: end -->\n")
    assert "# bge-hotpot" not in merged


def test_the_users_licence_and_language_stay_on_every_publication(card, later) -> None:
    existing = "---\nlicense: other\nlicense_name: mine\nlanguage: de\n---\n# Mine\n"
    merged = merge_readme(merge_readme(existing, card), later)
    assert {key: _data(merged)[key] for key in ("license", "license_name", "language")} == {
        "license": "other",
        "license_name": "mine",
        "language": "de",
    }
    assert "license_link" not in _data(merged)


def test_a_licence_that_the_user_changed_is_the_users(card, later) -> None:
    edited = card.replace("license: apache-2.0", "license: gpl-3.0")
    assert _data(merge_readme(edited, later))["license"] == "gpl-3.0"


def test_our_tags_of_last_time_go_and_the_users_stay(recipe, facts, card) -> None:
    embedder = render_card(
        recipe, replace(facts, library="sentence-transformers", load_classes=("SentenceTransformer",))
    )
    existing = merge_readme("---\ntags:\n- mine\n- merge\n---\n# Mine\n", embedder)
    assert _data(existing)["tags"] == [
        *("mine", "merge", "lm-cocktail", "cocktail-hub"),
        *("sentence-transformers", "feature-extraction", "sentence-similarity"),
    ]
    assert _data(merge_readme(existing, card))["tags"] == ["mine", "merge", "lm-cocktail", "cocktail-hub"]


def test_a_pipeline_tag_of_the_user_stays_where_the_card_has_none(card, later) -> None:
    edited = card.replace("pipeline_tag: feature-extraction", "pipeline_tag: text-ranking")
    assert _data(merge_readme(edited, later))["pipeline_tag"] == "text-ranking"
    assert _data(merge_readme(edited, card))["pipeline_tag"] == "feature-extraction"


def test_metadata_alone_gets_the_whole_card_below_it(card) -> None:
    merged = merge_readme("---\nlicense: mit\n---\n", card)
    assert "license: mit\n" in merged
    assert "\n---\n\n# bge-hotpot\n\n<!-- cocktail_hub: start -->" in merged


def test_text_without_metadata_gets_it_in_front(card) -> None:
    merged = merge_readme("# Mine\n\nText", card)
    assert merged.startswith("---\nbase_model:\n- BAAI")
    assert "\n---\n\n# Mine\n\nText\n\n<!-- cocktail_hub: start -->" in merged
    assert _data(merged) == _data(card)


def test_windows_line_endings_stay(card, later) -> None:
    existing = "---\r\nlicense: mit\r\n---\r\n# Mine\r\n\r\nText\r\n"
    merged = merge_readme(existing, card)
    assert "\n" not in merged.replace("\r\n", "")
    assert merged.replace("\r\n", "\n") == merge_readme(existing.replace("\r\n", "\n"), card)
    assert merge_readme(merged, card) == merged
    assert "\n" not in merge_readme(merged, later).replace("\r\n", "")


@pytest.mark.parametrize("existing", ["\ufeff---\nlicense: mit\n---\n# Mine\n", "\ufeff# Mine\n"])
def test_a_byte_order_mark_stays_at_the_start(card, existing: str) -> None:
    merged = merge_readme(existing, card)
    assert merged.startswith("\ufeff---\n")
    assert merged.count("\ufeff") == 1
    assert merge_readme(merged, card) == merged


@pytest.mark.parametrize(
    ("marks", "message"),
    [
        (START, "1 line.*and 0 line"),
        (END, "0 line.*and 1 line"),
        (f"{END}\n{START}", "not one pair in order"),
        (f"{START}\n{END}\n{START}\n{END}", "2 line.*and 2 line"),
    ],
)
def test_marks_that_are_not_one_pair_are_refused(card, marks: str, message: str) -> None:
    with pytest.raises(PublishError, match=message):
        merge_readme(f"# Mine\n{marks}\n", card)


@pytest.mark.parametrize("block", ["license: [mit", "- a\n- b", "just text", "a: 1\na\tb: 2"])
def test_metadata_that_cannot_be_read_is_refused(card, block: str) -> None:
    with pytest.raises(PublishError, match="metadata at the top of the README cannot be read"):
        merge_readme(f"---\n{block}\n---\n# Mine\n", card)


def test_a_record_that_the_user_broke_takes_nothing_away(card, later) -> None:
    edited = card.replace('with {"base', "with {base")
    assert _data(merge_readme(edited, later))["language"] == "en"


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ("a: 1\nb: 2", "a: 1\nb: x"),
        ("b:\n- k: 1\n  l:\n    m: 2\na: 1", "b: x\na: 1"),
        ("b:\na: 1", "b: x\na: 1"),
        ('"b": 2\na: "1"', 'b: x\na: "1"'),
        ("", "b: x"),
        ("# nothing yet", "b: x"),
        ("{a: 1, b: 2}", "a: 1\nb: x"),
        ("b: &b 2\na: *b", "b: x\na: 2"),
        ("a: 1\nb: 2\na: 3", "a: 3\nb: x"),
        ("language: no\nday: 2024-01-02\nrate: 1e-5", "language: no\nday: 2024-01-02\nrate: 1e-5\nb: x"),
        ("a: |\n  two\n  lines\nc: 1", "a: |\n  two\n  lines\nc: 1\nb: x"),
    ],
)
def test_one_key_changes_and_the_others_stay_as_they_are_written(block: str, expected: str) -> None:
    assert change_metadata(block, {"b": "x"}) == expected


@pytest.mark.parametrize(
    ("block", "expected"),
    [("a: 1\nb: 2\nc: 3", "a: 1\nc: 3"), ("b: 2\nc: 3", "c: 3"), ("a: 1\nb:\n- 2\n- 3", "a: 1"), ("b: 2", "")],
)
def test_a_key_can_be_removed(block: str, expected: str) -> None:
    assert change_metadata(block, {"b": None}) == expected


def test_metadata_that_is_right_already_is_left_as_it_is_written() -> None:
    block = "b:   'x'   # quoted\na: [ 1 ]"
    assert change_metadata(block, {"b": "x", "a": [1], "c": None}) == block


TEXT = st.text(
    st.sampled_from("ab -#`|<>!\n\t*_:[]{}é") | st.characters(blacklist_categories=["Cs", "Cc"]), max_size=60
)
VALUES = st.one_of(
    st.text(max_size=8), st.integers(), st.booleans(), st.none(), st.lists(st.text(max_size=5), max_size=3)
)
KEYS = st.sampled_from(["license", "tags", "base_model", "datasets", "language", "extra key", "no", "pipeline_tag"])


@SLOW_FIXTURES
@given(
    data=st.none() | st.dictionaries(KEYS, VALUES, max_size=5),
    body=TEXT,
    after=TEXT,
    crlf=st.booleans(),
    bom=st.booleans(),
)
@pytest.mark.slow
def test_merging_keeps_the_rest_and_is_idempotent(*, card, later, data, body, after, crlf, bom) -> None:
    block = "" if data is None else yaml.safe_dump(data, allow_unicode=True, sort_keys=False)
    data = yaml.safe_load(block)  # not what was drawn: PyYAML reads a line break of Unicode that it wrote as a space
    head = "" if data is None else f"---\n{block}---\n"
    existing = ("\ufeff" if bom else "") + head + body
    existing = existing.replace("\n", "\r\n") if crlf else existing
    merged = merge_readme(existing, card)
    assert merge_readme(merged, card) == merged
    extended = merged + (after.replace("\n", "\r\n") if "\r\n" in merged else after)
    again = merge_readme(extended, later)
    assert _outside(again) == _outside(extended)
    assert merge_readme(again, later) == again
    if existing.removeprefix("\ufeff").strip():
        parts = split_readme(existing)
        assert merged.startswith(parts.before)
        assert not parts.body.strip() or parts.body in merged
        kept = {key: value for key, value in (data or {}).items() if key not in ("tags", *_data(card))}
        assert kept.items() <= _data(merged).items()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("---\nlicense: mit\n---\n# Hi\n", {"license": "mit"}),
        ("\ufeff---\r\nlicense: mit\r\n---\r\n", {"license": "mit"}),
        ("# No metadata, though it says license: mit\n", {}),
        ("---\nlicense: [mit\n---\n", {}),
        ("---\n- license\n---\n", {}),
    ],
)
def test_metadata_of_others_is_read_where_it_is_valid(text: str, expected: dict[str, object]) -> None:
    assert read_metadata(text) == expected


def test_dropping_the_section_leaves_what_the_user_wrote(card) -> None:
    assert drop_section(merge_readme("---\nlicense: gpl-3.0\n---\n# Mine\n", card)) == (
        "---\nlicense: gpl-3.0\n---\n# Mine\n"
    )
    assert drop_section("# Mine\n") == "# Mine\n"


def test_metadata_is_where_the_hubs_client_looks_for_it() -> None:
    assert (YAML_BLOCK.pattern, YAML_BLOCK.flags) == (REGEX_YAML_BLOCK.pattern, REGEX_YAML_BLOCK.flags)

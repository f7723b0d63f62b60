"""Names and texts written by others stay plain text in Markdown."""

from __future__ import annotations

import pytest

from cocktail_hub.publishing.card.markdown import code, escape, fenced, link, listing, table


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a_b-c.d", "a_b-c.d"),
        ("_a_ *b* [c]<d>", "\\_a\\_ \\*b\\* \\[c\\]\\<d\\>"),
        ("two\n lines", "two lines"),
    ],
)
def test_markup_is_escaped(text: str, expected: str) -> None:
    assert escape(text) == expected


@pytest.mark.parametrize(("text", "expected"), [("a", "`a`"), ("a`b", "``a`b``"), ("`a`", "`` `a` ``")])
def test_code_is_set_in_more_backticks_than_it_contains(text: str, expected: str) -> None:
    assert code(text) == expected


def test_a_code_block_cannot_be_ended_from_inside() -> None:
    assert fenced("```\nx\n```\n", "md") == "````md\n```\nx\n```\n````"


def test_an_address_cannot_end_its_link() -> None:
    assert link("a", "https://x/(é b)") == "[a](https://x/%28é%20b%29)"


def test_a_cell_cannot_end_its_column() -> None:
    assert table(["a"], [["b|c"]]) == "| a |\n| --- |\n| b\\|c |"


@pytest.mark.parametrize(("items", "expected"), [([], ""), (["a"], "a"), (["a", "b", "c"], "a, b and c")])
def test_a_list_reads_as_a_sentence(items: list[str], expected: str) -> None:
    assert listing(items) == expected

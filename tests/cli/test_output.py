"""Sizes, tables and errors, as the command prints them."""

from __future__ import annotations

import pytest

from cocktail_hub.cli.output import error_message, say, size, table
from cocktail_hub.errors import RecipeError, printable


@pytest.mark.parametrize(
    ("nbytes", "expected"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (90_900_000, "90.9 MB"), (2e15, "2.0 PB"), (5e18, "5000.0 PB")],
)
def test_sizes_have_decimal_units(nbytes: float, expected: str) -> None:
    assert size(nbytes) == expected


def test_columns_are_as_wide_as_their_longest_cell() -> None:
    assert table(["a", "b"], [["long", "c"], ["", "dd"]]) == "a     b\nlong  c\n      dd"


def test_what_models_say_cannot_move_the_cursor_or_turn_a_line_around() -> None:
    assert printable("a\x1b[31mb\u202ec\r\n\u00fc\tz") == "a\\u001b[31mb\\u202ec\\u000d\n\u00fc\tz"
    assert table(["m"], [["\x07"]]) == "m\n\\u0007"


def test_tokens_are_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"https://me:hf_{'x' * 34}@hub/a hf_{'y' * 40}")
    assert capsys.readouterr().err == "https://hub/a hf_***\n"
    assert str(RecipeError(f"hf_{'x' * 34}")) == "hf_***"


def test_errors_of_the_system_are_told_apart_from_those_of_the_recipe() -> None:
    assert error_message(RecipeError("Unknown key.")) == "Unknown key."
    assert error_message(OSError("No space left")).startswith("No space left\nThe system or the network reported this")


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("Set HF_HOME, or pass `cache_dir` (`--cache-dir`).", "Set HF_HOME, or pass `--cache-dir`."),
        ("pass `token=`; leave out `local_files_only=True`", "pass `--token`; leave out `--local-files-only`"),
        ("`device` is 'gpu'; `replace=True`, `as_`", "`--device` is 'gpu'; `--force`, `--as`"),
        ("`weights` and `tokenizer` are keys of a recipe", "`weights` and `tokenizer` are keys of a recipe"),
    ],
)
def test_keywords_are_options_in_errors(said: str, shown: str) -> None:
    assert error_message(RecipeError(said)) == shown

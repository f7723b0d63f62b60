"""What a publication remembers of what it sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cocktail_hub.hub import Uploaded
from cocktail_hub.merge.engine.upload_journal import JOURNAL, SentJournal

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", "{}", "\x00", '{"plan": "p"}', '{"plan": "p", "sent": {"a": [1]}, "merged": {}}'],
)
def test_a_damaged_journal_is_not_believed(tmp_path: Path, text: str) -> None:
    (tmp_path / JOURNAL).write_text(text)
    (tmp_path / "a").write_bytes(b"x")
    journal = SentJournal(tmp_path, "p")
    assert journal.sent == {}
    assert journal.merged("a", tmp_path / "a") is None


def test_what_waits_is_forgotten_when_it_is_sent_and_by_another_plan(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    journal = SentJournal(tmp_path, "p")
    journal.record_merged("a", "f" * 64)
    assert SentJournal(tmp_path, "p").merged("a", tmp_path / "a") == "f" * 64
    journal.record_sent("a", Uploaded(size=1, sha256="f" * 64))
    again = SentJournal(tmp_path, "p")
    assert (again.merged("a", tmp_path / "a"), list(again.sent)) == (None, ["a"])
    assert SentJournal(tmp_path, "other").sent == {}

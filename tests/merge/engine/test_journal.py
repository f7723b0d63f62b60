from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from merge_helpers import model, plan, save_all

from cocktail_hub.merge.engine.journal import JOURNAL, Entry, Journal

if TYPE_CHECKING:
    from pathlib import Path

    from cocktail_hub.merge.plan import MergePlan


@pytest.fixture
def made(tmp_path: Path) -> MergePlan:
    return plan(save_all(tmp_path, [model(0), model(1)]), weights=[0.5, 0.5], max_shard_size=5000)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def finish(folder: Path, made: MergePlan, index: int, *, suffix: str = "") -> Entry:
    """Put a file of the right size where a finished shard would be."""
    shard = made.shards[index]
    (folder / (shard.path + suffix)).write_bytes(bytes(shard.nbytes))
    return Entry(shard.nbytes, f"{index:064x}")


def test_a_finished_shard_is_remembered(made: MergePlan, out: Path) -> None:
    entry = finish(out, made, 0)
    Journal(out, made).record(made.shards[0].path, entry)
    assert Journal(out, made).finished == {made.shards[0].path: entry}


def test_a_shard_that_was_recorded_but_not_renamed_is_finished(made: MergePlan, out: Path) -> None:
    journal = Journal(out, made)
    entry = finish(out, made, 0, suffix=".incomplete")
    journal.record(made.shards[0].path, entry)
    assert Journal(out, made).finished == {made.shards[0].path: entry}
    assert (out / made.shards[0].path).is_file()
    assert not (out / (made.shards[0].path + ".incomplete")).exists()


def test_a_file_that_was_not_recorded_is_not_finished(made: MergePlan, out: Path) -> None:
    finish(out, made, 0)
    assert Journal(out, made).finished == {}


def test_an_unfinished_file_is_removed(made: MergePlan, out: Path) -> None:
    finish(out, made, 1, suffix=".incomplete")
    Journal(out, made)
    assert [path.name for path in out.iterdir()] == [JOURNAL]


def test_an_uploaded_shard_needs_no_file(made: MergePlan, out: Path) -> None:
    first, *others = made.shards
    entry = Entry(first.nbytes, "f" * 64, uploaded=True)
    Journal(out, made).record(first.path, entry)
    again = Journal(out, made)
    assert again.finished == {first.path: entry}
    assert again.missing == others


@pytest.mark.parametrize("change", ["gone", "shorter"])
def test_an_entry_without_its_file_is_dropped(made: MergePlan, out: Path, change: str) -> None:
    path = out / made.shards[0].path
    Journal(out, made).record(made.shards[0].path, finish(out, made, 0))
    path.unlink() if change == "gone" else path.write_bytes(b"x")
    assert Journal(out, made).finished == {}
    assert json.loads((out / JOURNAL).read_text())["finished"] == {}


def test_the_journal_of_another_plan_is_not_believed(made: MergePlan, out: Path, tmp_path: Path) -> None:
    Journal(out, made).record(made.shards[0].path, finish(out, made, 0))
    folders = [tmp_path / "m0", tmp_path / "m1"]
    assert Journal(out, plan(folders, weights=[0.4, 0.6], max_shard_size=5000)).finished == {}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"plan": 1, "finished": 3}', '{"finished": {"a": [1]}}', "\x00"])
def test_a_damaged_journal_is_not_believed(made: MergePlan, out: Path, text: str) -> None:
    (out / JOURNAL).write_text(text)
    assert Journal(out, made).finished == {}


def test_a_removed_journal_is_gone(made: MergePlan, out: Path) -> None:
    journal = Journal(out, made)
    journal.remove()
    journal.remove()
    assert list(out.iterdir()) == []


def test_what_the_shards_are_made_of_is_remembered_with_them(made: MergePlan, out: Path) -> None:
    journal, materials = Journal(out, made, "these files"), {"org/a@1": {"model.safetensors": None, "config.json": "0"}}
    journal.record(made.shards[0].path, finish(out, made, 0))
    journal.conclude(materials)
    assert Journal(out, made, "these files").materials == materials
    assert Journal(out, made, "other files").materials == {}

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from models import published

from cocktail_hub.cli.ui import sessions as module
from cocktail_hub.cli.ui.sessions import Command, Session, Sessions
from cocktail_hub.errors import DiskSpaceError, MergeError, RecipeError


class Process:
    """A process that has ended, or not."""

    def __init__(self, code: int | None) -> None:
        self.returncode = code

    def poll(self) -> int | None:
        return self.returncode


def command(folder: Path, code: int | None, stderr: str, stdout: str = "{}", verb: str = "mix") -> Command:
    (folder / "stderr").write_text(stderr, encoding="utf-8")
    (folder / "stdout").write_text(stdout, encoding="utf-8")
    return Command(verb=verb, recipe=RECIPE, folder=folder, process=Process(code))


RECIPE = {"method": "linear", "ingredients": [{"model": "a", "weight": 0.5}, {"model": "b", "weight": 0.5}]}


@pytest.fixture
def local() -> Iterator[Sessions]:
    found = Sessions(public=False, largest=10**9)
    yield found
    found.close()


@pytest.fixture
def public() -> Iterator[Sessions]:
    found = Sessions(public=True, largest=10**9)
    yield found
    found.close()


def of(sessions: Sessions, *names: str) -> Session:
    session = sessions.of("tab")
    session.form = session.form.with_models(names)
    return session


def finish(session: Session) -> Command:
    """Wait for the command of a session."""
    assert session.command is not None
    session.command.process.wait(120)
    return session.command


def test_progress_is_the_last_bar(tmp_path: Path) -> None:
    bars = "Fetching: 100%|####| 2/2 [00:01]\r\n"
    bars += "Merging:   0%|  | 0.00/31.0k [00:00<?]\rMerging:  40%|## | 12.4k/31.0k [00:00]"
    assert command(tmp_path, None, bars).progress == ("Merging", 40, "12.4k/31.0k [00:00]")
    assert command(tmp_path, None, "note: something\n").progress == ("Reading the models", None, "")


def test_an_error_is_what_the_command_said_without_its_bars(tmp_path: Path) -> None:
    said = (
        "Merging:  40%|## | 12k/31k [00:00]\rMerging:  50%|## | 15k/31k [00:00]\nError: The disk is full.\nWhy.\nFix.\n"
    )
    failed = command(tmp_path, 1, said)
    assert failed.error == "The disk is full.\nWhy.\nFix."
    assert failed.result is None
    assert command(tmp_path, 137, "").error == "`cocktail mix` ended with code 137."


def test_a_result_is_there_when_the_command_has_ended_well(tmp_path: Path) -> None:
    assert command(tmp_path, None, "", '{"path": ').result is None
    assert command(tmp_path, 0, "", '{"path": "x"}').result == {"path": "x"}


def test_a_result_is_about_its_recipe_and_a_curve_about_its_models(tmp_path: Path) -> None:
    other = json.loads(json.dumps(RECIPE).replace("0.5}]", "0.25}]"))
    mixed, swept = command(tmp_path, 0, ""), command(tmp_path, 0, "", verb="sweep")
    assert (mixed.concerns(RECIPE), mixed.concerns(other)) == (True, False)
    assert swept.concerns(other)
    assert not swept.concerns({**RECIPE, "method": "slerp"})


def test_a_tab_is_found_again_and_another_one_is_new(local: Sessions) -> None:
    assert local.of("one") is local.of("one")
    assert local.of("one").folder != local.of("two").folder
    assert local.of("") is not local.of(""), "a page that is still loading shares nothing"


def test_closing_leaves_nothing(tmp_path: Path) -> None:
    sessions = Sessions(public=False, largest=1)
    folder = sessions.of("one").folder
    sessions.close()
    assert not folder.parent.exists()


def test_a_public_page_forgets_tabs_and_what_they_left(public: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    old = public.of("old")
    now = time.monotonic()
    monkeypatch.setattr(module.time, "monotonic", lambda: now + module.UNSEEN + 1)
    public.of("new")
    assert not old.folder.exists()
    assert public.of("old") is not old


def test_nothing_is_started_without_models(local: Sessions) -> None:
    with pytest.raises(RecipeError, match="No models are chosen"):
        local.of("tab").start("mix")


def test_one_thing_at_a_time(local: Sessions, tmp_path: Path) -> None:
    session = of(local, "a", "b")
    session.command = command(tmp_path, None, "")
    with pytest.raises(MergeError, match="`cocktail mix` is still running"):
        session.start("sweep")
    session.command = None


def test_a_public_page_runs_few_things_at_once(public: Sessions, tmp_path: Path) -> None:
    for name in ("one", "two"):
        public.require_room()
        public.of(name).command = command(tmp_path, None, "")
    with pytest.raises(MergeError, match="2 mixes are being made here right now"):
        public.require_room()
    for name in ("one", "two"):
        public.of(name).command = None


@pytest.mark.usefixtures("hub")
def test_a_public_page_refuses_folders_and_what_is_too_large(public: Sessions, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="takes models from the Hub alone"):
        of(public, str(tmp_path), "org/a").check()
    session = of(public, *published("bert").ids)
    assert session.check().architecture == "BertModel"
    session.largest = 1000
    with pytest.raises(DiskSpaceError, match=r"This mix takes \d+\.\d kB, but this page makes mixes of up to 1.0 kB"):
        session.start("mix")
    assert session.options().hub.token is False, "not the one of the host"
    assert session.options("hf_own").hub.token == "hf_own"


@pytest.mark.whole
@pytest.mark.usefixtures("hub")
def test_a_mix_is_made_in_a_process_of_its_own_and_its_recipe_can_be_saved(public: Sessions) -> None:
    session = of(public, *published("bert").ids)
    session.form = session.form.with_part(1, 25)
    session.start("mix")
    made = finish(session).result
    assert made is not None, session.command.error
    assert Path(made["path"]).is_relative_to(session.folder), "so that it goes with the tab"
    saved = yaml.safe_load(session.recipe_file(made["recipe"]).read_text())
    assert [one["weight"] for one in saved["ingredients"]] == [0.75, 0.25]
    assert all(len(one["revision"]) == 40 for one in saved["ingredients"])
    assert session.results == {"mix": made}
    session.form = session.form.with_part(1, 50)
    assert session.results == {}


@pytest.mark.whole
@pytest.mark.usefixtures("hub")
def test_a_wrong_token_is_said_and_none_is_kept(local: Sessions) -> None:
    session = of(local, *published("bert").ids)
    session.start("push", ["alice/never", "--as", "recipe"], token="hf_wrong")
    assert "alice/never" in finish(session).error
    written = [path.read_bytes() for path in session.folder.rglob("*") if path.is_file()]
    assert not any(b"hf_wrong" in content for content in written)
    assert "hf_wrong" not in " ".join(map(str, session.command.process.args))


@pytest.mark.whole
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_what_runs_can_be_stopped(local: Sessions, hub: object) -> None:
    session = of(local, *published("bert").ids)
    running = session.start("mix")
    time.sleep(2)
    running.stop()
    finish(session)
    running.stop()
    assert running.process.returncode in (0, 130, -2)

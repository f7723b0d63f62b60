"""The `cocktail` command: help, errors, exit codes, and Ctrl-C."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from cli_helpers import loaded_by, run

import cocktail_hub.pipeline.mix
from cocktail_hub.version import VERSION

pytestmark = pytest.mark.whole

COMMANDS = (
    "init",
    "outdated",
    "pin",
    "show",
    "ui",
    "update",
    "mix",
    "check",
    "score",
    "eval",
    "sweep",
    "push",
    "verify",
    "methods",
    "cache",
    "demo",
    "import",
    "export",
    "compare",
    "extract-lora",
)


@pytest.mark.parametrize("name", ["-h", "--help"])
def test_help_names_every_command(name: str) -> None:
    shown = run(name)
    assert shown.exit_code == 0
    assert [line.split()[0] for line in shown.stdout.partition("Commands:\n")[2].splitlines()] == sorted(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    assert run(command, "--help").exit_code == 0


def test_help_and_version_load_nothing_heavy() -> None:
    assert loaded_by("--help")[1] == set()
    shown, loaded = loaded_by("--version")
    assert shown.endswith(f", version {VERSION}\n")
    assert loaded == set()


def test_the_second_name_of_the_command_is_the_same() -> None:
    from importlib.metadata import entry_points

    found = {e.name: e.value for e in entry_points(group="console_scripts") if e.value.startswith("cocktail_hub")}
    assert found == {"cocktail": "cocktail_hub.cli:main", "hf-cocktail": "cocktail_hub.cli:main"}


# -- how it ends ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mxi"], "No such command 'mxi'"),
        (["mix"], "Missing argument 'RECIPE | MODEL MODEL...'"),
        (["push", "r.yaml", "me/x", "--as", "weights"], "'weights' is not one of"),
        (["mix", "a/b", "c/d", "--weights", "half"], "'half' is not a number. Write one for each model"),
        (["mix", "a/b", "c/d", "--set", "dtype"], "'dtype' has no value. Write KEY=VALUE, as in --set dtype=bfloat16."),
        (["mix", "a/b", "c/d", "--set", "keep=[a"], "The value of 'keep' is not valid YAML: "),
        (["mix", "a/b", "c/d", "--revision", "v1"], "Write a model's as org/name@revision."),
        (["push", "a/b", "c/d", "e/f"], "Say where to publish: `cocktail push RECIPE REPO_ID`, or `--to REPO_ID`."),
        (["push", "a/b", "c/d", "--weights", "1", "0"], "Say where to publish"),
        (["update", "r.yaml"], "Name the models to update, or give --all."),
        (["update", "r.yaml", "a/b", "--all"], "Name the models to update, or give --all."),
        (["score", "r.yaml", "--temperature", "hot"], "'hot' is neither a number nor 'auto'"),
    ],
)
def test_wrong_usage_ends_with_2(arguments: list[str], words: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert words in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("token", ["hf_" + "a1B2" * 9, "hf_oauth_eyJhbGci.eyJzY29w-ZSI6_WyJ"])
@pytest.mark.parametrize("arguments", [
    ["TOKEN"],
    ["mix", "--TOKEN"],
    ["mix", "recipe.yaml", "--threads", "TOKEN"],
    ["mix", "recipe.yaml", "--max-memory", "TOKEN"],
    ["import", "TOKEN.yml"],
    ["check", "https://huggingface.co/acme/a?token%3DTOKEN"],
    ["check", "https://user:TOKEN@huggingface.co/acme/a"],
])  # fmt: skip
def test_a_token_in_an_odd_place_is_not_printed(arguments: list[str], token: str) -> None:
    done = run(*(argument.replace("TOKEN", token) for argument in arguments))
    assert done.exit_code in (1, 2)
    assert token[12:] not in done.output


def test_what_cannot_be_checked_is_not_called_different() -> None:
    done = run("verify", "alice/not-there")
    assert (done.exit_code, done.stdout) == (3, "")
    assert "could not check 'alice/not-there'.\n'alice/not-there' is not on the Hub" in done.stderr
    wrong = run("verify", "me/my-mix", "--device", "gpu")
    assert (wrong.exit_code, wrong.stdout, "`--device` is 'gpu'" in wrong.stderr) == (1, "", True)


def test_a_bug_is_no_answer_of_verify(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("cocktail_hub.pipeline.measurement.verify", fail)
    done = run("verify", "me/my-mix")
    assert (done.exit_code, done.stdout) == (70, "")
    assert "RuntimeError: a bug" in done.stderr


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("can't start new thread"), RuntimeError("can't allocate memory: 5 bytes")]
)
def test_memory_that_is_used_up_is_no_bug(recipe: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(cocktail_hub.pipeline.mix, "mix", fail)
    done = run("mix", str(recipe))
    assert done.exit_code == 1
    assert "The memory or the threads that this process may have are used up" in done.stderr


def test_a_bug_says_where_to_report_it_and_leaves_its_traceback_in_a_file(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError(f"hf_{'a' * 34}")

    monkeypatch.setattr(cocktail_hub.pipeline.mix, "mix", broken)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    done = run("mix", recipe)
    assert done.exit_code == 70
    assert "This is a bug in cocktail_hub: ZeroDivisionError: hf_***\nWhat you asked for was not done." in done.stderr
    (report,) = tmp_path.rglob("traceback.txt")
    assert str(report) in done.stderr
    text = report.read_text(encoding="utf-8")
    assert "transformers 5" in text and "in broken" in text and "aaaa" not in text  # noqa: PT018


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_an_interrupt_ends_with_130_even_if_the_hub_does_not_answer(recipe: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        environment = os.environ | {
            "HF_ENDPOINT": f"http://127.0.0.1:{server.getsockname()[1]}",
            "COCKTAIL_HUB_CACHE": str(tmp_path / "mixes"),
        }
        command = [sys.executable, "-m", "cocktail_hub.cli", "mix", str(recipe)]
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as child:
            server.settimeout(60)
            connection, _ = server.accept()
            with connection:
                child.send_signal(signal.SIGINT)
                _, said = child.communicate(timeout=60)
    assert child.returncode == 130
    assert said == "Interrupted. Finished work is kept; run the same command again to continue.\n"


def test_ctrl_c_ends_a_command_with_130(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cocktail_hub.pipeline.mix, "mix", interrupted)
    assert run("mix", recipe).exit_code == 130


def test_a_lock_that_ctrl_c_broke_is_no_bug(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        lock = threading.Lock()
        with lock:
            lock.release()  # as `Condition.wait` does, and is interrupted before it takes the lock again
            raise KeyboardInterrupt

    monkeypatch.setattr(cocktail_hub.pipeline.mix, "mix", interrupted)
    done = run("mix", recipe)
    assert (done.exit_code, done.stderr) == (130, "")


@pytest.mark.parametrize("own", [None, "20"])
def test_threads_of_blas_do_not_spin_in_a_command(
    own: str | None, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable, seen = "OPENBLAS_THREAD_TIMEOUT", []
    monkeypatch.delenv(variable, raising=False)
    if own:
        monkeypatch.setenv(variable, own)

    def looked_at(*_: object, **__: object) -> None:
        seen.append(os.environ[variable])
        raise ZeroDivisionError

    monkeypatch.setattr(cocktail_hub.pipeline.mix, "mix", looked_at)
    run("mix", recipe)
    assert seen == [own or "4"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("moment", ["cocktail_hub.cli.main", "click", "cocktail_hub.methods.registry"])
def test_ctrl_c_during_the_imports_of_a_command_ends_it_with_130_and_no_traceback(moment: str) -> None:
    begin = f"""
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)

class Interrupt:
    def find_spec(self, name, *_):
        if name == {moment!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
from cocktail_hub.cli import main
main(["methods"])
"""
    done = subprocess.run([sys.executable, "-c", begin], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr, done.stdout) == (130, "", "")


def test_importing_the_command_leaves_ctrl_c_as_it_was() -> None:
    begin = "import signal, cocktail_hub.cli; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    done = subprocess.run([sys.executable, "-c", begin], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"

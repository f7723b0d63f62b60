"""The `cocktail` command: exit codes, what goes to which stream, and that asking costs nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from click.testing import CliRunner, Result
from models import TOKEN, assert_holds, expected, pair, published

import cocktail_hub.pipeline
from cocktail_hub.cli import main
from cocktail_hub.storage.cache import MANIFEST, Cache
from cocktail_hub.version import VERSION

if TYPE_CHECKING:
    from cocktail_hub.testing import LoopbackHub

pytestmark = pytest.mark.whole

COMMANDS = ("mix", "check", "score", "push", "verify", "methods", "cache", "demo")
HEAVY = ("torch", "transformers", "sentence_transformers")
CLIENT = ("huggingface_hub.hf_api", "tqdm")
"""Parts of the Hub's client that take longer to import than small models to mix."""


def run(*arguments: str | Path) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def write(folder: Path, recipe: dict[str, Any]) -> Path:
    """A recipe file."""
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


def loaded_by(*arguments: str | Path) -> tuple[str, set[str]]:
    """Run the command in a fresh process; returns its stdout, and which heavy modules it has imported."""
    code = (
        "import sys\nfrom cocktail_hub.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"sys.stderr.write('LOADED ' + ' '.join(name for name in {HEAVY + CLIENT} if name in sys.modules))"
    )
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8")
    return done.stdout, set(done.stderr.rpartition("LOADED ")[2].split())


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe of two tiny BERTs on the Hub."""
    return write(tmp_path, published("bert").recipe)


@pytest.fixture
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of mixes."""
    monkeypatch.setenv("COCKTAIL_HUB_CACHE", str(tmp_path / "mixes"))
    return tmp_path / "mixes"


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


# -- mix -----------------------------------------------------------------------------------------------------------


def test_local_models_are_mixed_without_the_hubs_client(tmp_path: Path) -> None:
    for number, folder in enumerate(pair("bert").folders):
        shutil.copytree(folder, tmp_path / str(number))
    (tmp_path / "0" / "README.md").write_text("---\nlicense: mit\n---\n# A model with a card\n")
    models = [{"model": str(tmp_path / name), "weight": 0.5} for name in "01"]
    shown, loaded = loaded_by("mix", write(tmp_path, {"ingredients": models}), "-o", tmp_path / "mix")
    assert shown == f"{tmp_path / 'mix'}\n"
    assert loaded == set()
    assert "| `mit` |" in (tmp_path / "mix" / "README.md").read_text(encoding="utf-8")


def test_mix_prints_the_folder_and_nothing_else(recipe: Path, fresh_cache: Path) -> None:
    done = run("mix", recipe)
    assert done.exit_code == 0
    folder = Path(done.stdout.removesuffix("\n"))
    assert folder.parent == fresh_cache / "mixes"
    assert done.stderr.startswith("Merged ")
    from transformers import AutoModel

    assert_holds(AutoModel.from_pretrained(folder), expected("bert"))


def test_mix_writes_to_a_folder_of_choice(recipe: Path, tmp_path: Path) -> None:
    done = run("mix", recipe, "-o", tmp_path / "out")
    assert (done.exit_code, done.stdout) == (0, f"{tmp_path / 'out'}\n")
    assert (tmp_path / "out" / "model.safetensors").is_file()
    again = run("mix", recipe, "-o", tmp_path / "out")
    assert again.exit_code == 0
    assert "nothing was downloaded or merged" in again.stderr


def test_a_folder_with_other_things_is_not_written_to(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "diary.txt").write_text("dear diary")
    done = run("mix", recipe, "-o", tmp_path / "out", "--force")
    assert done.exit_code == 1
    assert "holds something else than an earlier mix: diary.txt" in done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["diary.txt"]


@pytest.mark.usefixtures("fresh_cache")
def test_mix_as_json(recipe: Path) -> None:
    first, second = run("mix", recipe, "--json"), run("mix", recipe, "--json")
    made, again = json.loads(first.stdout), json.loads(second.stdout)
    assert (made["cached"], again["cached"]) == (False, True)
    assert made["merged"]["bytes_written"] > 0
    assert Path(made["path"]).name == made["digest"] == again["digest"]
    assert [len(i["revision"]) for i in made["recipe"]["ingredients"]] == [40, 40]


@pytest.mark.usefixtures("fresh_cache")
@pytest.mark.parametrize("where", ["hub", "hub, offline", "folders"])
@pytest.mark.parametrize("to", ["cache", "folder"])
def test_a_mix_that_is_there_is_found_without_torch(
    where: str, to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = published("bert")
    recipe = write(tmp_path, pair.local_recipe if where == "folders" else pair.recipe)
    output = ("-o", tmp_path / "out") if to == "folder" else ()
    made = run("mix", recipe, *output)
    assert made.exit_code == 0, made.stderr
    if where == "hub, offline":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found, loaded = loaded_by("mix", recipe, *output)
    assert found == made.stdout
    assert not loaded & set(HEAVY)


@pytest.mark.usefixtures("fresh_cache")
def test_a_mix_that_is_there_is_copied_without_torch(recipe: Path, tmp_path: Path) -> None:
    run("mix", recipe)
    found, loaded = loaded_by("mix", recipe, "-o", tmp_path / "out")
    assert found == f"{tmp_path / 'out'}\n"
    assert not loaded & set(HEAVY)


@pytest.mark.parametrize("arguments", [("mix", "--dry-run"), ("check",)])
def test_a_look_ahead_downloads_no_weights(
    arguments: tuple[str, ...], recipe: Path, fresh_cache: Path, tmp_path: Path, hub: LoopbackHub
) -> None:
    done = run(*arguments, recipe, "--cache-dir", tmp_path / "hub")
    assert done.exit_code == 0
    assert {r.headers.get("range") is not None for r in hub.requests if r.path.startswith("/_cdn/")} == {True}
    assert list((tmp_path / "hub").rglob("*.safetensors")) == []
    assert not (fresh_cache / "mixes").exists()
    head, first, second, *facts = done.stdout.splitlines()
    assert head.split() == ["model", "revision", "share", "size", "licence"]
    assert (first.split()[0], first.split()[2]) == ("acme/bert-a", "0.75")
    assert (second.split()[0], second.split()[2]) == ("acme/bert-b", "0.25")
    assert [line.split()[0] for line in facts if line] == ["result", "download", "weights", "disk", "memory", "licence"]


def test_check_as_json(recipe: Path, tmp_path: Path) -> None:
    found = json.loads(run("check", recipe, "--json", "--cache-dir", tmp_path / "hub").stdout)
    assert (found["architecture"], found["method"]) == ("BertModel", "linear")
    assert found["to_download"] == sum(model["to_download"] for model in found["models"]) > 0
    assert found["files"] == ["model.safetensors"]


# -- push and verify -----------------------------------------------------------------------------------------------


def test_push_prints_where_it_is_and_verify_makes_it_again(recipe: Path, hub: LoopbackHub) -> None:
    done = run("push", recipe, "alice/cli-both", "--as", "both", "--token", TOKEN, "-m", "Try the command")
    assert (done.exit_code, done.stdout.startswith(f"{hub.url}/alice/cli-both/commit/")) == (0, True)
    found = run("verify", "alice/cli-both")
    assert (found.exit_code, found.stdout) == (0, "same\n")


def test_push_of_a_recipe_as_json(recipe: Path) -> None:
    done = run("push", recipe, "alice/cli-recipe", "--as", "recipe", "--token", TOKEN, "--private", "--json")
    pushed = json.loads(done.stdout)
    assert len(pushed["commit"]) == 40
    assert pushed["pull_request"] is None
    assert "private" in run("mix", "alice/cli-recipe").stderr
    assert run("mix", "alice/cli-recipe", "--token", TOKEN).exit_code == 0


@pytest.mark.usefixtures("hub")
@pytest.mark.usefixtures("fresh_cache")
def test_the_revision_is_that_of_the_recipes_repo(recipe: Path, tmp_path: Path) -> None:
    even = json.loads(json.dumps(published("bert").recipe))
    for ingredient in even["ingredients"]:
        ingredient["weight"] = 0.5
    (tmp_path / "even").mkdir()
    other, common = write(tmp_path / "even", even), ("--as", "recipe", "--token", TOKEN)
    assert run("push", recipe, "alice/cli-branches", *common).exit_code == 0
    assert run("push", other, "alice/cli-branches", *common, "--to-branch", "even").exit_code == 0

    def shares(*words: str) -> list[float]:
        return [i["weight"] for i in json.loads(run("mix", *words, "--json").stdout)["recipe"]["ingredients"]]

    where = ("alice/cli-branches", "--revision", "even")
    assert shares("alice/cli-branches") != [0.5, 0.5]
    assert shares(*where) == [0.5, 0.5]
    assert [m["weight"] for m in json.loads(run("check", *where, "--json").stdout)["models"]] == [0.5, 0.5]
    for name, form in (("a", ("--as", "recipe")), ("b", ()), ("c", ("--low-disk",))):
        done = run("push", where[0], f"alice/cli-even-{name}", *where[1:], *form, "--token", TOKEN)
        assert done.exit_code == 0, done.stderr
        assert shares(f"alice/cli-even-{name}") == [0.5, 0.5]


def test_push_to_a_namespace_of_others_is_refused(recipe: Path) -> None:
    done = run("push", recipe, "bob/mine", "--token", TOKEN)
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)
    assert "bob/mine" in done.stderr
    assert len(done.stderr.splitlines()) > 1


# -- cache ---------------------------------------------------------------------------------------------------------


def test_the_cache_is_listed_verified_and_pruned(recipe: Path, fresh_cache: Path) -> None:
    assert run("cache", "list").stdout.splitlines() == ["digest  size  last used  ingredients"]
    folder = Path(run("mix", recipe).stdout.strip())
    _, line = run("cache", "list").stdout.splitlines()
    assert line.startswith(folder.name[:12])
    assert line.endswith("0.75 acme/bert-a + 0.25 acme/bert-b")
    (entry,) = json.loads(run("cache", "list", "--json").stdout)
    assert (entry["digest"], entry["path"]) == (folder.name, str(folder))
    assert run("cache", "verify").exit_code == 0

    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    damaged = run("cache", "verify")
    assert damaged.exit_code == 1
    assert "model.safetensors has other content than was written" in damaged.stdout
    assert "1 mix(es) are damaged" in damaged.stderr

    assert run("cache", "prune", "--older-than", "1").stdout == ""
    gone = run("cache", "prune", "--all")
    assert gone.stdout == f"{folder.name}\n"
    assert Cache(fresh_cache).mixes() == []


@pytest.mark.parametrize(
    ("options", "gone"),
    [
        (("--older-than", "30"), "1"),
        (("--older-than", "41"), ""),
        (("--older-than", "0.5"), "12"),
        (("--max-size", "1500"), "1"),
        (("--max-size", "1MB"), ""),
    ],
)
def test_pruning_by_age_and_size(options: tuple[str, str], gone: str, fresh_cache: Path) -> None:
    cache = Cache(fresh_cache)
    for digit, days in (("1", 40), ("2", 1)):
        (cache.staging(digit * 64) / "model.safetensors").write_bytes(bytes(1000))
        path, then = cache.finish(digit * 64, {}).path, time.time() - days * 86_400
        os.utime(path / MANIFEST, (then, then))
    assert "(damaged)" in run("cache", "list").stdout  # no recipe.json
    assert sorted(run("cache", "prune", *options).stdout.split()) == [digit * 64 for digit in gone]


def test_pruning_asks_what_to_remove() -> None:
    done = run("cache", "prune")
    assert done.exit_code == 2
    assert "--older-than DAYS, --max-size SIZE, or --all" in done.stderr


# -- how it ends ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["score", "r.yaml", "--device", "cuda"], "No such option '--device'"),
        (["verify", "me/x", "--max-shard-size", "1GB"], "No such option '--max-shard-size'"),
        (["mxi"], "No such command 'mxi'"),
        (["mix"], "Missing argument 'RECIPE'"),
        (["mix", "r.yaml", "--max-memory", "lots"], "is not a size. Write it like 500MB"),
        (["mix", "r.yaml", "--threads", "0"], "0 is not in the range x>=1"),
        (["push", "r.yaml", "me/x", "--as", "weights"], "'weights' is not one of"),
        (["score", "r.yaml", "--temperature", "hot"], "'hot' is neither a number nor 'auto'"),
    ],
)
def test_wrong_usage_ends_with_2(arguments: list[str], words: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert words in done.stderr
    assert done.stdout == ""


def test_what_cannot_be_checked_is_not_called_different() -> None:
    done = run("verify", "me/my-mix", "--device", "gpu")
    assert (done.exit_code, done.stdout) == (3, "")
    assert "could not check 'me/my-mix'.\n`device` is 'gpu'" in done.stderr


def test_a_bug_is_no_answer_of_verify(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("cocktail_hub.pipeline.verify", fail)
    done = run("verify", "me/my-mix")
    assert (done.exit_code, done.stdout) == (3, "")
    assert "RuntimeError: a bug" in done.stderr


def test_a_bug_keeps_its_traceback(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(cocktail_hub.pipeline, "mix", broken)
    assert isinstance(run("mix", recipe).exception, ZeroDivisionError)


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
    assert said == "Interrupted. What was finished is kept; run the same command again to go on.\n"


def test_ctrl_c_ends_a_command_with_130(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cocktail_hub.pipeline, "mix", interrupted)
    assert run("mix", recipe).exit_code == 130


@pytest.mark.parametrize("own", [None, "20"])
def test_threads_of_blas_do_not_spin_in_a_command_and_its_process_is_left_as_it_was(
    own: str | None, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable, seen = "OPENBLAS_THREAD_TIMEOUT", []
    monkeypatch.delenv(variable, raising=False)
    if own:
        monkeypatch.setenv(variable, own)
    before = dict(os.environ)

    def looked_at(*_: object, **__: object) -> None:
        seen.append(os.environ[variable])
        raise ZeroDivisionError

    monkeypatch.setattr(cocktail_hub.pipeline, "mix", looked_at)
    run("mix", recipe)
    assert seen == [own or "4"]
    assert dict(os.environ) == before

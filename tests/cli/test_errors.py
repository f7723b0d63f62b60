"""Whatever is wrong with the input: one clear message, exit code 1, nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from models import TOKEN, pair, published, push

from cocktail_hub.cli import main

pytestmark = pytest.mark.whole

Recipe = dict[str, Any]


def two(first: str | Path, second: str | Path, weights: tuple[float, float] = (0.75, 0.25), **keys: object) -> Recipe:
    """A recipe of two models."""
    named = zip((first, second), weights, strict=True)
    return {"ingredients": [{"model": str(model), "weight": weight} for model, weight in named], **keys}


def unknown_key(_: Path) -> Recipe:
    return two(*published("bert").ids, metod="linear")


def sum_of_09(_: Path) -> Recipe:
    return two(*published("bert").ids, weights=(0.5, 0.4))


def other_architecture(_: Path) -> Recipe:
    return two(published("bert").ids[0], published("llama").ids[0])


def no_such_repo(_: Path) -> Recipe:
    return two(published("bert").ids[0], "acme/no-such-model")


def no_such_revision(_: Path) -> Recipe:
    first, second = published("bert").ids
    return two(first, f"{second}@v9")


def private_repo(_: Path) -> Recipe:
    push(pair("bert").folders[1], "acme/private-bert", private=True)
    return two(published("bert").ids[0], "acme/private-bert")


def truncated_file(folder: Path) -> Recipe:
    first, second = pair("bert").folders
    shutil.copytree(second, folder / "truncated")
    weights = folder / "truncated" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    return two(first, folder / "truncated")


def truncated_repo(folder: Path) -> Recipe:
    truncated_file(folder)
    push(folder / "truncated", "acme/truncated-bert")
    return two(published("bert").ids[0], "acme/truncated-bert")


def no_such_folder(_: Path) -> Recipe:
    return two(published("bert").ids[0], "./nowhere")


def no_yaml(_: Path) -> str:
    return "ingredients: [acme/a, acme/b\n"


def a_model_and_no_recipe(_: Path) -> str:
    return "acme/bert-a"


BAD: dict[Callable[[Path], Any], tuple[str, ...]] = {
    unknown_key: ("Unknown key 'metod' in the recipe. Did you mean 'method'?", "silently ignored", "Accepted keys: "),
    sum_of_09: ("sum to 0.9, not to 1", "scales the whole model", "Divide each by 0.9"),
    other_architecture: ("acme/llama-a", "LlamaForCausalLM", "BertModel"),
    no_such_repo: ("'acme/no-such-model' is not on the Hub", "Check the spelling", "hf auth login"),
    no_such_revision: ("'acme/bert-b' has no revision 'v9'", "Check its spelling"),
    private_repo: ("'acme/private-bert' is not on the Hub, or it is private", "hf auth login", "token"),
    truncated_file: ("truncated", "model.safetensors", "bytes"),
    truncated_repo: ("acme/truncated-bert", "model.safetensors", "bytes"),
    no_such_folder: ("nowhere", "folder"),
    no_yaml: ("is not valid YAML or JSON", "line 2"),
}
"""What is wrong -> words of the message, which say what, why and how to fix it."""


@pytest.fixture
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an empty cache of mixes beside the one that the tests fill."""
    monkeypatch.setenv("COCKTAIL_HUB_CACHE", str(tmp_path / "mixes"))
    (tmp_path / "given").mkdir()
    return tmp_path


def left_behind(folder: Path) -> list[str]:
    """Files that a command made and that could be taken for a result, finished or not."""
    harmless = ("locks", "digests", "hub")
    found = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    return [str(path) for path in found if path.parts[0] != "given" and not set(path.parts) & set(harmless)]


@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__)
@pytest.mark.parametrize("options", [(), ("--dry-run",), ("-o", "out")], ids=["mix", "look", "output"])
def test_bad_input_ends_with_one_clear_message(
    make: Callable[[Path], Any], options: tuple[str, ...], clean: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make(clean / "given")
    path = clean / "given" / "recipe.yaml"
    path.write_text(recipe if isinstance(recipe, str) else yaml.safe_dump(recipe), encoding="utf-8")
    monkeypatch.chdir(clean)
    done = CliRunner().invoke(main, ["mix", str(path), *options, "--cache-dir", str(clean / "hub")])
    assert (done.exit_code, done.stdout) == (1, "")
    assert isinstance(done.exception, SystemExit), done.exception
    assert done.stderr.startswith("Error: ")
    assert "Traceback" not in done.stderr
    for words in BAD[make]:
        assert words in done.stderr
    assert len(done.stderr.splitlines()) in range(2, 8)
    assert left_behind(clean) == []
    assert list((clean / "hub").rglob("*.safetensors")) == []


@pytest.mark.parametrize("source", ["nowhere.yaml", "./nowhere"])
def test_a_recipe_that_is_not_there(source: str, clean: Path) -> None:
    done = CliRunner().invoke(main, ["mix", source])
    assert (done.exit_code, done.stdout) == (1, "")
    assert source in done.stderr
    assert "YAML or JSON file" in done.stderr
    assert left_behind(clean) == []


def test_a_model_is_no_recipe_and_the_class_to_load_it_with_is_named(clean: Path) -> None:
    published("bert")
    done = CliRunner().invoke(main, ["mix", "acme/bert-a"])
    assert (done.exit_code, done.stdout) == (1, "")
    assert "'acme/bert-a' is not a recipe: it is an ordinary BertModel" in done.stderr
    assert "transformers.BertModel or AutoModel" in done.stderr
    assert left_behind(clean) == []


def test_the_token_opens_the_private_repo(clean: Path) -> None:
    path = clean / "given" / "recipe.yaml"
    path.write_text(yaml.safe_dump(private_repo(clean)), encoding="utf-8")
    assert CliRunner().invoke(main, ["mix", str(path), "--token", TOKEN]).exit_code == 0


def test_offline_with_nothing_cached(clean: Path) -> None:
    path = clean / "given" / "recipe.yaml"
    path.write_text(yaml.safe_dump(published("bert").recipe), encoding="utf-8")
    done = CliRunner().invoke(main, ["mix", str(path), "--local-files-only", "--cache-dir", str(clean / "hub")])
    assert done.exit_code == 1
    assert "is not in the local cache" in done.stderr
    assert "Go online once" in done.stderr
    assert left_behind(clean) == []


def test_an_output_that_cannot_be_written(clean: Path) -> None:
    (clean / "given" / "file").write_text("in the way")
    path = clean / "given" / "recipe.yaml"
    path.write_text(yaml.safe_dump(pair("bert").local_recipe), encoding="utf-8")
    done = CliRunner().invoke(main, ["mix", str(path), "-o", str(clean / "given" / "file" / "out")])
    assert (done.exit_code, done.stdout) == (1, "")
    assert isinstance(done.exception, SystemExit), done.exception
    assert "file" in done.stderr
    assert left_behind(clean) == []


def test_stdout_that_is_closed_early_is_no_bug(clean: Path) -> None:
    """`cocktail cache list | head -0`."""
    command = f"{sys.executable} -m cocktail_hub.cli cache list | head -c 0"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False, cwd=clean)
    assert done.stderr == ""


# -- a disk that is full -------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 32 kB."""
    mount = shutil.which("mount")
    if os.name == "nt" or os.geteuid() != 0 or mount is None:
        pytest.skip("only root can mount a small disk")
    folder = tmp_path / "disk"
    folder.mkdir()
    command = [mount, "-t", "tmpfs", "-o", "size=32k", "tmpfs", folder]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("this container cannot mount")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("place", ["cache", "output"])
def test_no_room_on_the_disk(place: str, small_disk: Path, clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = clean / "given" / "recipe.yaml"
    path.write_text(yaml.safe_dump(pair("bert").local_recipe), encoding="utf-8")
    options = ["-o", str(small_disk / "out")] if place == "output" else []
    if place == "cache":
        monkeypatch.setenv("COCKTAIL_HUB_CACHE", str(small_disk / "mixes"))
    done = CliRunner().invoke(main, ["mix", str(path), *options])
    assert (done.exit_code, done.stdout) == (1, "")
    assert isinstance(done.exception, SystemExit), done.exception
    assert "bytes" in done.stderr
    assert str(small_disk) in done.stderr
    assert [str(found) for found in small_disk.rglob("*.safetensors")] == []


def test_json_of_a_failure_leaves_stdout_empty(clean: Path) -> None:
    path = clean / "given" / "recipe.json"
    path.write_text(json.dumps(unknown_key(clean)), encoding="utf-8")
    done = CliRunner().invoke(main, ["check", str(path), "--json"])
    assert (done.exit_code, done.stdout) == (1, "")


LOST_INTERRUPT = """
    import signal, time, weakref
    from cocktail_hub.cli.main import prompt_interrupts

    class Thing:
        pass

    def gone(reference):
        signal.raise_signal(signal.SIGINT)
        time.sleep(0.01)

    with prompt_interrupts():
        thing = Thing()
        reference = weakref.ref(thing, gone)
        del thing
        time.sleep(60)
"""


@pytest.mark.whole
@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT to itself")
def test_an_interrupt_that_python_drops_ends_the_process_all_the_same() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LOST_INTERRUPT)], capture_output=True, text=True, check=False, timeout=50
    )
    assert ran.returncode == 130
    assert ran.stderr == "Interrupted. Finished work is kept; run the same command again to continue.\n"

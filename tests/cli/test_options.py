"""The options that most commands share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click
import pytest
from cli_helpers import run

import cocktail_hub.pipeline.mix
from cocktail_hub.cli.options import mix_options, read_options
from cocktail_hub.merge.options import DEFAULT_SHARD_SIZE, MixOptions, parse_size

pytestmark = pytest.mark.whole


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["score", "r.yaml", "--device", "cuda"], "No such option '--device'"),
        (["verify", "me/x", "--max-shard-size", "1GB"], "No such option '--max-shard-size'"),
        (["mix", "r.yaml", "--max-memory", "lots"], "is not a size. Write it like 500MB"),
        (["mix", "r.yaml", "--max-shard-size", "5"], "'5' is 5 bytes, which is too small. Write a unit, as in 5GB."),
        (["mix", "r.yaml", "--threads", "0"], "0 is not in the range x>=1"),
    ],
)
def test_an_option_that_means_nothing_is_wrong_usage(arguments: list[str], words: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert words in done.stderr
    assert done.stdout == ""


def test_every_option_reaches_the_mix(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[MixOptions] = []

    def looked_at(*_: object, options: MixOptions, **__: object) -> None:
        seen.append(options)
        raise ZeroDivisionError

    monkeypatch.setattr(cocktail_hub.pipeline.mix, "mix", looked_at)
    words = ("--device cuda:1", "--threads 3", "--max-memory 500MB", "--max-shard-size 1GiB", "--low-disk")
    hub = ("--token", "hf_x", "--cache-dir", tmp_path, "--local-files-only", "--trust-remote-code")
    run("mix", recipe, *" ".join(words).split(), *hub)
    (options,) = seen
    assert (options.device, options.threads, options.memory_bytes) == ("cuda:1", 3, 500 * 10**6)
    assert (options.max_shard_size, options.low_disk, options.engine) == (2**30, True, "threads")
    assert (options.hub.token, options.hub.cache_dir) == ("hf_x", tmp_path)
    assert (options.hub.local_files_only, options.trust_remote_code) == (True, True)


def test_a_token_comes_from_stdin_where_a_dash_says_so(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[MixOptions] = []
    monkeypatch.setattr(cocktail_hub.pipeline.mix, "mix", lambda *_, options, **__: seen.append(options))
    run("mix", recipe, "--token", "-", stdin="hf_x\n")
    assert [options.hub.token for options in seen] == ["hf_x"]


def test_without_options_a_mix_has_its_defaults(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[MixOptions] = []

    def looked_at(*_: object, options: MixOptions, **__: object) -> None:
        seen.append(options)
        raise ZeroDivisionError

    monkeypatch.setattr(cocktail_hub.pipeline.mix, "mix", looked_at)
    run("mix", recipe)
    assert [replace(options, max_shard_size=DEFAULT_SHARD_SIZE) for options in seen] == [MixOptions()]
    assert parse_size(DEFAULT_SHARD_SIZE) == seen[0].max_shard_size


def test_a_command_lacks_the_options_that_mean_nothing_to_it() -> None:
    @click.command()
    @mix_options(without=("device", "low_disk"))
    def command(**_: object) -> None:
        """Do nothing."""

    names = {parameter.name for parameter in command.params}
    assert {"token", "threads"} < names
    assert not {"device", "low_disk"} & names


def test_further_fields_are_added_to_those_of_the_command() -> None:
    given = {"token": None, "cache_dir": None, "local_files_only": False, "threads": 2}
    assert read_options(given, force=True) == MixOptions(threads=2, force=True)

"""What is measured of a mix can be measured again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import models
import pytest
from click.testing import CliRunner
from huggingface_hub import HfApi

from cocktail_hub import mix, verify
from cocktail_hub.cli import main
from cocktail_hub.errors import SourceError

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.whole


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mix in the cache of all tests would have the evidence of the test that made it."""
    monkeypatch.setenv("COCKTAIL_HUB_CACHE", str(tmp_path / "cache"))


ROWS = [
    {"query": "where is the cat", "pos": ["the cat sat on the mat"], "neg": ["a dog ran", "paris", "yes"]},
    {"query": "who ran", "pos": ["a dog ran in the park"], "neg": ["the cat sat", "rome is it"]},
    {"query": "what is it", "pos": ["it is paris"], "neg": ["no", "the pod keeps crashing"]},
]


def scored(folder: Path, token: str, examples: Any = ROWS, **keys: Any) -> Path:
    """A mix whose weights were computed."""
    ids = list(models.published("bert").ids)
    weighting = {"examples": examples, "temperature": 0.1, **keys}
    return mix({"ingredients": ids, "weighting": weighting}, output=folder, token=token).path


def test_the_evidence_is_computed_again_from_the_examples(token: str, tmp_path: Path) -> None:
    folder = scored(tmp_path / "made", token)
    assert verify(folder, token=token).evidence is None
    found = verify(folder, examples=ROWS, token=token)
    assert (found.evidence, found.same) == ((), True)
    path = folder / "recipe.json"
    recipe = json.loads(path.read_text())
    loss = recipe["evidence"]["ingredients"][1]["loss"]
    recipe["evidence"]["ingredients"][1]["loss"] = loss - 0.5
    path.write_text(json.dumps(recipe))
    found = verify(folder, examples=ROWS, token=token)
    assert found.evidence == (f"ingredients 2 loss is {loss - 0.5:.6g}, computed again {loss:.6g}",)
    assert (found.differences, found.same) == ([], False)


def test_nothing_that_is_cached_counts_as_computed_again(token: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("COCKTAIL_HUB_CACHE", str(tmp_path / "cache"))
    folder = scored(tmp_path / "made", token)
    for path in (tmp_path / "cache" / "losses").rglob("*.json"):
        path.write_text(path.read_text().replace('"mean": ', '"mean": 1'))
    assert verify(folder, examples=ROWS, token=token).evidence == ()


@pytest.mark.parametrize("keys", [
    {"rule": "ensemble", "fallback": "never"},
    {"rule": "greedy", "fallback": "never", "metric": "MRR"},
    {"rule": "greedy"},
])  # fmt: skip
def test_every_rule_gives_its_evidence_again(keys: dict, token: str, tmp_path: Path) -> None:
    folder = scored(tmp_path / "made", token, **keys)
    assert verify(folder, examples=ROWS, token=token).evidence == ()


def test_the_anchor_keeps_its_share_when_the_evidence_is_computed_again(token: str, tmp_path: Path) -> None:
    ids, third = list(models.published("bert").ids), models.save("bert", 7, tmp_path / "third")
    anchored = {"ingredients": ids, "anchor": {"model": str(third), "share": 0.25}, "weighting": {"examples": ROWS}}
    folder = mix(anchored, output=tmp_path / "made", token=token).path
    assert verify(folder, examples=ROWS, token=token).evidence == ()


def test_equal_weights_need_no_examples_to_be_computed_again(token: str, tmp_path: Path) -> None:
    ids = list(models.published("bert").ids)
    folder = mix({"ingredients": ids, "weighting": {"rule": "uniform"}}, output=tmp_path / "made", token=token).path
    assert verify(folder, evidence=True, token=token).evidence == ()


def test_examples_on_the_hub_are_found_at_their_commit(token: str, tmp_path: Path) -> None:
    api = HfApi(token=token)
    api.create_repo("alice/behind-the-weights", repo_type="dataset")
    content = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    for data in (content, content[: content.index(b"\n") + 1]):
        if data != content:
            folder = scored(tmp_path / "made", token, "alice/behind-the-weights")
        api.upload_file(
            path_or_fileobj=data, path_in_repo="rows.jsonl", repo_id="alice/behind-the-weights", repo_type="dataset"
        )
    assert verify(folder, evidence=True, token=token).evidence == ()


def test_examples_that_are_not_published_cannot_be_checked(token: str, tmp_path: Path) -> None:
    folder = scored(tmp_path / "made", token)
    result = CliRunner().invoke(main, ["verify", str(folder), "--evidence", "--token", token])
    assert result.exit_code == 3
    assert "The examples behind the weights of" in result.stderr
    assert "are not published (inline)" in result.stderr
    with pytest.raises(SourceError, match="The examples are not those behind the weights"):
        verify(folder, examples=ROWS[:2], token=token)


def test_weights_that_were_given_have_no_evidence_to_compute_again(token: str, tmp_path: Path) -> None:
    weighed = [{"model": model, "weight": 0.5} for model in models.published("bert").ids]
    folder = mix({"ingredients": weighed}, output=tmp_path / "made", token=token).path
    with pytest.raises(SourceError, match="were given, and its recipe does not say all that led to them"):
        verify(folder, evidence=True, token=token)


def test_the_command_says_which_numbers_differ(token: str, tmp_path: Path) -> None:
    folder = scored(tmp_path / "made", token)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    arguments = ["verify", str(folder), "--examples", str(rows), "--token", token]
    result = CliRunner().invoke(main, arguments)
    assert (result.exit_code, result.stdout) == (0, "same\n"), result.output
    assert "Computed the evidence again: no number(s) differ." in result.stderr
    path = folder / "recipe.json"
    path.write_text(path.read_text().replace('"temperature": 0.1', '"temperature": 0.2', 1))
    result = CliRunner().invoke(main, [*arguments, "--json"])
    assert result.exit_code == 4
    assert json.loads(result.stdout)["evidence"]

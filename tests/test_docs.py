"""The docs say what the code does: tables against the classes, help against the command, Python against the Hub."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import transformers
from help_page import HEAD, PAGE, help_page
from models import TOKEN, published

from cocktail_hub.methods.registry import METHODS
from cocktail_hub.recipe import DTYPES, Anchor, Ingredient, Recipe, Weighting
from cocktail_hub.recipe.weighting import POOLINGS, RULES
from cocktail_hub.version import INSTALLED_FROM

DOCS = Path(__file__).parents[1] / "docs"
PACKAGE = DOCS.parent / "cocktail_hub"


def section(page: str, title: str) -> str:
    """The text under a heading."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.split(r"^#+ ", text.partition(f"{title}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str) -> dict[str, list[str]]:
    """The table in a text: first cell, without backticks -> the other cells."""
    lines = [line.removesuffix("|").split("|")[1:] for line in text.splitlines() if line.startswith("| `")]
    return {cells[0].strip().strip("`"): [cell.strip() for cell in cells[1:]] for cells in lines}


def fields(kind: type) -> dict[str, object]:
    """Name -> default of the fields of a dataclass."""
    return {field.name: field.default for field in dataclasses.fields(kind)}


def test_every_key_of_a_recipe_is_in_its_reference() -> None:
    assert rows(section("recipe.md", "## Top level")).keys() == fields(Recipe).keys()
    model = rows(section("recipe.md", "## A model"))
    assert model.keys() == fields(Ingredient).keys() | fields(Anchor).keys()
    assert rows(section("recipe.md", "## `weighting`")).keys() == fields(Weighting).keys()


@pytest.mark.parametrize(("title", "kind"), [("## Top level", Recipe), ("## `weighting`", Weighting)])
def test_defaults_in_the_reference_are_those_of_the_class(title: str, kind: type) -> None:
    for key, (_, shown, _) in rows(section("recipe.md", title)).items():
        default = fields(kind)[key]
        if isinstance(default, bool):
            assert shown == str(default).lower(), key
        elif isinstance(default, (int, float, str)):
            assert shown.strip("`") == str(default), key


def test_accepted_words_are_in_the_reference() -> None:
    top, weighting = rows(section("recipe.md", "## Top level")), rows(section("recipe.md", "## `weighting`"))
    assert set(re.findall(r"`(\w+)`", top["dtype"][2])) == set(DTYPES)
    assert set(re.findall(r"`(\w+)`", weighting["rule"][2])) == set(RULES)
    assert set(re.findall(r"`(\w+)`", weighting["pooling"][2])) == set(POOLINGS)


def test_every_setting_of_scoring_is_on_its_page() -> None:
    first_cells = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", section("scoring.md", "## Settings"), re.MULTILINE)
    assert {name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)} == fields(Weighting).keys()


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("models/auto/configuration_auto.py", "but Transformers does not recognize this architecture"),
        ("models/auto/configuration_auto.py", "You can update Transformers with the command `pip install --upgrade"),
        ("modeling_utils.py", "Error no file named"),
        ("modeling_utils.py", "does not appear to have a file named"),
        ("configuration_utils.py", "You are using a model of type"),
    ],
)
def test_messages_of_transformers_are_on_the_page_of_errors_in_its_own_words(module: str, words: str) -> None:
    assert words in (DOCS / "errors.md").read_text(encoding="utf-8")
    assert words in Path(transformers.__file__).parent.joinpath(module).read_text(encoding="utf-8")


def test_the_table_of_methods_is_that_of_the_code() -> None:
    shown = rows(section("methods.md", "# Methods"))
    assert shown.keys() == METHODS.keys()
    for name, cells in shown.items():
        spec = METHODS[name]
        assert cells == [f"`{spec.summary}`", spec.base, spec.accepted_weights, spec.accepted_ingredients]


@pytest.mark.parametrize("method", METHODS)
def test_every_parameter_of_a_method_is_explained_with_its_default(method: str) -> None:
    text = section("methods.md", f"## {method}")
    for name, spec in METHODS[method].parameters.items():
        assert f"`{name}`" in text
        assert f"default {spec.shown_default}" in text
    for number in re.findall(r"arXiv:(\d{4}\.\d{5})", METHODS[method].source):
        assert f"https://arxiv.org/abs/{number}" in text


def test_the_help_is_the_commands_own() -> None:
    """Write it anew with `python tests/help_page.py`."""
    shown = PAGE.read_text(encoding="utf-8")
    assert shown.startswith(HEAD)
    assert shown.split() == help_page().split()  # versions of click differ in white space


def test_every_module_is_on_the_page_about_the_design() -> None:
    known = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()} - {
        "__init__"
    }
    text = section("design.md", "## Rooms")
    named = {name.strip("/") for name in re.findall(r"`([\w/]+)`", text)}
    assert not known - named
    assert not {name for name in named if (PACKAGE / name).exists() or (PACKAGE / f"{name}.py").exists()} - known


def test_every_page_installs_the_package_from_where_it_is_to_be_had() -> None:
    """And so does the README; other packages, such as pre-commit, may come from an index."""
    pages = [DOCS.parent / "README.md", DOCS.parent / "CONTRIBUTING.md", *DOCS.glob("*.md")]
    shown = {
        (page.name, name)
        for page in pages
        for name in re.findall(r'pip install (?:-\S+ )*"?([^\s"`\[]+)', page.read_text(encoding="utf-8"))
    }
    shown.remove(("errors.md", "transformers"))  # what transformers says, and no advice
    assert {name for page, name in shown if page != "CONTRIBUTING.md"} == {INSTALLED_FROM}
    assert {name for page, name in shown if page == "CONTRIBUTING.md"} == {"pre-commit"}
    sources = [path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*") if path.suffix in (".py", ".md")]
    assert sum(len(re.findall("pip install ", text)) for text in sources) == 2, "both in install_command"


def test_every_page_is_reached_from_the_readme() -> None:
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    assert not [page.name for page in DOCS.glob("*.md") if f"docs/{page.name}" not in readme]


@pytest.mark.slow
@pytest.mark.usefixtures("hub")
def test_the_python_of_every_page_runs(tmp_path: Path) -> None:
    """With a recipe and examples where the text has them."""
    ids = published("llama").ids
    recipe = {"ingredients": list(ids), "weighting": {"examples": "examples.jsonl"}}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    examples = [{"input": "the cat sat on", "output": "the mat"}, {"input": "a dog ran in", "output": "the park"}]
    (tmp_path / "examples.jsonl").write_text("\n".join(map(json.dumps, examples)), encoding="utf-8")
    ran = []
    for page in sorted(DOCS.glob("*.md")):
        for block in re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
            command = [sys.executable, "-c", block]
            environment = os.environ | {"HF_TOKEN": TOKEN}
            done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{page.name}\n{block}\n{done.stderr}"
            ran.append(page.name)
    assert {"migrate-from-lm-cocktail.md", "scoring.md"} <= set(ran)


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.timeout(1800)
def test_the_commands_of_the_page_about_weights_run_with_the_models_of_the_demo(tmp_path: Path) -> None:
    text = (DOCS / "which-weight.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(python|bash)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert [language for language, _ in blocks] == ["python", *["bash"] * 5]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "COCKTAIL_HUB_CACHE": str(tmp_path / "cache")}
    for language, block in blocks:
        command = [sys.executable, "-c", block] if language == "python" else ["bash", "-c", block]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{block}\n{done.stderr}"
    for name in ("chosen", "weighted", "soup"):
        assert "evidence:" in (tmp_path / f"{name}.yaml").read_text(encoding="utf-8")

"""The page, driven in a real browser as a user would: headless Chromium against `cocktail ui` and a Hub on loopback.

COCKTAIL_SCREENSHOTS=docs/ui writes the pictures of the docs.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import embedders
import pytest
from models import pushed_files

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest.importorskip("gradio", reason="needs cocktail-hub[ui]")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.whole,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium"),
    pytest.mark.filterwarnings("default"),
]
WAIT = 40_000
PASSAGES = [
    {"query": "where is the cat", "pos": ["the cat sat on the mat"], "neg": ["a dog ran in", "where is it"]},
    {"query": "a dog", "pos": ["a dog ran in the park"], "neg": ["the cat sat", "on the mat is it"]},
]


def serve(*arguments: str, **environment: str) -> tuple[subprocess.Popen[bytes], str]:
    """Start the page; returns its process and address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, *arguments, str(port)], env=os.environ | environment)
    address = f"http://127.0.0.1:{port}"
    for _ in range(600):
        try:
            urllib.request.urlopen(address).close()
        except OSError:
            assert process.poll() is None
            time.sleep(0.1)
        else:
            break
    return process, address


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """`cocktail ui` for the tests of this file."""
    process, address = serve("-m", "cocktail_hub.cli", "ui", "--no-browser", "--port", HF_TOKEN="")
    yield address
    process.send_signal(signal.SIGINT)
    assert process.wait(20) in (0, 130)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Any, address: str) -> Iterator[Any]:
    """A tab of a browser that has never seen the page."""
    context = chromium.new_context(viewport={"width": 1400, "height": 900})
    tab = context.new_page()
    tab.set_default_timeout(WAIT)
    tab.goto(address)
    tab.get_by_role("heading", name="Cocktail").wait_for()
    yield tab
    context.close()


def choose(tab: Any, *names: str) -> None:
    """Write the names of models, as if they were not suggested."""
    field = tab.get_by_label("Models", exact=True)
    for name in names:
        field.fill(name)
        field.press("Enter")


def picture(tab: Any, name: str) -> None:
    """Take a picture for the docs, if they are wanted."""
    if folder := os.environ.get("COCKTAIL_SCREENSHOTS"):
        Path(folder).mkdir(exist_ok=True)
        tab.screenshot(path=f"{folder}/{name}.png", full_page=True)


def test_models_are_found_checked_mixed_compared_and_published(page: Any, tmp_path: Path) -> None:
    first, second = embedders.published("mean")
    field = page.get_by_label("Models", exact=True)
    field.press_sequentially("embedder-mean")
    page.get_by_role("option", name=first).click()
    choose(page, second)
    page.get_by_text("These models fit together.").wait_for()
    assert (
        "SentenceTransformer" in page.locator("#checked").inner_text()
        or "BertModel" in page.locator("#checked").inner_text()
    )
    weight = page.get_by_role("spinbutton", name=second)
    weight.fill("0.25")
    weight.press("Tab")
    playwright.expect(page.get_by_role("spinbutton", name=first)).to_have_value("0.75")
    page.get_by_role("button", name="Mix", exact=True).click()
    page.get_by_text("Mixed.").wait_for()
    page.get_by_label("Question or prompt").fill("where is the cat")
    page.get_by_label("Texts to rank").fill("the cat sat on the mat\na dog ran in the park")
    page.get_by_role("button", name="Compare").click()
    playwright.expect(page.locator("#compared article")).to_have_count(4, timeout=WAIT)
    with page.expect_download() as download:
        page.get_by_role("link", name="Download the recipe").or_(
            page.get_by_role("button", name="Download the recipe")
        ).click()
    assert "weight: 0.75" in Path(download.value.path()).read_text()
    examples = tmp_path / "mine.jsonl"
    examples.write_text("".join(json.dumps(row) + "\n" for row in PASSAGES))
    page.locator("#target input[type=file]").set_input_files(examples)
    page.get_by_role("button", name="Draw the curve").click()
    page.locator("#swept svg").first.wait_for()
    picture(page, "page")
    page.get_by_label("Repo").fill("alice/from-a-page")
    page.get_by_label("Access token").fill("hf_alice")
    page.get_by_role("button", name="Publish").click()
    page.get_by_text("Published.").wait_for()
    assert page.get_by_label("Access token").input_value() == ""
    assert {"model.safetensors", "recipe.json", "README.md"} <= pushed_files("alice/from-a-page")

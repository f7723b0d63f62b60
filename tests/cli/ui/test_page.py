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
import models
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


UNREADABLE = """() => {
  const rgb = text => (text.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = node => {
    for (; node; node = node.parentElement) {
      const color = rgb(getComputedStyle(node).backgroundColor);
      if (color.length < 4 || color[3] > 0.9) return color;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const node of document.querySelectorAll("main *, .gradio-container *")) {
    const own = [...node.childNodes].some(child => child.nodeType === 3 && child.textContent.trim());
    if (!own || !node.checkVisibility({opacityProperty: true}) || node.closest("[disabled], svg")) continue;
    const [a, b] = [light(rgb(getComputedStyle(node).color)), light(ground(node))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) found.push(`${node.textContent.trim().slice(0, 40)}: ${ratio.toFixed(2)}`);
  }
  return found;
}"""


def unreadable(tab: Any) -> list[str]:
    """Texts that do not stand out from their background as WCAG's level AA asks, with their contrast."""
    return tab.evaluate(UNREADABLE)


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
        page.get_by_role("button", name="Download the recipe").click()
    assert "weight: 0.75" in Path(download.value.path()).read_text()
    examples = tmp_path / "mine.jsonl"
    examples.write_text("".join(json.dumps(row) + "\n" for row in PASSAGES))
    page.locator("#target input[type=file]").set_input_files(examples)
    page.get_by_role("button", name="Draw the curve").click()
    page.locator("#swept svg").wait_for()
    assert unreadable(page) == []
    picture(page, "page")
    page.get_by_label("Repo", exact=True).fill("alice/from-a-page")
    page.get_by_label("Access token").fill("hf_alice")
    page.get_by_role("button", name="Publish").click()
    page.get_by_text("Published.").wait_for()
    assert page.get_by_label("Access token").input_value() == ""
    assert {"model.safetensors", "recipe.json", "README.md"} <= pushed_files("alice/from-a-page")


def test_models_that_do_not_fit_and_names_that_do_not_exist_are_said_at_once(page: Any) -> None:
    choose(page, embedders.published("mean")[0], models.published("llama").ids[0])
    checked = page.locator("#checked")
    checked.get_by_role("alert").wait_for()
    assert "acme/llama-a" in checked.inner_text()
    page.get_by_role("button", name="Mix", exact=True).click()
    page.locator("#mixed").get_by_role("alert").wait_for()
    field = page.get_by_label("Models", exact=True)
    for _ in range(2):
        field.press("Backspace")
    choose(page, "acme/no-such-model", models.published("llama").ids[0])
    checked.get_by_text("acme/no-such-model").first.wait_for()
    page.get_by_role("button", name="Draw the curve").click()
    page.get_by_text("There are no examples.").wait_for()
    page.get_by_role("button", name="Compare").click()
    page.locator("#compared").get_by_role("alert").wait_for()


def test_a_wrong_token_is_said(page: Any) -> None:
    choose(page, *models.published("llama").ids)
    page.get_by_text("These models fit together.").wait_for()
    page.get_by_label("Repo", exact=True).fill("alice/never-made")
    page.get_by_label("Only the recipe").check()
    page.get_by_label("Access token").fill("hf_wrong")
    page.get_by_role("button", name="Publish").click()
    alert = page.locator("#pushed").get_by_role("alert")
    alert.wait_for()
    assert "alice/never-made" in alert.inner_text()
    assert "hf_wrong" not in page.content()


def test_a_mix_goes_on_while_the_page_is_loaded_again_and_other_tabs_know_nothing_of_it(
    page: Any, address: str, hub: Any
) -> None:
    first, second = models.published("llama-bf16").ids
    choose(page, first, second)
    page.get_by_text("These models fit together.").wait_for()
    hub.fail("GET .*safetensors", status=429, headers={"Retry-After": "4"}, times=2)
    page.get_by_role("button", name="Mix", exact=True).click()
    page.get_by_role("button", name="Stop").wait_for()
    other = page.context.new_page()
    other.goto(address)
    page.reload()
    page.get_by_role("button", name=first).or_(page.get_by_text(first, exact=True)).first.wait_for()
    page.get_by_text("Mixed.").wait_for(timeout=WAIT)
    other.get_by_role("heading", name="Publish").wait_for()
    assert first not in other.content()
    page.reload()
    page.get_by_text("Mixed.").wait_for()


def test_a_language_model_is_asked_a_prompt_with_the_keyboard_alone(page: Any) -> None:
    page.get_by_label("Models", exact=True).focus()
    for name in models.published("llama").ids:
        page.keyboard.type(name)
        page.keyboard.press("Enter")
    page.get_by_text("These models fit together.").wait_for()

    def reach(name: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            label = page.evaluate("document.activeElement.ariaLabel || document.activeElement.textContent || ''")
            labels = page.evaluate("[...(document.activeElement.labels || [])].map(one => one.textContent).join(' ')")
            if name in f"{label} {labels}":
                return
        pytest.fail(f"the keyboard does not reach {name}")

    reach(f"range slider for Weight of {models.published('llama').ids[1]}")
    page.keyboard.press("ArrowLeft")
    first = page.get_by_role("spinbutton", name=models.published("llama").ids[0])
    playwright.expect(first).to_have_value("0.51")
    assert first.is_enabled()
    reach("Question or prompt")
    page.keyboard.type("the cat sat")
    reach("Compare")
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#compared article")).to_have_count(4, timeout=WAIT)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_is_readable_on_a_telephone_in_both_themes(chromium: Any, address: str, theme: str) -> None:
    context = chromium.new_context(viewport={"width": 400, "height": 800})
    tab = context.new_page()
    tab.set_default_timeout(WAIT)
    tab.goto(f"{address}/?__theme={theme}")
    choose(tab, *models.published("reranker").ids)
    tab.get_by_text("These models fit together.").wait_for()
    tab.get_by_label("Method").click()
    tab.get_by_role("option", name="ties", exact=True).click()
    tab.get_by_text("ties needs a base").wait_for()
    assert unreadable(tab) == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= 400
    if theme == "dark":
        picture(tab, "telephone")
    context.close()


def test_strangers_get_no_file_of_the_machine(chromium: Any) -> None:
    code = "import sys; from cocktail_hub.cli.ui.page import serve; serve(public=True, port=int(sys.argv[1]))"
    process, address = serve("-c", code)
    tab = chromium.new_page()
    tab.set_default_timeout(WAIT)
    tab.goto(address)
    choose(tab, *map(str, models.pair("bert").folders))
    tab.get_by_text("takes models from the Hub alone").wait_for()
    tab.get_by_role("button", name="Publish").click()
    tab.get_by_text("There is no access token.").wait_for()
    tab.close()
    process.send_signal(signal.SIGINT)
    process.wait(20)

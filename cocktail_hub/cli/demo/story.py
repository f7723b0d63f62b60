"""What the demo does, step by step. Imports the Hugging Face libraries: their environment must be set by then."""

from __future__ import annotations

import tempfile
import textwrap
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import transformers
from huggingface_hub import HfApi, ModelCard, metadata_update
from sentence_transformers import SentenceTransformer
from transformers import AutoModel

from cocktail_hub import AutoCocktailModel, CocktailConfig, Ingredient, Recipe, mix
from cocktail_hub.cli.demo.models import BASE, FINE_TUNE
from cocktail_hub.cli.demo.picture import Curve, draw, write_numbers
from cocktail_hub.cli.demo.questions import SETS, Score, read_questions, score

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from typing_extensions import Self

    from cocktail_hub.testing import LoopbackHub

RECIPE = "demo/minilm-sre-recipe"
MERGED = "demo/minilm-sre"
SHARES = tuple(step / 10 for step in range(11))
"""Shares of the fine-tuned model on the curve."""
_MB = 1e6
_WEIGHTS = "GET /_cdn/"
"""Large files are served from there, so these are the requests that cost something."""

OWN = """\
With models of your own, on the Hub (log in first: hf auth login):
  from cocktail_hub import AutoCocktailModel, CocktailConfig
  CocktailConfig(ingredients=["org/base", "you/fine-tuned"], weights=[0.5, 0.5]).push_to_hub("you/my-recipe")
  model = AutoCocktailModel.from_pretrained("you/my-recipe")   # an ordinary transformers model
  model.push_to_hub("you/my-mix")                              # ordinary weights, with card and recipe"""


@dataclass
class Story:
    """The demo, and what its steps hand on."""

    hub: LoopbackHub
    """The Hub that everything goes through."""
    echo: Callable[[str], object]
    """Takes each line."""
    steps: int = field(default=0, init=False)
    """Number of the current step."""

    def title(self, text: str) -> None:
        """Open a step."""
        self.steps += 1
        self.echo(f"\n{self.steps}. {text}")

    def say(self, *lines: str) -> None:
        """Tell something, indented."""
        for line in lines:
            self.echo(f"   {line}".rstrip())


def tell(hub: LoopbackHub, output: Path, echo: Callable[[str], object]) -> None:
    """Run the whole demo. The picture and its numbers go to the folder `output`."""
    transformers.utils.logging.disable_progress_bar()
    start = time.perf_counter()
    story = Story(hub=hub, echo=echo)
    push_models(story)
    push_recipe(story)
    model = load_recipe(story)
    publish_weights(story, model)
    compare(story)
    trade_off(story, output)
    show_card(story)
    load_again(story)
    echo(f"\nDone in {time.perf_counter() - start:.0f} s; the Hub and everything on it are gone now.\n\n{OWN}")


def push_models(story: Story) -> None:
    """Push both models as anybody would."""
    story.title(f"Two published models are pushed to a Hub on this machine, {story.hub.url}")
    api = HfApi()
    for model in (BASE, FINE_TUNE):
        api.create_repo(model.repo_id)
        folder = model.locate()
        api.upload_folder(repo_id=model.repo_id, folder_path=folder, commit_message="Upload model")
        if model.license:
            metadata_update(model.repo_id, {"license": model.license})
        nbytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        story.say(f"{model.repo_id}  {nbytes / _MB:.0f} MB  {model.about}")


def push_recipe(story: Story) -> None:
    """Publish the recipe alone."""
    story.title("A recipe that mixes them half and half becomes a repo of its own")
    config = CocktailConfig(ingredients=[BASE.repo_id, FINE_TUNE.repo_id], weights=[0.5, 0.5])
    story.say(
        f'CocktailConfig(ingredients=["{BASE.repo_id}", "{FINE_TUNE.repo_id}"], weights=[0.5, 0.5])',
        f'    .push_to_hub("{RECIPE}")',
    )
    with _Meter(story.hub) as meter:
        config.push_to_hub(RECIPE)
    files = HfApi().model_info(RECIPE, files_metadata=True).siblings or []
    nbytes = sum(file.size or 0 for file in files)
    story.say(f"{len(files)} files, {nbytes / _MB:.1f} MB, no weights; none were downloaded either. {meter}")


def load_recipe(story: Story) -> Any:
    """The first load: download, merge, cache, load."""
    story.title("The recipe loads like a model")
    story.say(f'model = AutoCocktailModel.from_pretrained("{RECIPE}")')
    with _Meter(story.hub) as meter:
        model = AutoCocktailModel.from_pretrained(RECIPE)
    story.say(
        f"An ordinary {type(model).__module__.split('.')[0]}.{type(model).__name__}, "
        f"{model.num_parameters() / _MB:.1f} million parameters.",
        f"Downloaded {meter.downloaded / _MB:.0f} MB of weights, merged and cached them. {meter}",
    )
    return model


def publish_weights(story: Story, model: Any) -> None:
    """Publish the merged weights, and load both repos with the libraries' own classes."""
    story.title("The same mix as ordinary weights, for those without cocktail_hub")
    story.say(f'model.push_to_hub("{MERGED}")')
    model.push_to_hub(MERGED)
    text = ["a text to embed"]
    wanted = SentenceTransformer(RECIPE).encode(text, show_progress_bar=False)
    weights = model.state_dict()
    rows = []
    for repo in (RECIPE, MERGED):
        vectors = SentenceTransformer(repo).encode(text, show_progress_bar=False)
        loaded = AutoModel.from_pretrained(repo).state_dict()
        equal = all(bool((loaded[name] == weight).all()) for name, weight in weights.items())
        rows += [
            ["SentenceTransformer", repo, _same(np.array_equal(vectors, wanted))],
            ["AutoModel", repo, _same(equal)],
        ]
    story.say(*_table(["loaded with", "from", "result"], rows))


def compare(story: Story) -> None:
    """Base, fine-tuned model and mix on both question sets."""
    story.title("What the mix knows: 40 everyday and 40 SRE descriptions, each to be matched with its term")
    sets = read_questions()
    rows = []
    for name, repo in (("base", BASE.repo_id), ("fine-tuned", FINE_TUNE.repo_id), ("mix", RECIPE)):
        scores = score(SentenceTransformer(repo), sets)
        rows.append([name, *_cells(scores)])
    story.say(
        *_table(["", *(f"{name} {kind}" for name in SETS for kind in ("right", "MRR"))], rows),
        "right: the term comes first among all 80. MRR: mean of 1/rank. One question more or less is 2.5 %.",
    )


def trade_off(story: Story, output: Path) -> None:
    """Score mixes with every share, and draw the curve."""
    story.title("The trade-off, from the base (share 0) to the fine-tuned model (share 1)")
    sets = read_questions()
    curve: Curve = {share: score(_mixed(share), sets) for share in SHARES}
    rows = [[f"{share:.1f}", *_cells(scores)] for share, scores in curve.items()]
    story.say(*_table(["share", *(f"{name} {kind}" for name in SETS for kind in ("right", "MRR"))], rows))
    picture, numbers = output / "tradeoff.png", output / "tradeoff.csv"
    draw(curve, picture)
    write_numbers(curve, numbers)
    story.say(f"Written to {picture} and {numbers}.")


def show_card(story: Story) -> None:
    """Print the card that is on the Hub."""
    story.title(f"The card on the Hub at {MERGED}")
    card = ModelCard.load(MERGED)
    story.say(*textwrap.indent(str(card.content).strip(), "| ", lambda _: True).splitlines())


def load_again(story: Story) -> None:
    """The second load: nothing is downloaded or merged."""
    story.title("The second load takes neither download nor merge")
    with _Meter(story.hub) as meter:
        AutoCocktailModel.from_pretrained(RECIPE)
    merged = "nothing" if mix(RECIPE).report["cached"] else "again"
    story.say(f"Weights downloaded: {meter.downloaded} bytes. Merged: {merged}. {meter}", "Requests to the Hub:")
    story.say(*(f"    {request.method} {request.path.split('?')[0]}" for request in meter.requests))
    with _Meter(story.hub) as meter:
        AutoCocktailModel.from_pretrained(RECIPE, local_files_only=True)
    story.say(f"With local_files_only=True: {len(meter.requests)} requests. {meter}")


class _Meter:
    """Takes the time of a block, and what it asked of the Hub."""

    def __init__(self, hub: LoopbackHub) -> None:
        self._hub = hub

    def __enter__(self) -> Self:
        self._hub.clear_requests()
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self._seconds = time.perf_counter() - self._start
        self.requests = self._hub.requests
        self.downloaded = self._hub.sent(_WEIGHTS)

    def __str__(self) -> str:
        return f"({self._seconds:.1f} s)"


def _mixed(share: float) -> Any:
    """The mix with that share of the fine-tuned model; its folder is gone once it is loaded."""
    recipe = Recipe(
        ingredients=(
            Ingredient(model=BASE.repo_id, weight=1 - share),
            Ingredient(model=FINE_TUNE.repo_id, weight=share),
        )
    )
    with tempfile.TemporaryDirectory() as folder:
        return mix(recipe, output=Path(folder) / "mix").load_sentence_transformer()


def _same(equal: bool) -> str:
    return "the same, bit for bit" if equal else "DIFFERENT"


def _cells(scores: Mapping[str, Score]) -> list[str]:
    return [cell for name in SETS for cell in (f"{100 * scores[name].top1:.1f} %", f"{scores[name].mrr:.3f}")]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: the first column to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    numeric = [all(row[i][:1].isdigit() for row in rows) for i in range(len(head))]
    pad = [str.rjust if right and i else str.ljust for i, right in enumerate(numeric)]
    return ["  ".join(pad[i](cell, widths[i]) for i, cell in enumerate(row)).rstrip() for row in (head, *rows)]

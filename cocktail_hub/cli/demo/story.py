"""The steps of the demo. Imports the Hugging Face libraries, whose environment must be set before."""

from __future__ import annotations

import csv
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import transformers
from huggingface_hub import HfApi, ModelCard, metadata_update
from sentence_transformers import SentenceTransformer
from transformers import AutoModel

from cocktail_hub import AutoCocktailModel, CocktailConfig, mix
from cocktail_hub.cli.demo.models import BASE, FINE_TUNE
from cocktail_hub.cli.demo.questions import SETS, Score, read_questions, score
from cocktail_hub.cli.output import size, table

if TYPE_CHECKING:
    from cocktail_hub.testing import LoopbackHub

RECIPE = "demo/minilm-sre-recipe"
MERGED = "demo/minilm-sre"
WEIGHTS = tuple(step / 10 for step in range(11))
"""Weights of the fine-tuned model on the curve."""
Curve = Mapping[float, Mapping[str, Score]]
"""Weight of the fine-tuned model -> name of the question set -> scores."""
_HEAD = tuple(f"{name} {kind}" for name in SETS for kind in ("right", "MRR"))

OWN = """\
With models of your own, on the Hub (log in first: hf auth login):
  from cocktail_hub import AutoCocktailModel, CocktailConfig
  CocktailConfig(ingredients=["org/base", "you/fine-tuned"], weights=[0.5, 0.5]).push_to_hub("you/my-recipe")
  model = AutoCocktailModel.from_pretrained("you/my-recipe")   # an ordinary transformers model
  model.push_to_hub("you/my-mix")                              # ordinary weights, with card and recipe"""


@dataclass
class Story:
    """Prints the steps of the demo, and measures them."""

    hub: LoopbackHub
    """The Hub of the demo."""
    echo: Callable[[str], object]
    """Prints a line."""
    step: int = field(default=0, init=False)
    """Number of the current step."""

    def title(self, text: str) -> None:
        """Begin a step."""
        self.step += 1
        self.echo(f"\n{self.step}. {text}")

    def say(self, *texts: str) -> None:
        """Print texts, indented."""
        for line in "\n".join(texts).splitlines():
            self.echo(f"   {line}".rstrip())

    @contextmanager
    def measured(self) -> Iterator[dict[str, Any]]:
        """Yield a dictionary that gets `time`, the `requests` to the Hub and the `bytes` of weights downloaded."""
        found: dict[str, Any] = {}
        self.hub.clear_requests()
        start = time.perf_counter()
        yield found
        # Large files are served below /_cdn/, so these bytes are those of weights.
        found |= {"requests": self.hub.requests, "bytes": self.hub.sent("GET /_cdn/")}
        found["time"] = f"({time.perf_counter() - start:.1f} s)"


def tell(hub: LoopbackHub, output: Path, echo: Callable[[str], object]) -> None:
    """Run the whole demo. The plot and its numbers go to the folder `output`."""
    transformers.utils.logging.disable_progress_bar()
    start = time.perf_counter()
    story = Story(hub=hub, echo=echo)
    push_models(story)
    push_recipe(story)
    model = load_recipe(story)
    publish_weights(story, model)
    compare(story)
    trade_off(story, output)
    story.title(f"The card on the Hub at {MERGED}")
    story.say(textwrap.indent(str(ModelCard.load(MERGED).content).strip(), "| ", lambda _: True))
    load_again(story)
    echo(f"\nDone in {time.perf_counter() - start:.0f} s; the Hub and everything on it are deleted.\n\n{OWN}")


def push_models(story: Story) -> None:
    """Push both models with the Hub's own client."""
    story.title(f"Two published models are pushed to a Hub on this machine, {story.hub.url}")
    api = HfApi()
    for model in (BASE, FINE_TUNE):
        api.create_repo(model.repo_id)
        folder = model.locate()
        api.upload_folder(repo_id=model.repo_id, folder_path=folder, commit_message="Upload model")
        if model.license:
            metadata_update(model.repo_id, {"license": model.license})
        nbytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        story.say(f"{model.repo_id}  {size(nbytes)}  {model.about}")


def push_recipe(story: Story) -> None:
    """Publish the recipe alone."""
    story.title("A recipe that mixes them half and half becomes a repo of its own")
    config = CocktailConfig(ingredients=[BASE.repo_id, FINE_TUNE.repo_id], weights=[0.5, 0.5])
    story.say(
        f'CocktailConfig(ingredients=["{BASE.repo_id}", "{FINE_TUNE.repo_id}"], weights=[0.5, 0.5])',
        f'    .push_to_hub("{RECIPE}")',
    )
    with story.measured() as found:
        config.push_to_hub(RECIPE)
    files = HfApi().model_info(RECIPE, files_metadata=True).siblings or []
    nbytes = sum(file.size or 0 for file in files)
    story.say(f"{len(files)} files, {size(nbytes)}, no weights; none were downloaded either. {found['time']}")


def load_recipe(story: Story) -> Any:
    """Load the recipe for the first time: download, merge, cache, load."""
    story.title("The recipe loads like a model")
    story.say(f'model = AutoCocktailModel.from_pretrained("{RECIPE}")')
    with story.measured() as found:
        model = AutoCocktailModel.from_pretrained(RECIPE)
    story.say(
        f"An ordinary {type(model).__module__.split('.')[0]}.{type(model).__name__}, "
        f"{model.num_parameters() / 1e6:.1f} million parameters.",
        f"Downloaded {found['bytes'] / 1e6:.0f} MB of weights, merged and cached them. {found['time']}",
    )
    return model


def publish_weights(story: Story, model: Any) -> None:
    """Publish the merged weights, and load both repos with the libraries' own classes."""
    story.title("The same mix as ordinary weights, for users without cocktail_hub")
    story.say(f'model.push_to_hub("{MERGED}")')
    model.push_to_hub(MERGED)
    wanted = SentenceTransformer(RECIPE).encode(["a text to embed"], show_progress_bar=False)
    weights = model.state_dict()
    rows = []
    for repo in (RECIPE, MERGED):
        vectors = SentenceTransformer(repo).encode(["a text to embed"], show_progress_bar=False)
        loaded = AutoModel.from_pretrained(repo).state_dict()
        equal = all(bool((loaded[name] == weight).all()) for name, weight in weights.items())
        for name, same in (("SentenceTransformer", np.array_equal(vectors, wanted)), ("AutoModel", equal)):
            rows.append([name, repo, "the same, bit for bit" if same else "DIFFERENT"])
    story.say(table(["loaded with", "from", "result"], rows))


def compare(story: Story) -> None:
    """Score base, fine-tuned model and mix on both question sets."""
    story.title("What the mix knows: 40 everyday and 40 SRE descriptions, each to be matched with its term")
    sets = read_questions()
    models = {"base": BASE.repo_id, "fine-tuned": FINE_TUNE.repo_id, "mix": RECIPE}
    rows = [[name, *_cells(score(SentenceTransformer(repo), sets))] for name, repo in models.items()]
    story.say(
        table(["", *_HEAD], rows),
        "right: the term comes first among all 80. MRR: mean of 1/rank. One question is 2.5 %.",
    )


def trade_off(story: Story, output: Path) -> None:
    """Score mixes with every weight, and draw the curve."""
    story.title("The trade-off, from the base (weight 0) to the fine-tuned model (weight 1)")
    sets = read_questions()
    curve: dict[float, Mapping[str, Score]] = {}
    for weight in WEIGHTS:
        pairs = ((BASE.repo_id, 1 - weight), (FINE_TUNE.repo_id, weight))
        with tempfile.TemporaryDirectory() as folder:
            made = mix({"ingredients": [{"model": m, "weight": w} for m, w in pairs]}, output=Path(folder) / "mix")
            curve[weight] = score(made.load_sentence_transformer(), sets)
    story.say(table(["weight", *_HEAD], [[f"{weight:.1f}", *_cells(scores)] for weight, scores in curve.items()]))
    draw(curve, output / "tradeoff.png")
    write_numbers(curve, output / "tradeoff.csv")
    story.say(f"Written to {output / 'tradeoff.png'} and {output / 'tradeoff.csv'}.")


def load_again(story: Story) -> None:
    """Load the recipe a second time: nothing is downloaded or merged."""
    story.title("The second load neither downloads nor merges")
    with story.measured() as found:
        AutoCocktailModel.from_pretrained(RECIPE)
    merged = "nothing" if mix(RECIPE).report["cached"] else "again"
    story.say(f"Weights downloaded: {found['bytes']} bytes. Merged: {merged}. {found['time']}", "Requests to the Hub:")
    story.say(*(f"    {request.method} {request.path.split('?')[0]}" for request in found["requests"]))
    with story.measured() as found:
        AutoCocktailModel.from_pretrained(RECIPE, local_files_only=True)
    story.say(f"With local_files_only=True: {len(found['requests'])} requests. {found['time']}")


def _cells(scores: Mapping[str, Score]) -> list[str]:
    return [cell for name in SETS for cell in (f"{100 * scores[name].top1:.1f} %", f"{scores[name].mrr:.3f}")]


def draw(curve: Curve, path: Path) -> None:
    """Plot the questions answered right against the weight of the fine-tuned model."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.add_subplot()
    weights = sorted(curve)
    for color, (name, topic) in zip(("#1f6fb4", "#d1602a"), SETS.items(), strict=True):
        right = [100 * curve[weight][name].top1 for weight in weights]
        axes.plot(weights, right, marker="o", color=color, label=f"{name}: {topic}")
    axes.axvline(0.5, color="0.6", linestyle=":", linewidth=1.2)
    axes.annotate("the recipe", (0.5, 3), xytext=(6, 0), textcoords="offset points", color="0.4")
    axes.set(
        title="all-MiniLM-L6-v2 mixed with its SRE fine-tune",
        xlabel="weight of the fine-tuned model  (0: base, 1: fine-tuned)",
        ylabel="questions answered right, % of 40",
        xlim=(-0.03, 1.03),
        ylim=(0, 100),
        xticks=weights,
    )
    axes.grid(axis="y", color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper right")
    figure.savefig(path, dpi=110, metadata={"Software": None})


def write_numbers(curve: Curve, path: Path) -> None:
    """Write the curve as CSV, one line per weight."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["weight", *(f"{name}_{kind}" for name in SETS for kind in ("top1", "mrr"))])
        for weight in sorted(curve):
            scores = [curve[weight][name] for name in SETS]
            writer.writerow([f"{weight:.1f}", *(f"{value:.3f}" for s in scores for value in (s.top1, s.mrr))])

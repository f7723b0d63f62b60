"""`cocktail eval`: is the mix good?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cocktail_hub.cli.options import mix_options, read_options
from cocktail_hub.cli.output import say, show, show_json


class Named(click.ParamType[tuple[str, str]]):
    """A file or dataset under a name: `target=test.jsonl`; without one, the name is that of the file."""

    name = "name=file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Return name and file."""
        name, sign, file = str(value).partition("=")
        if not name or (sign and not file):
            self.fail(f"'{value}' names no file. Write it like target=test.jsonl.", param, ctx)
        return (name, file) if sign else (Path(name).stem, name)


def named_once(examples: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """Name -> file. Raises click.BadParameter if two have the same name."""
    named = dict(examples)
    if len(named) < len(examples):
        message = "Two sets of examples have the same name. Write --examples NAME=FILE."
        raise click.BadParameter(message, param_hint="--examples")
    return named


@click.command(
    "eval",
    epilog="""\b
Examples:
  cocktail eval recipe.yaml --examples target=target.jsonl --examples general=general.jsonl
  cocktail eval org/base ./fine-tuned me/my-mix --examples test.jsonl --json
  cocktail eval org/base me/my-mix --tasks mmlu57 --shots 5 --data llm-embedder""",
)
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@click.option("--examples", type=Named(), multiple=True, help="File or Hub dataset; may be repeated.")
@click.option(
    "--tasks", multiple=True, help="flan30, mmlu57, flan30:boolq,rte, mteb:TASK or lm_eval:TASK; may be repeated."
)
@click.option("--data", help="Folder or Hub dataset with the data of flan30 and mmlu57, or folder of tasks of lm-eval.")
@click.option("--shots", type=click.IntRange(min=0), default=0, help="Examples before a question: mmlu57, lm_eval.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw the models with their intervals to this PNG file.")
@click.option("--scoring-device", default="auto", show_default=True, help="Device to run models on: auto, cpu or cuda.")
@click.option("--max-length", type=click.IntRange(min=1), help="Longest text in tokens. Default: the model's limit.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Texts per forward pass. Default: as memory allows.")
@click.option("--chat-template", is_flag=True, default=None, help="Put inputs into the tokenizer's chat template.")
@click.option("--no-generation", is_flag=True, help="Let language models write no answers, which takes longest.")
@mix_options(without=("max_shard_size", "engine", "low_disk"))
def evaluate(
    sources: tuple[str, ...],
    examples: tuple[tuple[str, str], ...],
    plot: Path | None,
    no_generation: bool,
    **given: Any,
) -> None:
    """Measure a mix and its parts on examples or known tasks, with intervals and what follows from them.

    One SOURCE is a recipe: its mix is compared with its base, each ingredient, and a mix of equal weights. Several are
    recipes, folders or repos on the Hub: each is compared with the first. A mix is made in memory and not written.
    """
    from cocktail_hub.pipeline.measurement import evaluate
    from cocktail_hub.search.plot import draw_evaluation, require_plotting

    if not examples and not given["tasks"]:
        raise click.UsageError("Give --examples FILE, or --tasks NAME.")
    named = named_once(examples)
    if plot is not None:
        require_plotting()
        if not plot.absolute().parent.is_dir():
            raise click.BadParameter(f"There is no folder '{plot.parent}'.", param_hint="--plot")
    reading = {key: given[key] for key in ("max_length", "batch_size", "chat_template") if given[key] is not None}
    found = evaluate(
        *sources,
        examples=named,
        tasks=given["tasks"],
        data=given["data"],
        shots=given["shots"],
        reading=reading,
        generated=not no_generation,
        revision=given["revision"],
        options=read_options(given, scoring_device=given["scoring_device"]),
    )
    if given["as_json"]:
        show_json(found.to_dict())
    else:
        show(str(found))
    if plot is not None:
        draw_evaluation(found, plot)
        say(f"Drawn to {plot}.")

"""`cocktail init`: write a recipe to start from."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from cocktail_hub.cli.options import MERGING, RecipeCommand, mix_options, read_options, read_source, recipe_arguments
from cocktail_hub.cli.output import say, show

_COMMENTS = {
    "task": "what the mix is for",
    "method": "how: `cocktail methods` lists them all",
    "ingredients": "at exact commits; `requested` is the branch that they were on",
    "normalize": "divide the weights by their sum",
    "base": "what the ingredients were fine-tuned from",
    "weighting": "computes the weights from the examples, a few are enough: docs/scoring.md",
    "parameters": "of the method",
    "dtype": "of the result",
}
"""Key -> what is written behind it."""


@click.command(
    cls=RecipeCommand,
    epilog="""\b
Examples:
  cocktail init org/base ./fine-tuned --weights 0.5 0.5
  cocktail init org/base ./news ./law --examples examples.jsonl -o news-law.yaml""",
)
@recipe_arguments("MODEL MODEL...")
@click.option("--examples", help="File or Hub dataset from which the weights are to be computed.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("recipe.yaml"),
    show_default=True,
    help="New file.",
)
@mix_options(without=(*MERGING, "engine", "as_json"))
def init(output: Path, examples: str | None, **given: Any) -> None:
    """Write a recipe of two or more MODELs, pinned and with comments, once it is clear that they fit together."""
    from cocktail_hub.pipeline.mix import check, prepare
    from cocktail_hub.recipe import dump_yaml
    from cocktail_hub.resolve.source import absolutize_paths

    folder, here = output.absolute().parent, Path.cwd()
    if output.exists() or not folder.is_dir():
        what = "exists already, and is kept" if output.exists() else "would be in a folder that does not exist"
        raise click.BadParameter(f"'{output}' {what}. Name another file.", param_hint="--output")
    options = read_options(given)
    examples_given = () if examples is None else (("weighting.examples", examples),)
    source = read_source({**given, "settings": (*given["settings"], *examples_given)}, options)
    found = check(source, revision=given["revision"], options=options)
    recipe = prepare(source, options, revision=given["revision"], digests=False, recall=False).recipe
    if folder != here:
        recipe = absolutize_paths(recipe, here)
    text = dump_yaml(replace(recipe, task=recipe.task or found.task))
    for key, comment in _COMMENTS.items():
        text = re.sub(rf"^{key}:.*", rf"\g<0>  # {comment}", text, flags=re.MULTILINE)
    output.write_text(f"# A recipe of cocktail_hub; docs/recipe.md has every key.\n{text}", encoding="utf-8")
    show(str(output))
    for note in (*found.notes, found.license_note):
        if note:
            say(f"note: {note}")
    scored = [f"  cocktail score {output}                # compute the weights and show them"]
    say(
        "\n".join(
            [
                f"The models fit: {found.architecture or 'modules'} for {found.task}. Next:",
                *(scored if recipe.weights is None else ()),
                f"  cocktail mix {output} -o ./mix         # make the mix",
                f"  cocktail eval {output} --examples F    # is it good?",
                f"  cocktail push {output} me/my-mix       # publish it",
            ]
        )
    )

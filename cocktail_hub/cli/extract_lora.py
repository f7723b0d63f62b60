"""`cocktail extract-lora`: a mix or a model as a LoRA adapter of its base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cocktail_hub.cli.options import mix_options, read_options
from cocktail_hub.cli.output import say, show_json


@click.command(
    name="extract-lora",
    epilog="""\b
Examples:
  cocktail extract-lora me/my-finetune --base org/base -o ./my-lora
  cocktail extract-lora recipe.yaml --rank 64 --error 0.05 -o ./my-lora""",
)
@click.argument("source")
@click.option("--base", help="The model that the adapter is for. Default: the recipe's base.")
@click.option("--rank", type=click.IntRange(min=1), help="Largest rank. Default: 32; of adapters, what is exact.")
@click.option(
    "--error",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.0,
    help="Relative error of a matrix that is good enough, such as 0.05: ranks are then as small as it allows.",
)
@click.option("--matrices-only", is_flag=True, help="Leave norms, biases and embeddings as in the base, as vLLM wants.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="New folder to write to.")
@mix_options(without=("max_shard_size",))
def extract_lora(source: str, base: str | None, output: Path, **given: Any) -> None:
    """Make a LoRA adapter of SOURCE, a recipe or a fine-tuned model, and print its folder."""
    from cocktail_hub.pipeline.mix import extract_lora

    found = extract_lora(
        source,
        base,
        rank=given["rank"],
        error=given["error"],
        matrices_only=given["matrices_only"],
        output=output,
        revision=given["revision"],
        options=read_options(given),
    )
    say(found.sentence)
    if given["as_json"]:
        show_json({"path": output, **found.to_dict()})
    else:
        click.echo(output)

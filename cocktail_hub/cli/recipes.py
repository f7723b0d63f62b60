"""The commands that take a recipe: `cocktail mix`, `check`, `score`, `push` and `verify`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from cocktail_hub.cli.options import (
    MERGING,
    RecipeCommand,
    mix_options,
    read_options,
    read_source,
    recipe_arguments,
)
from cocktail_hub.cli.output import error_message, say, show, show_json, size, table
from cocktail_hub.errors import CocktailError, RecipeError

EXIT_DIFFERENT = 4
EXIT_NOT_CHECKED = 3
_RULES = ("softmax", "ensemble", "greedy", "top_k", "cma", "uniform")
"""Those of `weighting.rule`, whose room takes long to import."""


@click.command(
    cls=RecipeCommand,
    epilog="""\b
Examples:
  cocktail mix org/base ./fine-tuned --weights 0.5 0.5
  cocktail mix recipe.yaml
  cocktail mix me/my-mix -o ./my-mix --set dtype=bfloat16
  cocktail mix recipe.yaml --dry-run""",
)
@recipe_arguments()
@click.option("-o", "--output", type=click.Path(path_type=Path), help="New folder to write to. Default: the cache.")
@click.option("--dry-run", is_flag=True, help="Only check and plan, without downloading weights.")
@click.option(
    "--force", is_flag=True, help="Mix again even if cached, and replace an earlier mix in the output folder."
)
@mix_options()
def mix(output: Path | None, dry_run: bool, force: bool, **given: Any) -> None:
    """Mix the models of RECIPE, or two or more MODELs, and print the folder of the result."""
    from cocktail_hub.pipeline.mix import mix

    if dry_run:
        _show_preview(given)
        return
    options = read_options(given, force=force, replace=force)
    made = mix(read_source(given, options), output=output, revision=given["revision"], options=options)
    for note in (*made.report.get("notes", ()), (made.recipe.evidence or {}).get("sentence")):
        if note:
            say(f"note: {note}")
    merged = made.report.get("merged")
    if merged is None:
        say("The mix already exists: nothing was downloaded or merged.")
    else:
        say(f"Merged {size(merged.bytes_read)} into {size(merged.bytes_written)} in {merged.seconds:.1f} s.")
    if given["as_json"]:
        report = dict(made.report) | ({"merged": asdict(merged)} if merged else {})
        show_json({"path": made.path, "digest": made.recipe.digest, "recipe": made.recipe.to_dict(), **report})
    else:
        click.echo(made.path)


@click.command(
    cls=RecipeCommand,
    epilog="""\b
Examples:
  cocktail check org/base ./fine-tuned
  cocktail check recipe.yaml
  cocktail check me/my-mix --json""",
)
@recipe_arguments()
@mix_options()
def check(**given: Any) -> None:
    """Check whether RECIPE or MODELs can be mixed and what that takes, without downloading weights."""
    _show_preview(given)


def _show_preview(given: dict[str, Any]) -> None:
    from cocktail_hub.pipeline.mix import check

    options = read_options(given)
    found = check(read_source(given, options), revision=given["revision"], options=options)
    if given["as_json"]:
        show_json(found.to_dict())
        return
    rows = [
        [
            m.model,
            (m.revision or "")[:19],
            f"{m.weight:g}" if isinstance(m.weight, float) else "" if m.weight is None else "per tensor",
            size(m.nbytes),
            m.license or "?",
        ]
        for m in found.models
    ]
    show(table(["model", "revision", "weight", "size", "licence"], rows))
    show(f"\nresult    {found.architecture or 'modules'} for {found.task}, {found.tensors} tensors, {found.method}")
    show(f"download  {size(found.to_download)}")
    show(f"weights   {size(found.output_bytes)} in {len(found.files)} file(s)")
    show(f"disk      at most {size(found.peak_disk)}")
    show(f"memory    {size(found.peak_memory)} for the merge's buffers")
    show(f"licence   {found.license or 'none'}")
    for note in filter(None, (*found.notes, found.license_note)):
        say(f"note: {note}")


@click.command(
    epilog="""\b
Examples:
  cocktail score org/base ./fine-tuned --examples examples.jsonl
  cocktail score recipe.yaml
  cocktail score recipe.yaml --examples examples.jsonl --rule ensemble -o scored.yaml"""
)
@recipe_arguments(weights=False)
@click.option("--examples", help="File or Hub dataset of examples. Default: the recipe's.")
@click.option("--rule", type=click.Choice(_RULES), help="How weights are found.")
@click.option(
    "--metric", help="What greedy, top_k and cma choose by, such as accuracy@1. Default: what eval shows first."
)
@click.option("--temperature", help="In nats, above 0. Lower favours the best ingredient.")
@click.option("--scoring-device", default="auto", show_default=True, help="Device to run models on: auto, cpu or cuda.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the recipe with its weights to this file.")
@mix_options(without=MERGING)
def score(examples: str | None, output: Path | None, temperature: str | None, **given: Any) -> None:
    """Compute the weights of RECIPE, or of MODELs, from a few examples, and print them."""
    from cocktail_hub.pipeline.measurement import score
    from cocktail_hub.recipe import dump_yaml

    try:
        number = temperature if temperature in (None, "auto") else float(temperature)
    except ValueError as error:
        message = f"{temperature!r} is neither a number nor 'auto'."
        raise click.BadParameter(message, param_hint="--temperature") from error
    options = read_options(given, scoring_device=given["scoring_device"])
    if output is not None and not output.absolute().parent.is_dir():
        raise click.BadParameter(f"There is no folder '{output.parent}'.", param_hint="--output")
    found = score(
        read_source(given, options, open_weights=examples is not None or given["rule"] is not None),
        examples,
        rule=given["rule"],
        metric=given["metric"],
        temperature=number,
        revision=given["revision"],
        options=options,
    )
    if output is not None:
        output.write_text(dump_yaml(found.recipe), encoding="utf-8")
    if given["as_json"]:
        show_json(found.recipe.to_dict())
    else:
        show(str(found))


@click.command(
    cls=RecipeCommand,
    epilog="""\b
Examples:
  cocktail push org/base ./fine-tuned --weights 0.5 0.5 --to me/my-mix
  cocktail push recipe.yaml me/my-mix
  cocktail push recipe.yaml me/my-mix-recipe --as recipe --private
  cocktail push recipe.yaml me/my-lora --as adapter --base org/base --rank 64""",
)
@recipe_arguments("RECIPE REPO_ID | MODEL MODEL...")
@click.option("--to", "repo_id", metavar="REPO_ID", help="Repo to publish to; needed with more than one model.")
@click.option(
    "--as",
    "as_",
    type=click.Choice(["merged", "recipe", "both", "adapter"]),
    default="merged",
    show_default=True,
    help="Weights; only the recipe, mixed where it is loaded; weights with a card that offers both; or a LoRA adapter.",
)
@click.option("--rank", type=click.IntRange(min=1), help="For an adapter: largest rank. Default: 32.")
@click.option("--private", is_flag=True, default=None, help="Make a new repo private.")
@click.option("--to-branch", help="Branch of REPO_ID to commit to.")
@click.option("--create-pr", is_flag=True, help="Open a pull request instead of committing.")
@click.option("-m", "--message", help="First line of the commit message.")
@click.option("--results", type=click.Path(path_type=Path), help="Output of `cocktail eval --json`, for the card.")
@mix_options()
def push(repo_id: str | None, base: str | None, **given: Any) -> None:
    """Publish RECIPE, its mix, or that of MODELs to REPO_ID in one commit, and print the commit's address.

    MODELs take `--to REPO_ID`; of two names without it, the second is the repo.

    With `--as adapter`, the base is the model that the adapter is for; default: the recipe's.
    """
    from cocktail_hub.pipeline.mix import publish

    if repo_id is None:
        if len(given["sources"]) != 2 or given["weights"]:  # noqa: PLR2004 - a recipe and a repo
            raise click.UsageError("Say where to publish: `cocktail push RECIPE REPO_ID`, or `--to REPO_ID`.")
        *given["sources"], repo_id = given["sources"]
    options = read_options(given)
    adapter = given["as_"] == "adapter"
    info = publish(
        read_source({**given, "base": None if adapter else base}, options),
        repo_id,
        as_=given["as_"],
        lora={"base": base, "rank": given["rank"]},
        source_revision=given["revision"],
        private=given["private"],
        revision=given["to_branch"],
        create_pr=given["create_pr"],
        commit_message=given["message"],
        results=given["results"],
        options=options,
    )
    if given["as_json"]:
        show_json({"commit": info.oid, "url": info.commit_url, "pull_request": info.pr_url})
    else:
        show(info.pr_url or info.commit_url)


@click.command(
    epilog="""\b
Examples:
  cocktail verify me/my-mix
  cocktail verify me/my-mix --sample 20
  cocktail verify ./my-mix --examples examples.jsonl

\b
Exit code: 0 same, 4 different, 3 could not be checked, 1 nothing to check."""
)
@click.argument("source")
@click.option(
    "--sample",
    type=click.IntRange(min=1),
    help="Compare so many tensors, drawn at random, from ranges of the files. Default: everything.",
)
@click.option("--evidence", is_flag=True, help="Compute the weights again from their examples, too.")
@click.option("--examples", help="The same from this file or Hub dataset, where the examples are not published.")
@mix_options(without=("max_shard_size",))
def verify(source: str, sample: int | None, evidence: bool, examples: str | None, **given: Any) -> None:
    """Make the mix in SOURCE again from its ingredients, and compare the weights byte for byte.

    Numbers of the evidence count as equal within 0.001, those above 1 within a thousandth.
    """
    from cocktail_hub.pipeline.measurement import verify
    from cocktail_hub.publishing.verify import CHANGED

    try:
        options = read_options(given)
        found = verify(
            source,
            sample=sample,
            evidence=evidence,
            examples=examples,
            revision=given["revision"],
            options=options,
        )
    except RecipeError:
        raise
    except (CocktailError, OSError) as error:
        say(f"Error: could not check '{source}'.\n{error_message(error)}", always=True)
        sys.exit(EXIT_NOT_CHECKED)
    if given["as_json"]:
        show_json(
            {
                "same": found.same,
                "digest": found.digest,
                "files": found.found,
                "differences": found.differences,
                "evidence": found.evidence,
                "local_copies": found.local_copies,
                "sample": found.sample,
            }
        )
    else:
        different = f"different: {CHANGED}" if found.changed else "different"
        show("same" if found.same else "\n".join([different, *found.differences, *(found.evidence or ())]))
    compared = f"{len(found.expected)} weight file(s)"
    if found.sample is not None:
        compared = f"{found.sample} tensor(s) and all headers, nothing else"
    say(f"Made again from recipe {found.digest[:12]}: compared {compared}.")
    if found.local_copies:
        say(f"On this machine already, and hashed anew: {', '.join(found.local_copies)}.")
    if found.evidence is not None:
        say(f"Computed the evidence again: {len(found.evidence) or 'no'} number(s) differ.")
    if not found.same:
        sys.exit(EXIT_DIFFERENT)

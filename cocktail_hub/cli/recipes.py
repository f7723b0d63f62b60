"""`cocktail mix`, `check` and `push`: what is done with one recipe."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cocktail_hub.cli.output import say, show_json, size, table
from cocktail_hub.errors import CocktailError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from cocktail_hub.compat.preview import Preview
    from cocktail_hub.merge.options import MixOptions
    from cocktail_hub.pipeline import Mix


class Bytes(click.ParamType[int]):
    """A size such as `500MB`, `5GB` or `1GiB`."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Turn a text into bytes."""
        from cocktail_hub.merge.options import parse_size

        try:
            return parse_size(value, param.name or "size" if param else "size")
        except CocktailError as error:
            self.fail(str(error), param, ctx)


_MAKING = {
    "revision": click.option("--revision", help="Branch, tag or commit of a recipe repo."),
    "token": click.option("--token", help="Access token; by default the saved one."),
    "cache_dir": click.option("--cache-dir", type=click.Path(path_type=Path), help="Folder of the Hub cache."),
    "local_files_only": click.option("--local-files-only", is_flag=True, help="Ask nothing of the Hub."),
    "device": click.option("--device", default="cpu", show_default=True, help="Where to merge: cpu, cuda or cuda:N."),
    "threads": click.option(
        "--threads",
        type=click.IntRange(min=1),
        help="How many work on the merge at once. Default: one per processor, at most 16.",
    ),
    "max_memory": click.option(
        "--max-memory", type=Bytes(), help="Most memory for the merge's buffers, e.g. 500MB. Default: 1GiB."
    ),
    "max_shard_size": click.option(
        "--max-shard-size", type=Bytes(), default="5GB", show_default=True, help="Largest weight file."
    ),
    "engine": click.option(
        "--engine",
        type=click.Choice(["threads", "ray"]),
        default="threads",
        show_default=True,
        help="Work on threads of this machine, or on a Ray cluster.",
    ),
    "low_disk": click.option(
        "--low-disk", is_flag=True, help="Keep one output file's worth of the models on the disk at a time."
    ),
    "trust_remote_code": click.option(
        "--trust-remote-code", is_flag=True, help="Take code from the ingredients' repos along."
    ),
    "as_json": click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
}
"""Name of an argument -> the option that gives it."""
_MERGING = ("device", "threads", "max_memory", "max_shard_size", "low_disk")
"""Those that are about the merge alone."""


def taking(*, without: Collection[str] = ()) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the options that say how to make a mix, but for those without meaning to a command."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for name, option in reversed(_MAKING.items()):
            command = command if name in without else option(command)
        return command

    return add


def read_options(given: dict[str, Any], *, force: bool = False) -> tuple[MixOptions, bool]:
    """Turn the options of a command line into those of the library; also tells whether JSON is wanted."""
    from cocktail_hub.hub import Hub
    from cocktail_hub.merge.options import MixOptions

    hub = Hub(token=given["token"], cache_dir=given["cache_dir"], local_files_only=given["local_files_only"])
    making = {name: given[name] for name in (*_MERGING, "engine", "trust_remote_code") if name in given}
    return MixOptions(hub=hub, force=force, replace=force, **making), given["as_json"]


@click.command(
    epilog="""\b
Examples:
  cocktail mix recipe.yaml
  cocktail mix me/my-mix -o ./my-mix
  cocktail mix recipe.yaml --dry-run"""
)
@click.argument("recipe")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="New folder to write to. Default: the cache.")
@click.option("--dry-run", is_flag=True, help="Check and plan only; weights are not downloaded.")
@click.option("--force", is_flag=True, help="Make the mix again, and replace an earlier mix in the output folder.")
@taking()
def mix(recipe: str, output: Path | None, dry_run: bool, force: bool, **given: Any) -> None:
    """Make the mix that RECIPE describes, and print the folder it is in."""
    from cocktail_hub.pipeline import mix as make

    options, as_json = read_options(given, force=force)
    if dry_run:
        _show_preview(_preview(recipe, given["revision"], options), as_json=as_json)
        return
    made = make(recipe, output=output, revision=given["revision"], options=options)
    _tell(made)
    if as_json:
        merged = made.report.get("merged")
        report = dict(made.report) | ({"merged": asdict(merged)} if merged else {})
        show_json({"path": made.path, "digest": made.recipe.digest, "recipe": made.recipe.to_dict(), **report})
    else:
        click.echo(made.path)


@click.command(
    epilog="""\b
Examples:
  cocktail check recipe.yaml
  cocktail check me/my-mix --json"""
)
@click.argument("recipe")
@taking()
def check(recipe: str, **given: Any) -> None:
    """Tell whether RECIPE can be mixed and what it would take, without downloading weights."""
    options, as_json = read_options(given)
    _show_preview(_preview(recipe, given["revision"], options), as_json=as_json)


@click.command(
    epilog="""\b
Examples:
  cocktail push recipe.yaml me/my-mix
  cocktail push recipe.yaml me/my-mix-recipe --as recipe --private"""
)
@click.argument("recipe")
@click.argument("repo_id")
@click.option(
    "--as",
    "as_",
    type=click.Choice(["merged", "recipe", "both"]),
    default="merged",
    show_default=True,
    help="Ordinary weights; the recipe alone, mixed where it is loaded; or weights with a card that offers both.",
)
@click.option("--private", is_flag=True, default=None, help="Make a new repo private.")
@click.option("--to-branch", help="Branch of REPO_ID to commit to.")
@click.option("--create-pr", is_flag=True, help="Open a pull request instead of committing.")
@click.option("-m", "--message", help="First line of the commit.")
@taking()
def push(recipe: str, repo_id: str, as_: Any, private: bool | None, to_branch: str | None, **given: Any) -> None:
    """Publish the mix of RECIPE, or RECIPE itself, to REPO_ID in one commit, and print where it is."""
    from cocktail_hub.pipeline import publish

    options, as_json = read_options(given)
    info = publish(
        recipe,
        repo_id,
        as_=as_,
        source_revision=given["revision"],
        private=private,
        revision=to_branch,
        create_pr=given["create_pr"],
        commit_message=given["message"],
        max_shard_size=options.max_shard_size,
        options=options,
    )
    if as_json:
        show_json({"commit": info.oid, "url": info.commit_url, "pull_request": info.pr_url})
    else:
        click.echo(info.pr_url or info.commit_url)


@click.command(
    epilog="""\b
Examples:
  cocktail score recipe.yaml
  cocktail score recipe.yaml --examples examples.jsonl --temperature auto -o scored.yaml"""
)
@click.argument("recipe")
@click.option("--examples", help="File or Hub dataset of examples. Default: the recipe's.")
@click.option("--rule", type=click.Choice(["softmax", "uniform"]), help="How losses become shares.")
@click.option("--temperature", help="In nats, above 0, or auto. Lower favours the best ingredient.")
@click.option("--scoring-device", default="auto", show_default=True, help="Where to run the models: auto, cpu or cuda.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the recipe with the shares to this file.")
@taking(without=_MERGING)
def score(recipe: str, output: Path | None, **given: Any) -> None:
    """Compute the shares of RECIPE from a few examples, and print them."""
    from cocktail_hub.pipeline import score as compute
    from cocktail_hub.recipe import dump_yaml

    options, as_json = read_options(given)
    if output is not None and not output.absolute().parent.is_dir():
        raise click.BadParameter(f"There is no folder '{output.parent}'.", param_hint="--output")
    found = compute(
        recipe,
        given["examples"],
        rule=given["rule"],
        temperature=_temperature(given["temperature"]),
        revision=given["revision"],
        options=replace(options, scoring_device=given["scoring_device"]),
    )
    if output is not None:
        output.write_text(dump_yaml(found.recipe), encoding="utf-8")
    if as_json:
        show_json(found.recipe.to_dict())
    else:
        click.echo(str(found))


def _temperature(text: str | None) -> float | str | None:
    if text is None or text == "auto":
        return text
    try:
        return float(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is neither a number nor 'auto'.", param_hint="--temperature") from error


def _preview(recipe: str, revision: str | None, options: MixOptions) -> Preview:
    from cocktail_hub.pipeline import check as look

    return look(recipe, revision=revision, options=options)


def _show_preview(found: Preview, *, as_json: bool) -> None:
    if as_json:
        show_json(found.to_dict())
        return
    rows = [
        [
            m.model,
            (m.revision or "")[:19],
            "" if m.weight is None else f"{m.weight:g}",
            size(m.nbytes),
            m.license or "?",
        ]
        for m in found.models
    ]
    click.echo(table(["model", "revision", "share", "size", "licence"], rows))
    click.echo(
        f"\nresult    {found.architecture or 'modules'} for {found.task}, {found.tensors} tensors, {found.method}"
    )
    click.echo(f"download  {size(found.to_download)}")
    click.echo(f"weights   {size(found.output_bytes)} in {len(found.files)} file(s)")
    click.echo(f"disk      {size(found.peak_disk)} at most")
    click.echo(f"memory    {size(found.peak_memory)} for the merge's buffers")
    click.echo(f"licence   {found.license or 'none'}")
    for note in (*found.notes, found.license_note):
        if note:
            say(f"note: {note}")


def _tell(made: Mix) -> None:
    """Say what was done, to people."""
    for note in made.report.get("notes", ()):
        say(f"note: {note}")
    merged = made.report.get("merged")
    if merged is None:
        say("The mix was there already: nothing was downloaded or merged.")
    else:
        say(f"Merged {size(merged.bytes_read)} into {size(merged.bytes_written)} in {merged.seconds:.1f} s.")

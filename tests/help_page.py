"""docs/cli.md, made from the command's own help: `python tests/help_page.py` writes it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from click.testing import CliRunner

from cocktail_hub.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator

    import click

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"
HEAD = """\
# The command line

`cocktail`, or `hf-cocktail`. A recipe is a YAML or JSON file, a folder, or a repo on the Hub. Where a command takes a
RECIPE, two or more models do as well, with `--weights` (equal ones without), `--method` and `--base`; `--set` changes
any key of [docs/recipe.md](recipe.md), of a recipe as well:

```text
cocktail check org/base ./fine-tuned
cocktail mix org/base ./fine-tuned --weights 0.3 0.7
cocktail mix org/a org/b --method ties --base org/base --set parameters.density=0.4 --set dtype=bfloat16
cocktail push org/base ./fine-tuned --weights 1 1 --normalize --to me/mix
```

`cocktail init` writes such a mix as a recipe to go on from, pinned and with comments; `cocktail show` tells what a
recipe, a repo or a folder is made of.

Results go to stdout: a path, a table, or JSON with `--json`. Messages and progress bars go to stderr;
`HF_HUB_DISABLE_PROGRESS_BARS=1` turns the bars off. Exit codes: 0, done; 1, failed, and the message says why and how to
fix it; 2, wrong usage; 130, interrupted. `verify` also has 4: different; and 3: it could not check.
`outdated` and `update` have 4, too: a model moved.

`cocktail mix` prints nothing but the folder of the mix, which it makes if it is not in the cache. So a mix can be
given to any program that takes the folder of a model:

```text
lm_eval --model hf --model_args pretrained=$(cocktail mix me/my-mix) --tasks hellaswag
vllm serve $(cocktail mix me/my-mix)
text-embeddings-router --model-id $(cocktail mix me/my-mix)
```

All three also take a repo with weights (`cocktail push --as merged`) by its id. How an embedder pools is written in the
words of sentence-transformers 6 and in those of before, which these programs read.
"""
WIDTH = 110


def help_page() -> str:
    """The whole page."""
    return HEAD + "".join(f"\n## {name}\n\n```text\n{text}\n```\n" for name, text in _helps(["cocktail"], main))


def _helps(words: list[str], command: click.Command) -> Iterator[tuple[str, str]]:
    """Yield full name and help of a command, then those of its subcommands."""
    done = CliRunner().invoke(main, [*words[1:], "--help"], prog_name="cocktail", terminal_width=WIDTH)
    yield " ".join(words), "\n".join(line.rstrip() for line in done.output.strip().splitlines())
    for below, child in sorted(getattr(command, "commands", {}).items()):
        yield from _helps([*words, below], child)


if __name__ == "__main__":
    PAGE.write_text(help_page(), encoding="utf-8")

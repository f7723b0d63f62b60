"""The `cocktail` command: its subcommands, and how it ends on errors and on Ctrl-C."""

from __future__ import annotations

import errno
import os
import signal
import sys
import tempfile
import threading
import traceback
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from cocktail_hub.cli.cache import cache
from cocktail_hub.cli.compare import compare
from cocktail_hub.cli.demo import demo
from cocktail_hub.cli.evaluate import evaluate
from cocktail_hub.cli.extract_lora import extract_lora
from cocktail_hub.cli.init import init
from cocktail_hub.cli.mergekit import export_recipe, import_recipe
from cocktail_hub.cli.methods import methods
from cocktail_hub.cli.output import error_message, say
from cocktail_hub.cli.pin import outdated, pin, update
from cocktail_hub.cli.recipes import check, mix, push, score, verify
from cocktail_hub.cli.show import show_source
from cocktail_hub.cli.sweep import sweep
from cocktail_hub.cli.ui import ui
from cocktail_hub.errors import CocktailError, printable
from cocktail_hub.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMANDS = (
    cache,
    check,
    compare,
    demo,
    evaluate,
    export_recipe,
    extract_lora,
    import_recipe,
    init,
    methods,
    mix,
    outdated,
    pin,
    push,
    score,
    show_source,
    sweep,
    update,
    ui,
    verify,
)
EXIT_INTERRUPTED = 130
EXIT_BUG = 70
"""`EX_SOFTWARE` of sysexits.h."""
GRACE_PERIOD = 3.0
"""Seconds that threads get to end after Ctrl-C: one may wait for a connection that never answers."""


class Group(click.Group):
    """Ends expected errors with one clear message and exit code 1, bugs with one that says where to report them."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command line."""
        # When numpy is imported, each thread of its OpenBLAS spins for 0.1 s, waiting for work that most commands never
        # have. This lets them sleep at once; the number is a power of two of clock cycles.
        os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
        with prompt_interrupts():
            return super().main(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> object:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except (CocktailError, OSError) as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise  # `cocktail cache list | head`: click ends that without a message
            raise click.ClickException(error_message(error)) from error
        except KeyboardInterrupt:
            sys.exit(EXIT_INTERRUPTED)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:  # noqa: BLE001 - anything left is a bug
            if follows_interrupt(error):
                sys.exit(EXIT_INTERRUPTED)
            report = Path(tempfile.mkdtemp(prefix="cocktail-bug-"), "traceback.txt")
            versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "huggingface_hub"))
            told = f"cocktail_hub {VERSION}, Python {sys.version}, {versions}\n{traceback.format_exc()}"
            report.write_text(printable(told), encoding="utf-8", errors="replace")
            say(
                f"This is a bug in cocktail_hub: {type(error).__name__}: {error}\n"
                "What you asked for was not done.\n"
                f"Please report it with the file {report}, which has no tokens, but may name your folders."
            )
            sys.exit(EXIT_BUG)


def follows_interrupt(error: BaseException | None) -> bool:
    """Whether an error was raised while Ctrl-C was on its way out.

    Python may be interrupted inside of a lock's own code, and `with` then ends in "release unlocked lock".
    """
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


@contextmanager
def prompt_interrupts() -> Iterator[None]:
    """End the process at most `GRACE_PERIOD` after Ctrl-C, whatever its threads wait for.

    That cuts off no more than `kill -9` would, which leaves no half-made folder behind.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return

    def interrupt(*_: object) -> NoReturn:
        say("Interrupted. Finished work is kept; run the same command again to continue.")
        timer = threading.Timer(GRACE_PERIOD, os._exit, (EXIT_INTERRUPTED,))
        timer.daemon = True
        timer.start()
        raise KeyboardInterrupt

    def report_unraisable(found: sys.UnraisableHookArgs) -> None:
        # Python drops an interrupt that is raised in a callback; the timer ends the process nevertheless.
        if not issubclass(found.exc_type, KeyboardInterrupt):
            sys.__unraisablehook__(found)

    signal.signal(signal.SIGINT, interrupt)
    unraisable, sys.unraisablehook = sys.unraisablehook, report_unraisable
    try:
        yield
    finally:
        sys.unraisablehook = unraisable
        signal.signal(signal.SIGINT, signal.default_int_handler)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, package_name="cocktail-hub")
def main() -> None:
    """Mix fine-tuned Hugging Face models from a recipe.

    RECIPE is a YAML or JSON file, a folder, or a repo on the Hub. Results go to stdout, messages and progress bars to
    stderr.
    """


for command in COMMANDS:
    main.add_command(command)

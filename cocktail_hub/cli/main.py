"""The `cocktail` command and how its errors end."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import click

from cocktail_hub.cli.cache import cache
from cocktail_hub.cli.demo_command import demo
from cocktail_hub.cli.methods import methods
from cocktail_hub.cli.recipes import check, mix, push, score
from cocktail_hub.cli.verify import verify
from cocktail_hub.errors import CocktailError
from cocktail_hub.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator

EXIT_INTERRUPTED = 130
PATIENCE = 3.0
"""Seconds that Ctrl-C waits for threads to end: one may hang at a connection that never answers."""

_BLAS_PATIENCE = "OPENBLAS_THREAD_TIMEOUT"
_SYSTEM = (
    "That came from the system or the network, not from the recipe.\n"
    "Check the path, its permissions and the room on the disk, or the connection, and try again."
)


class Group(click.Group):
    """Ends expected errors with one clear message and exit code 1; bugs keep their traceback."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command line."""
        with _prompt_interrupts(), _quiet_blas():
            return super().main(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> object:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except CocktailError as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:
            if error.errno == errno.EPIPE:  # `cocktail cache list | head`: click ends that quietly
                raise
            raise click.ClickException(f"{error}\n{_SYSTEM}") from error
        except KeyboardInterrupt:
            sys.exit(EXIT_INTERRUPTED)


@contextmanager
def _quiet_blas() -> Iterator[None]:
    """Let the threads of numpy's OpenBLAS, one less than there are processors, sleep at once.

    When numpy is imported each of them would spin for 0.1 s, waiting for work that most commands never have.
    """
    ours = _BLAS_PATIENCE not in os.environ
    if ours:
        os.environ[_BLAS_PATIENCE] = "4"  # clock cycles, as a power of two
    try:
        yield
    finally:
        if ours:
            os.environ.pop(_BLAS_PATIENCE, None)


@contextmanager
def _prompt_interrupts() -> Iterator[None]:
    """Make Ctrl-C end the process within `PATIENCE`, whatever its threads wait for.

    What is cut off then is what `kill -9` would cut off, which no half-made folder survives.
    """
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _interrupted)
    unraisable, sys.unraisablehook = sys.unraisablehook, _unraisable
    try:
        yield
    finally:
        sys.unraisablehook = unraisable
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _interrupted(*_: object) -> NoReturn:
    click.echo("Interrupted. What was finished is kept; run the same command again to go on.", err=True)
    timer = threading.Timer(PATIENCE, os._exit, (EXIT_INTERRUPTED,))
    timer.daemon = True
    timer.start()
    raise KeyboardInterrupt


def _unraisable(found: sys.UnraisableHookArgs) -> None:
    """Say nothing of an interrupt that came in a callback, where Python drops it: the timer ends the process."""
    if not issubclass(found.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(found)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, package_name="cocktail-hub")
def main() -> None:
    """Mix fine-tuned Hugging Face models from a recipe.

    RECIPE is a YAML or JSON file, a folder, or a repo on the Hub. Results go to stdout, talk and progress to stderr.
    """


for command in (mix, check, score, push, verify, methods, cache, demo):
    main.add_command(command)

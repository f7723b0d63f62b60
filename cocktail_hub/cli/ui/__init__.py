"""`cocktail ui`: a page in the browser that mixes, compares and publishes models."""

from __future__ import annotations

from importlib.util import find_spec

import click

from cocktail_hub.errors import MissingExtraError


@click.command(
    epilog="""\b
Examples:
  cocktail ui
  cocktail ui --port 8080 --no-browser    # on a server; ssh -L 8080:localhost:8080 brings the page to you"""
)
@click.option("--port", type=click.IntRange(1, 65535), help="To listen on. Default: 7860, or the next free one.")
@click.option("--no-browser", is_flag=True, help="Print the address alone, without opening it.")
def ui(port: int | None, no_browser: bool) -> None:
    """Mix, compare and publish models on a page in the browser. Ctrl-C ends it.

    Only this machine can open the page. It needs `cocktail-hub[ui]`.
    """
    if find_spec("gradio") is None:
        raise MissingExtraError.of("gradio", extra="ui", purpose="show the page")
    from cocktail_hub.cli.ui.page import serve

    serve(port=port, open_browser=not no_browser)

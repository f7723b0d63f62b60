"""The `cocktail` command: it parses, calls the library and prints. Mixing itself is elsewhere."""

import os
import signal
from contextlib import suppress

_found = signal.getsignal(signal.SIGINT)
with suppress(ValueError):  # in another thread than the main one
    if _found is signal.default_int_handler:  # Ctrl-C in an import, half of a command's start, would show where
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))
try:
    from cocktail_hub.cli.main import main
finally:
    with suppress(ValueError):
        signal.signal(signal.SIGINT, _found)

__all__ = ["main"]

"""The limit on files that a program has open: a mix has all weight files of all models open at once."""

from __future__ import annotations

import contextlib
import errno

SPARE = 128
"""Numbers of files that stay free for all that opens a file for a moment."""


def keep_spare(number: int) -> None:
    """Raise this process's own limit where it comes near, as far as the system lets.

    Systems give a new file the lowest number that is free, and the limit is one more than the highest number.

    Args:
        number: of a file that was just opened; 0 where none could be.
    """
    try:
        import resource
    except ImportError:  # Windows, which lets a program have thousands of files open
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or 0 < number < soft - SPARE:
        return
    wanted = max(2 * soft, number + 2 * SPARE)
    new = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if new > soft:
        with contextlib.suppress(OSError, ValueError):  # macOS has one more limit, of which it does not tell
            resource.setrlimit(resource.RLIMIT_NOFILE, (new, hard))


def too_many_files(error: BaseException, what: str) -> str | None:
    """What to say if a system's error is that too many files are open; `None` for every other error.

    Args:
        error: the error.
        what: what could not be done, a sentence without its full stop.
    """
    if not isinstance(error, OSError) or error.errno != errno.EMFILE:
        return None
    return (
        f"{what}: this program has as many files open as the system lets it.\n"
        "A mix has the weight files of all its models open at once.\n"
        "Allow more (`ulimit -n 8192`; whoever runs the system, where that is refused), then run the same command "
        "again: finished shards are kept."
    )

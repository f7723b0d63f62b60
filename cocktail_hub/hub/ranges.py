"""Parts of files on the Hub, streamed into a local file: several at once, each taken up again where it broke off."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import get_session, hf_raise_for_status

from cocktail_hub.errors import SourceError
from cocktail_hub.hub.explained import explained

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from cocktail_hub.hub.files import HubFiles
    from cocktail_hub.storage.positional_file import PositionalFile

PART_BYTES = 64 << 20
"""Largest request: small enough to share out among connections, large enough for the round trip not to matter."""
CONNECTIONS = 8
"""Requests at a time."""
ATTEMPTS = 6
"""How often a request that brings nothing is made; one that brings something starts the count anew."""
FIRST_WAIT = 0.5
"""Seconds before the second try; doubled for each further one."""
LONGEST_WAIT = 60.0
"""Most seconds between tries, whatever the Hub asks for."""
PASSING = frozenset({408, 429, 500, 502, 503, 504})
"""HTTP statuses that a later try can get past."""
_PIECE = 1 << 20
_PARTIAL = 206


@dataclass(frozen=True, slots=True, kw_only=True)
class ByteRange:
    """Neighbouring bytes of a file on the Hub, and where they go."""

    files: HubFiles
    """The repo."""
    path: str
    """The file in it."""
    start: int
    """First byte."""
    stop: int
    """One past the last byte; above `start`."""
    offset: int
    """Where the first byte goes in the local file."""


def fetch_ranges(
    stretches: Sequence[ByteRange], target: PositionalFile, *, on_progress: Callable[[int], object] | None = None
) -> None:
    """Write parts of files on the Hub into one local file.

    Args:
        stretches: what goes where; large ones are cut into requests of `PART_BYTES`.
        target: open for writing.
        on_progress: called with the bytes that have come, from one thread at a time.

    Raises:
        SourceError: the Hub refuses, or keeps breaking off.
        OSError: the local file cannot be written.
    """
    parts = [part for stretch in stretches for part in _parts(stretch)]
    fetcher = _Fetcher(target, on_progress)
    with ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="fetch") as pool:
        try:
            for _ in pool.map(fetcher.fetch, parts):
                pass
        except BaseException:
            fetcher.stopped.set()
            pool.shutdown(cancel_futures=True)
            raise


def _parts(stretch: ByteRange) -> Iterator[ByteRange]:
    for start in range(stretch.start, stretch.stop, PART_BYTES):
        yield ByteRange(
            files=stretch.files,
            path=stretch.path,
            start=start,
            stop=min(start + PART_BYTES, stretch.stop),
            offset=stretch.offset + start - stretch.start,
        )


class _Fetcher:
    """What all requests into one file share."""

    def __init__(self, target: PositionalFile, report: Callable[[int], object] | None) -> None:
        self.stopped = threading.Event()
        """Set when a request has failed for good: the others give up."""
        self._target, self._report = target, report
        self._lock = threading.Lock()

    def fetch(self, part: ByteRange) -> None:
        """Bring all bytes of one part."""
        done, tries, length = 0, 0, part.stop - part.start
        while done < length and not self.stopped.is_set():
            came, failure = self._take(part, done)
            done += came
            tries = 1 if came else tries + 1
            if done < length:
                if tries == ATTEMPTS:
                    _give_up(part, done, failure)
                self.stopped.wait(_seconds(tries, failure))

    def _take(self, part: ByteRange, done: int) -> tuple[int, HTTPError | None]:
        """Make one request; returns the bytes that came, and what ended them early if it may pass."""
        came, length = 0, part.stop - part.start - done
        try:
            with _opened(part, done) as pieces:
                for piece in pieces:
                    self._write(piece[: length - came], part.offset + done + came)
                    came += min(len(piece), length - came)
                    if came == length or self.stopped.is_set():
                        break
        except HfHubHTTPError as error:
            if error.response.status_code in PASSING:
                return came, error
            with explained(part.files.model, part.files.commit):
                raise
        except HTTPError as error:  # the connection broke
            return came, error
        return came, None

    def _write(self, piece: bytes, offset: int) -> None:
        self._target.write_from(piece, offset)
        if self._report is not None:
            with self._lock:
                self._report(len(piece))


@contextmanager
def _opened(part: ByteRange, done: int) -> Iterator[Iterator[bytes]]:
    """The answer to a request for what is left of a part, piece by piece."""
    if part.files.options.offline:
        with explained(part.files.model, part.files.commit):
            raise OfflineModeIsEnabled(f"'{part.path}' is not cached")
    url, headers = part.files.range_request(part.path, part.start + done, part.stop)
    headers["Accept-Encoding"] = "identity"
    stream = get_session().stream(
        "GET", url, headers=headers, follow_redirects=True, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
    )
    with stream as response:
        hf_raise_for_status(response)
        if response.status_code != _PARTIAL and part.start + done > 0:
            raise SourceError(
                f"The Hub sent the whole of '{part.path}' of '{part.files.name}' where a part was asked for.\n"
                "A proxy in between may not know Range requests.\n"
                "Mix without `low_disk`, which downloads whole files."
            )
        yield response.iter_bytes(_PIECE)


def _give_up(part: ByteRange, done: int, failure: HTTPError | None) -> None:
    with explained(part.files.model, part.files.commit):
        if failure is not None:
            raise failure
    raise SourceError(
        f"'{part.path}' of '{part.files.name}' ended {part.stop - part.start - done:,} bytes early, {ATTEMPTS} times.\n"
        "Its weights cannot be read.\nTry again later; if it stays, the file on the Hub is truncated."
    )


def _seconds(tries: int, failure: HTTPError | None) -> float:
    """How long to wait: what the Hub asks for, or else twice as long each time."""
    response = failure.response if isinstance(failure, HfHubHTTPError) else None
    asked = response.headers.get("Retry-After", "") if response is not None else ""
    wait = float(asked) if asked.isdigit() else FIRST_WAIT * 2 ** (tries - 1)
    return min(wait, LONGEST_WAIT)

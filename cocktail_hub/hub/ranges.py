"""Byte ranges of files on the Hub, streamed into a local file: several at once, resumed where they break off."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from huggingface_hub import constants
from huggingface_hub.errors import HTTPError
from huggingface_hub.utils import get_session, hf_raise_for_status

from cocktail_hub.errors import SourceError
from cocktail_hub.hub.errors import hub_errors, may_pass, retry_wait

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from cocktail_hub.hub.client import HubFiles
    from cocktail_hub.storage.positional_file import PositionalFile

REQUEST_BYTES = 64 << 20
"""Largest request: small enough to spread over the connections, large enough to hide the round trip."""
CONNECTIONS = 8
"""Concurrent requests."""
ATTEMPTS = 6
"""Attempts in a row that bring no bytes, after which a request fails."""
_BLOCK = 1 << 20
_PARTIAL_CONTENT = 206


@dataclass(frozen=True, slots=True, kw_only=True)
class ByteRange:
    """Consecutive bytes of a file on the Hub, and where they go."""

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
    ranges: Sequence[ByteRange], target: PositionalFile, *, on_progress: Callable[[int], object] | None = None
) -> None:
    """Write byte ranges of files on the Hub to one local file.

    Args:
        ranges: what to fetch; large ranges are split into requests of `REQUEST_BYTES`.
        target: open for writing.
        on_progress: called with the number of bytes received, by one thread at a time.

    Raises:
        SourceError: the Hub refuses, or keeps breaking off.
        OSError: the local file cannot be written.
    """
    requests = [
        replace(part, start=start, stop=min(start + REQUEST_BYTES, part.stop), offset=part.offset + start - part.start)
        for part in ranges
        for start in range(part.start, part.stop, REQUEST_BYTES)
    ]
    stopped, lock = threading.Event(), threading.Lock()

    def fetch(request: ByteRange) -> None:
        done, failures, length = 0, 0, request.stop - request.start
        while done < length and not stopped.is_set():
            before, error = done, None
            try:
                with closing(_blocks(replace(request, start=request.start + done))) as blocks:
                    for block in blocks:
                        data = block[: length - done]
                        target.write_from(data, request.offset + done)
                        done += len(data)
                        if on_progress is not None:
                            with lock:
                                on_progress(len(data))
                        if done == length or stopped.is_set():
                            return
            except HTTPError as failure:
                error = failure
            failures = 1 if done > before else failures + 1
            if failures == ATTEMPTS or (error is not None and not may_pass(error)):
                _give_up(request, done, error)
            stopped.wait(retry_wait(failures, error))

    with ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="fetch") as pool:
        try:
            for _ in pool.map(fetch, requests):
                pass
        except BaseException:
            stopped.set()
            pool.shutdown(cancel_futures=True)
            raise


def _blocks(part: ByteRange) -> Generator[bytes, None, None]:
    """Request a byte range; yields the answer block by block."""
    url, headers = part.files.range_request(part.path, part.start, part.stop)
    headers["Accept-Encoding"] = "identity"
    stream = get_session().stream(
        "GET", url, headers=headers, follow_redirects=True, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
    )
    with stream as response:
        hf_raise_for_status(response)
        if response.status_code != _PARTIAL_CONTENT and part.start > 0:
            raise SourceError(
                f"The Hub sent all of '{part.path}' of '{part.files.name}' instead of the requested range.\n"
                "A proxy in between may not support Range requests.\n"
                "Mix without `low_disk`, which downloads whole files."
            )
        yield from response.iter_bytes(_BLOCK)


def _give_up(part: ByteRange, done: int, error: HTTPError | None) -> None:
    with hub_errors(part.files.name, part.files.commit):
        if error is not None:
            raise error
    raise SourceError(
        f"'{part.path}' of '{part.files.name}' ended {part.stop - part.start - done:,} bytes early, {ATTEMPTS} times.\n"
        "Its weights cannot be read.\nTry again later; if the error persists, the file on the Hub is truncated."
    )

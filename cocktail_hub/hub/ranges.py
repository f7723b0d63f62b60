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
    stopped, lock, report = threading.Event(), threading.Lock(), on_progress or (lambda _: None)

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
                        with lock:
                            report(len(data))
                        if done == length or stopped.is_set():
                            return
            except (HTTPError, ConnectionError) as failure:
                error = failure
            failures = 1 if done > before else failures + 1
            if error is not None and (failures == ATTEMPTS or not may_pass(error)):
                with hub_errors(request.files.name, request.files.commit):
                    raise error
            if failures == ATTEMPTS:
                raise SourceError(
                    f"'{request.path}' of '{request.files.name}' ended {length - done:,} bytes early, {ATTEMPTS} times."
                    "\nIts weights cannot be read.\n"
                    "Try again later, or mix without `low_disk`: a proxy in between may cut answers short."
                )
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
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with get_session().stream("GET", url, headers=headers, follow_redirects=True, timeout=timeout) as response:
        hf_raise_for_status(response)
        part.files.require_range(part.path, part.start, response)
        if response.status_code != _PARTIAL_CONTENT and part.start > 0:
            raise SourceError(
                f"The Hub sent all of '{part.path}' of '{part.files.name}' instead of the requested range.\n"
                "A proxy in between may not support Range requests.\n"
                "Mix without `low_disk`, which downloads whole files."
            )
        yield from response.iter_bytes(_BLOCK)

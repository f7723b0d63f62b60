"""Fault: a failure that a test asks for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import re
    from collections.abc import Mapping


@dataclass(slots=True, kw_only=True)
class Fault:
    """Spoils the next `times` requests that match."""

    match: re.Pattern[str]
    """Searched in "METHOD path?query", with the path as it was sent (percent-encoded)."""
    status: int
    """The answer, if the connection is not cut."""
    times: int
    """How many requests are still to be spoiled."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Sent with `status`, such as Retry-After."""
    cut_after: int | None = None
    """If given, the right answer is begun, and the connection dropped after this many bytes of its body."""

    flip: int | None = None
    """If given, the right answer is sent with one bit of this byte of its body changed."""
    body: bytes | None = None
    """If given, sent with `status` in place of an error of the Hub: what a proxy or a portal would say."""

    def strikes(self, request: str) -> bool:
        """Whether it is this request's turn; if so, that is one time less."""
        if self.times <= 0 or not self.match.search(request):
            return False
        self.times -= 1
        return True

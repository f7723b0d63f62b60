"""What is open until it is closed: by `close`, or at the end of a `with`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self


class Closing(ABC):
    """Holds files open."""

    __slots__ = ()

    @abstractmethod
    def close(self) -> None:
        """Close the files; a second call does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

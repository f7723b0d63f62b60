"""What is to be written to a repo on the Hub: plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cocktail_hub.errors import PublishError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

README = "README.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Uploaded:
    """A large file that the Hub has, ahead of the commit that names it."""

    size: int
    """Bytes."""
    sha256: str
    """Of its content, in hex."""


@dataclass(frozen=True, kw_only=True)
class Publication:
    """What to write where.

    Raises:
        PublishError: the parts do not go together.
    """

    repo_id: str
    """Repo to write to; made if it is not there."""
    files: Mapping[str, Path | bytes | Uploaded]
    """Path in the repo -> what to write there. The card comes from `readme`."""
    readme: Callable[[str | None], str]
    """The card to write, given the one that is there (`None`: there is none)."""
    message: str
    """First line of the commit."""
    private: bool | None = None
    """Visibility of a repo that has to be made; `None`: the account's default."""
    revision: str | None = None
    """Branch to commit to, made if it is not there; `None`: the default branch."""
    create_pr: bool = False
    """Open a pull request instead of committing to the branch."""

    def __post_init__(self) -> None:
        if self.create_pr and self.revision not in (None, "main"):
            raise PublishError(
                f"A pull request goes to the default branch, not to '{self.revision}'.\nNothing was sent to the Hub.\n"
                "Leave out `revision`, or commit to it without `create_pr`."
            )
        if README in self.files:
            raise PublishError(
                f"'{README}' is written from `readme`, which keeps what is there. Take it out of `files`."
            )

"""Users: who is asking, and in which namespaces they may write."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A person with one access token."""

    name: str
    """Also the namespace of their own repos."""
    role: str = "write"
    """Of the token: "write" or "read"."""
    orgs: tuple[str, ...] = ()
    """Organizations in whose namespaces they may read everything and, with a write token, write."""

    def __post_init__(self) -> None:
        if self.role not in ("read", "write"):
            raise ValueError(f"A token's role is 'read' or 'write', got {self.role!r}")

    def belongs_to(self, namespace: str) -> bool:
        """Whether the private and gated repos of `namespace` are open to them."""
        return namespace == self.name or namespace in self.orgs

"""`DestinationIdentity`: what tells one destination from another."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DestinationIdentity:
    """What tells one destination from another, also after it was moved or made anew.

    Attributes:
        id: A random text that the destination keeps; None: it has none yet.
        location: Where the destination is: path and host, on one line.
    """

    id: str | None
    location: str

    def is_same(self, other: DestinationIdentity) -> bool:
        """Return whether both are one destination, or one that was made anew in the place of the other."""
        return self.location == other.location or (self.id is not None and self.id == other.id)

"""`ReadCopy`: the published copy of a destination, for readers that keep it open."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dbmazz_core.errors import DestinationError
from dbmazz_core.lsn import Lsn


@dataclass(frozen=True, slots=True)
class ReadCopy:
    """What a window or a copy of tables has published.

    Attributes:
        path: Path of the read copy.
        lsn: Its checkpoint; None if there is no copy yet, or it holds none of this feed.
        published_at: When it was published; None if there is no copy yet.
        duration_s: Seconds that it took to publish it; None if it was not published now: nothing had changed, or the
            last copy is not old enough.
        error: Why it could not be published; None if it was, or need not be.
    """

    path: str
    lsn: Lsn | None = None
    published_at: datetime | None = None
    duration_s: float | None = None
    error: DestinationError | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the copy as JSON values."""
        return {
            "path": self.path,
            "lsn": None if self.lsn is None else str(self.lsn),
            "published_at": None if self.published_at is None else self.published_at.isoformat(),
            "duration_s": None if self.duration_s is None else round(self.duration_s, 3),
            "error": None if self.error is None else self.error.to_dict(),
        }

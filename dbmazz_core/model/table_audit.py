"""What the destination shows about a table's rows: their number, their keys, and what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dbmazz_core.model.policies import Mode


@dataclass(frozen=True, slots=True)
class TableAudit:
    """Facts about the rows of a table in the destination.

    Attributes:
        rows: Number of rows: in `soft_delete` without deleted ones, in `changelog` of changes.
        mode: Mode of the table.
        key: Names of the key's columns; empty for a table without a key.
        duplicated_keys: Number of keys that more than one of these rows has. None where keys may repeat, and where not
            all keys were read.
        quarantined: Number of rows in quarantine by reason, the most frequent reason first.
    """

    rows: int
    mode: Mode
    key: tuple[str, ...] = ()
    duplicated_keys: int | None = None
    quarantined: Mapping[str, int] = field(default_factory=dict)

    @property
    def has_keys(self) -> bool:
        """Whether each key must be unique."""
        return bool(self.key) and self.mode is not Mode.CHANGELOG

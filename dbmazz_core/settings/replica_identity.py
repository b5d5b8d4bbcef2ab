"""The setting `REPLICA_IDENTITY`."""

from __future__ import annotations

from enum import StrEnum


class ReplicaIdentityPolicy(StrEnum):
    """The policy by which setup changes the replica identity of tables."""

    AUTO = "auto"  #: set FULL on tables without a usable key
    FULL = "full"  #: set FULL on all tables: updates and deletes carry the whole old row
    LEAVE = "leave"  #: change no table

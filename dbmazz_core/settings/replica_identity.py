"""The setting `REPLICA_IDENTITY`."""

from __future__ import annotations

from enum import StrEnum


class ReplicaIdentityPolicy(StrEnum):
    """What setup does about tables' replica identity."""

    AUTO = "auto"  #: leave tables that have a usable key alone, FULL for the others
    FULL = "full"  #: FULL for all: deletes and updates carry the whole old row
    LEAVE = "leave"  #: never touch

"""Checks of the server, the role and the slot."""

from __future__ import annotations

from collections.abc import Iterator

from dbmazz_core.connectors.sources.postgres.findings import Finding, Situation
from dbmazz_core.connectors.sources.postgres.server_errors import (
    Login,
    missing_replication,
    no_free_connection,
    no_free_slot,
    slot_active,
    wal_level_not_logical,
)
from dbmazz_core.connectors.sources.postgres.slots import unusable_slot
from dbmazz_core.errors import SourceNotReady, UnsupportedServerVersion

_MINIMUM = 14
#: Logical decoding on standbys came with this version.
_STANDBY_DECODING = 16

#: Major version: first minor version with the fix.
#: PostgreSQL commit 4909b38af0 and its back-patches: changes that a transaction makes after a concurrent
#: ALTER PUBLICATION ... ADD TABLE were left out of the stream, if it had begun before.
_LOSES_CHANGES_BEFORE = {14: 18, 15: 13, 16: 9, 17: 5}
#: Commit d87d07b7ad: that fix made memory grow exponentially with concurrent schema changes, until decoding
#: fails with "invalid memory alloc request size" (bugs #18938 and #18942).
_RUNS_OUT_OF_MEMORY_BEFORE = {14: 19, 15: 14, 16: 10, 17: 6}


def unsupported_version(version_num: int, version: str) -> UnsupportedServerVersion | None:
    """PostgreSQL before 14 is not supported."""
    if version_num >= _MINIMUM * 10000:
        return None
    return UnsupportedServerVersion(
        f"the server is PostgreSQL {version}; dbmazz needs {_MINIMUM} or newer",
        object=f"PostgreSQL {version}",
        remedy=f"upgrade the server to PostgreSQL {_MINIMUM} or newer",
    )


def known_decoding_bug(version_num: int) -> str | None:
    """What is wrong with this minor version's logical decoding, or None."""
    major, minor = divmod(version_num, 10000)
    if minor < _LOSES_CHANGES_BEFORE.get(major, 0):
        return (
            "can lose changes of a transaction that is open while a table is added to a publication "
            f"(fixed in {major}.{_LOSES_CHANGES_BEFORE[major]}, PostgreSQL commit 4909b38af0)"
        )
    if minor < _RUNS_OUT_OF_MEMORY_BEFORE.get(major, 0):
        return (
            "can fail to decode with 'invalid memory alloc request size' after schema changes "
            f"(fixed in {major}.{_RUNS_OUT_OF_MEMORY_BEFORE[major]}, PostgreSQL bug #18938)"
        )
    return None


def server_findings(situation: Situation) -> Iterator[Finding]:
    """Version, wal_level, the role's REPLICATION, free slots and walsenders."""
    facts, login = situation.facts, Login.of(situation.config.url)
    server = f"PostgreSQL {facts.version}"
    if bug := known_decoding_bug(facts.version_num):
        problem = SourceNotReady(
            f"{server} {bug}", object=server, remedy="install the newest minor version of PostgreSQL"
        )
        yield Finding.of(problem, "warning")
    else:
        yield Finding("ok", f"{server} is supported", server)
    if facts.in_recovery and facts.version_num < _STANDBY_DECODING * 10000:
        yield Finding.of(
            SourceNotReady(
                f"{server} is a standby, and decodes no changes there before version {_STANDBY_DECODING}",
                object=login.server,
                remedy="put the primary's host into SOURCE_URL (or all, with target_session_attrs=primary)",
            )
        )
    if facts.wal_level == "logical":
        yield Finding("ok", "wal_level is logical", "wal_level")
    else:
        yield Finding.of(wal_level_not_logical(facts.wal_level))
    if facts.has_replication:
        yield Finding("ok", f"role {facts.role} may replicate", f"role {facts.role}")
    else:
        # The session's role by name: the URL may leave it to libpq.
        yield Finding.of(missing_replication(Login(facts.role, facts.database, login.server)))
    used, limit = facts.slots_in_use, facts.max_replication_slots
    if situation.slot is None and used >= limit:
        yield Finding.of(no_free_slot(used, limit, facts.idle_slots))
    else:
        yield Finding("ok", f"{used} of {limit} replication slots are taken", "max_replication_slots")
    used, limit = facts.walsenders_in_use, facts.max_wal_senders
    if used >= limit:
        yield Finding.of(no_free_connection("max_wal_senders", login, walsenders=(used, limit)))
    else:
        yield Finding("ok", f"{used} of {limit} walsenders are taken", "max_wal_senders")


def slot_findings(situation: Situation) -> Iterator[Finding]:
    """The slot, if it exists. Whether it fits the checkpoint is `slots.verify_slot`'s question."""
    slot, name = situation.slot, f"replication slot {situation.config.slot}"
    if slot is None:
        yield Finding("ok", f"{name} does not exist yet", name)
    elif problem := unusable_slot(slot, situation.facts.database):
        yield Finding.of(problem)
    elif slot.active:
        # A pipeline at work, most likely this one.
        yield Finding.of(slot_active(slot.name, slot.active_pid, slot.active_application), "warning")
    else:
        retained = f", retaining {slot.retained_bytes:,} bytes of WAL" if slot.retained_bytes is not None else ""
        yield Finding("ok", f"{name} is confirmed up to {slot.confirmed_flush_lsn}{retained}", name)

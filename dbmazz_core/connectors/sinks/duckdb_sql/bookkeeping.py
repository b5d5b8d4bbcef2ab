"""The schema `_dbmazz`: its layout, and the checkpoint. `table_records` and other modules have its other tables.

A transaction of the destination writes its bookkeeping together with its rows.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import duckdb

from dbmazz_core.lsn import Lsn
from dbmazz_core.model.checkpoint import Checkpoint
from dbmazz_core.model.records import CommittedTransaction

#: Version of the schema below. A newer dbmazz writes a higher version.
LAYOUT = 9
#: First layout with the quarantine, and with the mark for complete tables.
LAYOUT_WITH_QUARANTINE = 2
#: First layout that records the last transaction.
LAYOUT_WITH_TRANSACTION = 3
#: First layout that records the OID of the source's database.
LAYOUT_WITH_DATABASE_OID = 5
#: First layout with the reasons of states.
LAYOUT_WITH_STATES = 6
#: First layout with an id of the file.
LAYOUT_WITH_ID = 7
#: First layout that records for how long the last flush held the file.
LAYOUT_WITH_HELD = 8
#: How long another thread may take to create the schema, in seconds.
_CREATE_TIMEOUT_S = 30
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_CREATE = """
CREATE SCHEMA IF NOT EXISTS _dbmazz;
CREATE TABLE IF NOT EXISTS _dbmazz.layout (version INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS _dbmazz.destination (id VARCHAR NOT NULL);
CREATE TABLE IF NOT EXISTS _dbmazz.checkpoints (
    slot VARCHAR NOT NULL, system_identifier VARCHAR NOT NULL, timeline INTEGER NOT NULL, database VARCHAR NOT NULL,
    lsn UBIGINT NOT NULL, commit_time TIMESTAMPTZ, updated_at TIMESTAMPTZ NOT NULL);
CREATE TABLE IF NOT EXISTS _dbmazz.tables (
    slot VARCHAR NOT NULL, schema_name VARCHAR NOT NULL, table_name VARCHAR NOT NULL, state VARCHAR NOT NULL,
    snapshot_lsn UBIGINT NOT NULL, columns JSON NOT NULL, key JSON NOT NULL, updated_at TIMESTAMPTZ NOT NULL);
CREATE TABLE IF NOT EXISTS _dbmazz.schema_history (
    slot VARCHAR NOT NULL, schema_name VARCHAR NOT NULL, table_name VARCHAR NOT NULL, commit_lsn UBIGINT NOT NULL,
    xid UINTEGER NOT NULL, kind VARCHAR NOT NULL, detail VARCHAR NOT NULL, action VARCHAR NOT NULL,
    columns JSON NOT NULL, key JSON NOT NULL, recorded_at TIMESTAMPTZ NOT NULL);
CREATE TABLE IF NOT EXISTS _dbmazz.quarantine (
    slot VARCHAR NOT NULL, schema_name VARCHAR NOT NULL, table_name VARCHAR NOT NULL, commit_lsn UBIGINT NOT NULL,
    xid UINTEGER NOT NULL, ordinal BIGINT NOT NULL, op VARCHAR NOT NULL, column_name VARCHAR NOT NULL,
    reason VARCHAR NOT NULL, row JSON NOT NULL, quarantined_at TIMESTAMPTZ NOT NULL);
CREATE TABLE IF NOT EXISTS _dbmazz.copies (
    slot VARCHAR NOT NULL, schema_name VARCHAR NOT NULL, table_name VARCHAR NOT NULL, rows_in VARCHAR NOT NULL,
    mode VARCHAR NOT NULL, mark VARCHAR NOT NULL, finished VARCHAR NOT NULL, row_count BIGINT NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL);
ALTER TABLE _dbmazz.checkpoints ADD COLUMN IF NOT EXISTS commit_lsn UBIGINT;
ALTER TABLE _dbmazz.checkpoints ADD COLUMN IF NOT EXISTS xid UINTEGER;
ALTER TABLE _dbmazz.checkpoints ADD COLUMN IF NOT EXISTS database_oid UINTEGER;
ALTER TABLE _dbmazz.checkpoints ADD COLUMN IF NOT EXISTS held_s DOUBLE;
ALTER TABLE _dbmazz.tables ADD COLUMN IF NOT EXISTS mode VARCHAR DEFAULT 'mirror';
ALTER TABLE _dbmazz.tables ADD COLUMN IF NOT EXISTS complete BOOLEAN DEFAULT false;
ALTER TABLE _dbmazz.tables ADD COLUMN IF NOT EXISTS identity JSON;
ALTER TABLE _dbmazz.tables ADD COLUMN IF NOT EXISTS choice JSON;
ALTER TABLE _dbmazz.tables ADD COLUMN IF NOT EXISTS targets JSON;
ALTER TABLE _dbmazz.tables ADD COLUMN IF NOT EXISTS lsn UBIGINT;
ALTER TABLE _dbmazz.tables ADD COLUMN IF NOT EXISTS since TIMESTAMPTZ;
ALTER TABLE _dbmazz.tables ADD COLUMN IF NOT EXISTS error VARCHAR;
ALTER TABLE _dbmazz.tables ADD COLUMN IF NOT EXISTS reason VARCHAR;
ALTER TABLE _dbmazz.tables ADD COLUMN IF NOT EXISTS remedy VARCHAR;
ALTER TABLE _dbmazz.tables ADD COLUMN IF NOT EXISTS retry_when VARCHAR;
ALTER TABLE _dbmazz.tables ADD COLUMN IF NOT EXISTS last_change_lsn UBIGINT;
UPDATE _dbmazz.tables SET state = 'copying', reason = 'its shape changed at the source' WHERE state = 'changed';
UPDATE _dbmazz.tables SET state = 'copying' WHERE state = 'snapshotting';
DELETE FROM _dbmazz.layout;
INSERT INTO _dbmazz.layout VALUES ({layout});
"""


def layout(connection: duckdb.DuckDBPyConnection) -> int:
    """Return the version of the layout that the file has; 0 if it has no bookkeeping."""
    found = connection.execute(
        "SELECT count(*) FROM information_schema.tables WHERE table_catalog = current_database() "
        "AND table_schema = '_dbmazz' AND table_name = 'layout'"
    ).fetchone()
    if not found or not found[0]:
        return 0
    row = connection.execute("SELECT max(version) FROM _dbmazz.layout").fetchone()
    return int(row[0]) if row and row[0] is not None else 0


def create(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the schema, or migrate an older layout to `LAYOUT`, in a transaction of its own.

    Two threads of a process can do this at the same time; one of them fails and tries again. The transaction is short:
    a copy of a table in the same transaction would make the other thread wait for its end.
    """
    deadline = time.monotonic() + _CREATE_TIMEOUT_S
    while True:
        try:
            connection.execute(f"BEGIN TRANSACTION; {_CREATE.format(layout=LAYOUT)} COMMIT")
            return
        except duckdb.TransactionException:
            connection.execute("ROLLBACK")
            if time.monotonic() >= deadline:
                raise
        time.sleep(0.05)


def is_unused(connection: duckdb.DuckDBPyConnection) -> bool:
    """Return whether the schema, which exists, holds neither tables, copies, checkpoints nor an id of the file."""
    found = connection.execute(
        "SELECT 1 FROM _dbmazz.tables UNION ALL SELECT 1 FROM _dbmazz.checkpoints "
        "UNION ALL SELECT 1 FROM _dbmazz.destination UNION ALL SELECT 1 FROM _dbmazz.copies"
    ).fetchone()
    return found is None


def read_id(connection: duckdb.DuckDBPyConnection, layout: int) -> str | None:
    """Return the id of the file; None if it has none."""
    if layout < LAYOUT_WITH_ID:
        return None
    row = connection.execute("SELECT id FROM _dbmazz.destination").fetchone()
    return None if row is None else str(row[0])


def write_id(connection: duckdb.DuckDBPyConnection) -> None:
    """Give the file a random id, in a transaction of its own."""
    connection.execute("INSERT INTO _dbmazz.destination SELECT uuid()")


def read_checkpoint(connection: duckdb.DuckDBPyConnection, slot: str, layout: int) -> Checkpoint | None:
    """Return the checkpoint of a slot; None if it has none."""
    transaction = "commit_lsn, xid" if layout >= LAYOUT_WITH_TRANSACTION else "NULL, NULL"
    database_oid = "database_oid" if layout >= LAYOUT_WITH_DATABASE_OID else "NULL"
    row = connection.execute(
        f"SELECT lsn, system_identifier, timeline, database, epoch_us(commit_time), {transaction}, {database_oid} "
        "FROM _dbmazz.checkpoints WHERE slot = ?",
        [slot],
    ).fetchone()
    if row is None:
        return None
    lsn, system_identifier, timeline, database, commit_time_us, commit_lsn, xid, oid = row
    commit_time, last = optional_time(commit_time_us), None
    if commit_lsn is not None and commit_time is not None:
        last = CommittedTransaction(Lsn(commit_lsn), xid, commit_time)
    return Checkpoint(slot, Lsn(lsn), system_identifier, timeline, database, commit_time, last, oid)


def read_lsns(connection: duckdb.DuckDBPyConnection) -> dict[str, Lsn]:
    """Return the LSN of each slot's checkpoint."""
    return {slot: Lsn(lsn) for slot, lsn in connection.execute("SELECT slot, lsn FROM _dbmazz.checkpoints").fetchall()}


def read_published_at(connection: duckdb.DuckDBPyConnection) -> datetime | None:
    """Return when a read copy was published; None if the file is not one."""
    try:
        row = connection.execute("SELECT epoch_us(max(published_at)) FROM _dbmazz.published").fetchone()
    except duckdb.CatalogException:
        return None
    return optional_time(row[0]) if row else None


def read_held_s(connection: duckdb.DuckDBPyConnection, slot: str, layout: int) -> float | None:
    """Return the seconds for which the file was held until the last checkpoint of a slot; None if not recorded."""
    if layout < LAYOUT_WITH_HELD:
        return None
    row = connection.execute("SELECT held_s FROM _dbmazz.checkpoints WHERE slot = ?", [slot]).fetchone()
    return None if row is None else row[0]


def write_checkpoint(connection: duckdb.DuckDBPyConnection, checkpoint: Checkpoint, held_s: float) -> None:
    """Replace the checkpoint of a slot.

    Args:
        connection: The file.
        checkpoint: The new checkpoint.
        held_s: Seconds for which the file has been open for writing.
    """
    connection.execute("DELETE FROM _dbmazz.checkpoints WHERE slot = ?", [checkpoint.slot])
    connection.execute(
        "INSERT INTO _dbmazz.checkpoints "
        "(slot, system_identifier, timeline, database, lsn, commit_time, updated_at, commit_lsn, xid, "
        "database_oid, held_s) VALUES (?, ?, ?, ?, ?, CAST(? AS TIMESTAMPTZ), now(), ?, ?, ?, ?)",
        [
            checkpoint.slot,
            checkpoint.system_identifier,
            checkpoint.timeline,
            checkpoint.database,
            int(checkpoint.lsn),
            checkpoint.commit_time.isoformat() if checkpoint.commit_time else None,
            int(checkpoint.last.commit_lsn) if checkpoint.last else None,
            checkpoint.last.xid if checkpoint.last else None,
            checkpoint.database_oid,
            held_s,
        ],
    )


def optional_time(epoch_us: int | None) -> datetime | None:
    """Return the time of microseconds since 1970."""
    return None if epoch_us is None else _EPOCH + timedelta(microseconds=epoch_us)

"""The tables of the destination in `_dbmazz.tables`, and their history in `_dbmazz.schema_history`."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import duckdb

from dbmazz_core.connectors.sinks.duckdb_sql.bookkeeping import (
    LAYOUT,
    LAYOUT_WITH_QUARANTINE,
    LAYOUT_WITH_STATES,
    optional_time,
)
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.policies import Mode
from dbmazz_core.model.recorded import RecordedTable
from dbmazz_core.model.schema import ColumnChoice, ColumnDef, TableSchema
from dbmazz_core.model.table_shape import TableShape, TableToken
from dbmazz_core.model.table_state import Problem, TableState, TableStatus
from dbmazz_core.table_ref import TableRef

#: The states that older layouts record, under the names that they have since layout 6.
_FORMER_STATES = {"snapshotting": TableStatus.COPYING, "changed": TableStatus.COPYING}


def read_recorded(
    connection: duckdb.DuckDBPyConnection, slot: str, layout: int
) -> tuple[list[RecordedTable], list[TableState]]:
    """Return the tables that a slot feeds, and the states of its tables that were never copied.

    A table that does not stream, because it must be copied or was taken out of the settings, is left out if somebody
    dropped it.
    """
    condition = """slot = ? AND (state NOT IN ('copying', 'snapshotting', 'removed') OR EXISTS (
        FROM duckdb_tables() d WHERE d.database_name = current_database()
        AND d.schema_name = t.schema_name AND d.table_name = t.table_name))"""
    rows = [(_state(row), row) for row in _rows(connection, layout, condition, [slot])]
    tables = [RecordedTable(state, _shape(row)) for state, row in rows if state.snapshot_lsn is not None]
    return tables, [state for state, _ in rows if state.snapshot_lsn is None]


def read_state(connection: duckdb.DuckDBPyConnection, table: TableRef, layout: int = LAYOUT) -> TableState | None:
    """Return the state and mode of a table, under the slot that feeds it; None if it is not recorded."""
    rows = _rows(connection, layout, _OF_TABLE, [table.schema, table.name])
    return _state(rows[-1]) if rows else None


def read_states(connection: duckdb.DuckDBPyConnection, layout: int = LAYOUT) -> dict[TableRef, TableState]:
    """Return the states of all tables of all slots, see `read_state`."""
    return {state.table: state for state in map(_state, _rows(connection, layout, "true", []))}


def read_schema(connection: duckdb.DuckDBPyConnection, table: TableRef, layout: int = LAYOUT) -> TableSchema | None:
    """Return the recorded columns and key of a table, under the slot that feeds it; None if it is not recorded."""
    rows = _rows(connection, layout, _OF_TABLE, [table.schema, table.name])
    return _schema(rows[-1]) if rows else None


_OF_TABLE = "schema_name = ? AND table_name = ?"


def _rows(
    connection: duckdb.DuckDBPyConnection, layout: int, condition: str, values: Sequence[str]
) -> list[dict[str, Any]]:
    """Return rows of `_dbmazz.tables` as dicts by column.

    Several slots may have a record of one table: that of the slot that feeds it is the last one, all others are those
    of tables that were never copied.

    There are also `has_all`: whether the table is complete; `since_us`: `since` in microseconds since 1970; and
    `copied`: whether the table was copied.

    The columns depend on the layout: a file that is opened for reading may still have layout 1, which has only tables
    in mode `mirror` and does not record whether they are complete.
    """
    has_all = "false"
    if layout >= LAYOUT_WITH_QUARANTINE:
        has_all = """complete AND NOT EXISTS (
            FROM _dbmazz.quarantine q WHERE q.schema_name = t.schema_name AND q.table_name = t.table_name)"""
    since = "epoch_us(since)" if layout >= LAYOUT_WITH_STATES else "NULL"
    copied = "CAST(columns AS VARCHAR) <> '[]'"
    cursor = connection.execute(
        f"SELECT t.*, {has_all} AS has_all, {since} AS since_us, {copied} AS copied FROM _dbmazz.tables t "
        f"WHERE {condition} ORDER BY copied",
        values,
    )
    names = [column[0] for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _ref(row: Mapping[str, Any]) -> TableRef:
    return TableRef(row["schema_name"], row["table_name"])


def _state(row: Mapping[str, Any]) -> TableState:
    """Return the state in a row of `_rows`. A table that was never copied has no columns."""
    written = row["state"]
    reason = row.get("reason") or ("its shape changed at the source" if written == "changed" else None)
    return TableState(
        _ref(row),
        _FORMER_STATES.get(written) or TableStatus(written),
        Lsn(row["snapshot_lsn"]) if row["copied"] else None,
        lsn=_lsn(row.get("lsn")),
        since=optional_time(row["since_us"]),
        problem=None if reason is None else Problem(reason, row.get("remedy") or "", row.get("error")),
        retry_when=row.get("retry_when"),
        last_change_lsn=_lsn(row.get("last_change_lsn")),
        mode=Mode(row.get("mode", "mirror")),
        complete=row["has_all"],
    )


def _schema(row: Mapping[str, Any]) -> TableSchema:
    """Return the columns and the key in a row of `_rows`."""
    columns = tuple(map(ColumnDef.from_dict, json.loads(row["columns"])))
    choice = json.loads(row.get("choice") or '{"include": null, "exclude": []}')
    include, exclude = choice["include"], choice["exclude"]
    return TableSchema(
        _ref(row),
        columns,
        tuple(json.loads(row["key"])),
        ColumnChoice(None if include is None else tuple(include), tuple(exclude)),
    )


def _shape(row: Mapping[str, Any]) -> TableShape:
    """Return the shape in a row of `_rows`; older layouts record it in other ways."""
    schema, token = _schema(row), row.get("identity")
    if not token:
        return TableShape.of(schema, None)
    if row.get("targets"):
        return TableShape(schema, json.loads(row["targets"]), TableToken(token))
    # Up to layout 3, the token holds a list for each column: first the source's name, last the destination's name.
    targets = {column[0]: column[-1] for column in json.loads(token)["columns"]}
    return TableShape(schema, targets, TableToken(token))


def read_owners(connection: duckdb.DuckDBPyConnection) -> dict[TableRef, str]:
    """Return the slot that feeds each table of dbmazz."""
    rows = connection.execute(
        "SELECT schema_name, table_name, slot FROM _dbmazz.tables WHERE CAST(columns AS VARCHAR) <> '[]'"
    ).fetchall()
    return {TableRef(schema, name): slot for schema, name, slot in rows}


def write_shape(connection: duckdb.DuckDBPyConnection, shape: TableShape, *, slot: str) -> None:
    """Record the new shape of a table that a slot feeds."""
    schema = shape.schema
    connection.execute(
        "UPDATE _dbmazz.tables SET columns = ?, key = ?, identity = ?, targets = ?, updated_at = now() "
        "WHERE slot = ? AND schema_name = ? AND table_name = ?",
        [
            _columns_json(schema),
            json.dumps(schema.key),
            shape.token,
            json.dumps(shape.targets),
            slot,
            schema.table.schema,
            schema.table.name,
        ],
    )


def write_state(
    connection: duckdb.DuckDBPyConnection,
    table: TableRef,
    state: TableStatus,
    problem: Problem | None,
    retry_when: str | None,
    *,
    slot: str,
) -> None:
    """Record the state of a table; a table that has no record gets one, as never copied.

    A table that is going to stream has no LSN of its own. A table that was streaming holds its rows as of the
    checkpoint, or as of its copy if that is newer.
    """
    error, reason, remedy = (problem.error, problem.reason, problem.remedy) if problem else (None, None, None)
    updated = connection.execute(
        """
        UPDATE _dbmazz.tables SET
            lsn = CASE WHEN $state = 'streaming' THEN NULL WHEN state = 'streaming' THEN greatest(
                snapshot_lsn, (SELECT max(c.lsn) FROM _dbmazz.checkpoints c WHERE c.slot = $slot)) ELSE lsn END,
            since = CASE WHEN state = $state AND error IS NOT DISTINCT FROM $error THEN since ELSE now() END,
            state = $state, error = $error, reason = $reason, remedy = $remedy, retry_when = $retry_when
        WHERE slot = $slot AND schema_name = $schema AND table_name = $table
        """,
        {
            "slot": slot,
            "schema": table.schema,
            "table": table.name,
            "state": state.value,
            "error": error,
            "reason": reason,
            "remedy": remedy,
            "retry_when": retry_when,
        },
    ).fetchone()
    if updated and updated[0]:
        return
    connection.execute(
        "INSERT INTO _dbmazz.tables (slot, schema_name, table_name, state, snapshot_lsn, columns, key, updated_at, "
        "since, error, reason, remedy, retry_when) VALUES (?, ?, ?, ?, 0, '[]', '[]', now(), now(), ?, ?, ?, ?)",
        [slot, table.schema, table.name, state.value, error, reason, remedy, retry_when],
    )


def forget(connection: duckdb.DuckDBPyConnection, tables: Collection[TableRef], *, slot: str) -> None:
    """Delete the records of tables that were never copied."""
    for table in tables:
        connection.execute(
            "DELETE FROM _dbmazz.tables WHERE slot = ? AND schema_name = ? AND table_name = ? "
            "AND CAST(columns AS VARCHAR) = '[]'",
            [slot, table.schema, table.name],
        )


def write_last_change(
    connection: duckdb.DuckDBPyConnection, tables: Collection[TableRef], lsn: Lsn, *, slot: str
) -> None:
    """Record that the changes before an LSN contain changes of these tables."""
    if tables:
        connection.execute(
            "UPDATE _dbmazz.tables SET last_change_lsn = ? WHERE slot = ? AND (schema_name, table_name) IN "
            "(SELECT unnest(?), unnest(?))",
            [int(lsn), slot, [table.schema for table in tables], [table.name for table in tables]],
        )


def write_history(
    connection: duckdb.DuckDBPyConnection,
    schema: TableSchema,
    *,
    slot: str,
    commit_lsn: Lsn,
    xid: int,
    entries: Sequence[tuple[str, str, str]],
) -> None:
    """Record schema changes of a table.

    Args:
        connection: The file.
        schema: The table after the changes.
        slot: The slot that feeds it.
        commit_lsn: Commit LSN of the transaction; 0 if unknown.
        xid: Id of the transaction; 0 if unknown.
        entries: Kind, detail and action of each change.
    """
    for kind, detail, action in entries:
        connection.execute(
            "INSERT INTO _dbmazz.schema_history VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, now())",
            [
                slot,
                schema.table.schema,
                schema.table.name,
                int(commit_lsn),
                xid,
                kind,
                detail,
                action,
                _columns_json(schema),
                json.dumps(schema.key),
            ],
        )


def rename_table(connection: duckdb.DuckDBPyConnection, old: TableRef, new: TableRef, *, slot: str) -> None:
    """Record the new name of a table that a slot feeds, also for its rows in quarantine."""
    for name, assignment in (("tables", ", updated_at = now()"), ("quarantine", "")):
        connection.execute(
            f"UPDATE _dbmazz.{name} SET schema_name = ?, table_name = ?{assignment} "
            "WHERE slot = ? AND schema_name = ? AND table_name = ?",
            [new.schema, new.name, slot, old.schema, old.name],
        )


def write_table(
    connection: duckdb.DuckDBPyConnection,
    shape: TableShape,
    *,
    slot: str,
    snapshot_lsn: Lsn,
    mode: Mode,
    complete: bool,
) -> None:
    """Record a table that a slot feeds in state `streaming`, and replace its previous record."""
    schema, table = shape.schema, shape.schema.table
    connection.execute(
        "DELETE FROM _dbmazz.tables WHERE slot = ? AND schema_name = ? AND table_name = ?",
        [slot, table.schema, table.name],
    )
    connection.execute(
        "INSERT INTO _dbmazz.tables (slot, schema_name, table_name, state, snapshot_lsn, columns, key, choice, "
        "updated_at, mode, complete, since, identity, targets) "
        "VALUES (?, ?, ?, 'streaming', ?, ?, ?, ?, now(), ?, ?, now(), ?, ?)",
        [
            slot,
            table.schema,
            table.name,
            int(snapshot_lsn),
            _columns_json(schema),
            json.dumps(schema.key),
            json.dumps({"include": schema.choice.include, "exclude": schema.choice.exclude}),
            mode.value,
            complete,
            shape.token,
            json.dumps(shape.targets),
        ],
    )


def _columns_json(schema: TableSchema) -> str:
    return json.dumps([column.to_dict() for column in schema.columns])


def _lsn(value: int | None) -> Lsn | None:
    return None if value is None else Lsn(value)

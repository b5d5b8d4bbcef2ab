"""Schema changes in DuckDB's words."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping

import duckdb

from dbmazz_core.connectors.sinks.duckdb_sql import bookkeeping
from dbmazz_core.connectors.sinks.duckdb_sql.conflicts import verify_alterable
from dbmazz_core.connectors.sinks.duckdb_sql.names import fold, qualified, qualified_schema
from dbmazz_core.connectors.sinks.duckdb_sql.sql import TARGET
from dbmazz_core.connectors.sinks.duckdb_sql.statements import Statements, sent
from dbmazz_core.connectors.sinks.duckdb_sql.values import type_name
from dbmazz_core.model.frame_columns import KNOWN_OLD, OLD, OP, UNCHANGED
from dbmazz_core.model.policies import Mode, SchemaAction
from dbmazz_core.model.schema_events import AddColumn, ChangeType, DropColumn, RenameColumn, SchemaEvent
from dbmazz_core.table_ref import TableRef, quote_literal
from dbmazz_core.table_ref import quote_identifier as quoted

#: DuckDB 1.4 fails at COMMIT where a table was altered after an UPDATE or DELETE of the same transaction (tried).
ALTERS_MODIFIED_TABLES = tuple(map(int, duckdb.__version__.split(".")[:2])) >= (2, 0)


def alter(connection: duckdb.DuckDBPyConnection, path: str, event: SchemaEvent, mode: Mode) -> bool:
    """Take the steps that are to be applied; in a changelog, on the columns of the row before as well. Whether rows
    were changed."""
    do = Statements(connection, path, event.schema)
    prefixes = ("", OLD) if mode is Mode.CHANGELOG else ("",)
    alterations: list[str] = []
    added: list[AddColumn] = []
    dropped: list[str] = []
    renamed: dict[str, str] = {}
    for step, action in event.steps:
        if action is not SchemaAction.APPLY:
            continue
        match step:
            case AddColumn():
                added.append(step)
            case DropColumn(name):
                dropped.append(name)
                alterations += [f"DROP COLUMN {quoted(prefix + name)}" for prefix in prefixes]
            case RenameColumn(old, new):
                renamed[old] = new
            case ChangeType(_, old_column, new_column) if old_column.type.duckdb != new_column.type.duckdb:
                type = type_name(new_column.type)
                alterations += [f"ALTER COLUMN {quoted(prefix + old_column.name)} TYPE {type}" for prefix in prefixes]
    # By way of names that no column has: two may exchange theirs.
    renames = {prefix + old: prefix + new for old, new in renamed.items() for prefix in prefixes}
    temporary = {old: f"_dbmazz_renamed_{number}" for number, old in enumerate(renames)}
    for names in (temporary, {temporary[old]: new for old, new in renames.items()}):
        alterations += [f"RENAME COLUMN {quoted(old)} TO {quoted(new)}" for old, new in names.items()]
    if alterations:
        verify_alterable(connection, path, event.table)
    # Last: a new column may have the name that another one had.
    for step in added:
        type = type_name(step.column.type)
        alterations += [f"ADD COLUMN {quoted(prefix + step.column.name)} {type}" for prefix in prefixes]
    for alteration in alterations:
        do.run(f"ALTER TABLE {do.table} {alteration}")
    # Rows only now: DuckDB 1.4 alters no table behind that.
    changed = 0
    if mode is Mode.CHANGELOG:
        changed += _rename_in_lists(do, dropped, renamed)
    for number, step in enumerate(added, len(event.schema.columns) - len(added)):
        place = event.schema.names.index(step.column.name)
        value = do.assignments([place])[0]
        if mode is Mode.CHANGELOG:
            changed += _add_in_lists(do, step.column.name, number)
            value = _in_history(step.column.name, sent(place))
        if step.missing is not None:
            changed += do.fill(step.missing, place, event.commit_lsn, event.xid, value)
    return changed > 0


def _add_in_lists(do: Statements, name: str, before: int) -> int:
    """Let a new column of a changelog be a part of all rows before that are whole; `before`: the number of columns that
    they have without it. How many rows that changed, likewise below."""
    appended = f"{KNOWN_OLD} = list_append({TARGET}.{KNOWN_OLD}, {quote_literal(name)})"
    return do.run(f"UPDATE {do.target} SET {appended} WHERE len({TARGET}.{KNOWN_OLD}) = {before}")


def _in_history(name: str, value: str) -> str:
    """How a new column of a changelog gets its value of older rows: in the rows after, and the rows before that have
    it."""
    after = f"CASE WHEN {TARGET}.{OP} IN ('delete', 'truncate') THEN NULL ELSE {value} END"
    before = f"CASE WHEN list_contains({TARGET}.{KNOWN_OLD}, {quote_literal(name)}) THEN {value} END"
    return f"{quoted(name)} = {after}, {quoted(OLD + name)} = {before}"


def _rename_in_lists(do: Statements, dropped: Collection[str], renamed: Mapping[str, str]) -> int:
    """A changelog names columns in values too: those that were not sent, and those that were of the row before."""
    if not dropped and not renamed:
        return 0
    cases = " ".join(f"WHEN {quote_literal(old)} THEN {quote_literal(new)}" for old, new in renamed.items())
    today = f"CASE _dbmazz_n {cases} ELSE _dbmazz_n END" if cases else "_dbmazz_n"
    gone, concerned = (
        f"[{', '.join(map(quote_literal, names))}]::VARCHAR[]" for names in (dropped, [*dropped, *renamed])
    )
    lists = (UNCHANGED, KNOWN_OLD)
    left = {
        name: f"list_filter({TARGET}.{name}, lambda _dbmazz_n: NOT list_contains({gone}, _dbmazz_n))" for name in lists
    }
    values = [f"{name} = list_transform({names}, lambda _dbmazz_n: {today})" for name, names in left.items()]
    where = " OR ".join(f"list_has_any({TARGET}.{name}, {concerned})" for name in lists)
    return do.run(f"UPDATE {do.target} SET {', '.join(values)} WHERE {where}")


def rename(connection: duckdb.DuckDBPyConnection, path: str, names: Mapping[TableRef, TableRef]) -> None:
    """Rename tables and move them between schemas, bookkeeping and all."""
    for old in names:
        verify_alterable(connection, path, old)
    # By way of names that no table has: two may exchange theirs.
    taken = {fold(str(name)) for (name,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
    free = (name for name in map("_dbmazz_renamed_{}".format, itertools.count()) if name not in taken)
    passing = {old: TableRef(old.schema, next(free)) for old in names}
    for old, between in passing.items():
        connection.execute(f"ALTER TABLE {qualified(connection, old)} RENAME TO {quoted(between.name)}")
        bookkeeping.rename_table(connection, old, between)
    for old, between in passing.items():
        new = names[old]
        here, there = qualified(connection, between), qualified(connection, new)
        if new.schema != between.schema:
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {qualified_schema(connection, new.schema)}")
            connection.execute(f"CREATE TABLE {there} AS FROM {here}")
            connection.execute(f"DROP TABLE {here}")
        else:
            connection.execute(f"ALTER TABLE {here} RENAME TO {quoted(new.name)}")
        bookkeeping.rename_table(connection, between, new)

"""Apply schema changes and renames of tables in DuckDB."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence

import duckdb
import polars as pl

from dbmazz_core.connectors.sinks.duckdb_sql import table_records
from dbmazz_core.connectors.sinks.duckdb_sql.conflicts import verify_alterable
from dbmazz_core.connectors.sinks.duckdb_sql.names import fold, qualified, qualified_schema
from dbmazz_core.connectors.sinks.duckdb_sql.shapes import type_name
from dbmazz_core.connectors.sinks.duckdb_sql.sql import TARGET
from dbmazz_core.connectors.sinks.duckdb_sql.statements import Statements
from dbmazz_core.connectors.sinks.duckdb_sql.table_sql import frame_value
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.frame_columns import COMMIT_LSN, KNOWN_OLD, OLD, OP, UNCHANGED, XID, value_column
from dbmazz_core.model.policies import Mode, SchemaAction
from dbmazz_core.model.schema_events import AddColumn, ChangeType, DropColumn, RenameColumn, SchemaEvent, SchemaStep
from dbmazz_core.table_ref import TableRef, quote_literal
from dbmazz_core.table_ref import quote_identifier as quoted

#: DuckDB 1 fails at COMMIT if a table was altered after an UPDATE or DELETE in the same transaction (tried, 1.5).
ALTERS_MODIFIED_TABLES = tuple(map(int, duckdb.__version__.split(".")[:2])) >= (2, 0)


def alter(connection: duckdb.DuckDBPyConnection, path: str, event: SchemaEvent, mode: Mode) -> bool:
    """Apply the steps of a schema change whose action is `apply`; in a changelog also to the columns of the old row.

    Args:
        connection: The file, in a transaction.
        path: The file, for messages.
        event: The schema change.
        mode: The table's mode.

    Returns:
        Whether rows were changed.

    Raises:
        BadValue: If DuckDB's type cannot hold the value of a new column in older rows.
        DestinationConflict: If the table has an index.
    """
    statements = Statements(connection, path, event.schema)
    steps = [step for step, action in event.steps if action is SchemaAction.APPLY]
    added = [step for step in steps if isinstance(step, AddColumn)]
    dropped = [step.name for step in steps if isinstance(step, DropColumn)]
    renamed = {step.old: step.new for step in steps if isinstance(step, RenameColumn)}
    prefixes = ("", OLD) if mode is Mode.CHANGELOG else ("",)
    alterations = _alterations(steps, dropped, renamed, prefixes)
    if alterations:
        verify_alterable(connection, path, event.table)
    # New columns after renames: a new column can have the name that a dropped or renamed column had.
    for step in added:
        type = type_name(step.column.type)
        alterations += [f"ADD COLUMN {quoted(prefix + step.column.name)} {type}" for prefix in prefixes]
    # Dropped columns last: DuckDB does not drop the only column of a table.
    alterations += [f"DROP COLUMN {quoted(name)}" for name in _names_until_dropped(dropped, prefixes).values()]
    for alteration in alterations:
        statements.run(f"ALTER TABLE {statements.sql.table} {alteration}")
    # Rows after columns: DuckDB 1 cannot alter a table after rows were changed.
    changed = 0
    if mode is Mode.CHANGELOG:
        changed += _rename_in_lists(statements, dropped, renamed)
    for number, step in enumerate(added, len(event.schema.columns) - len(added)):
        place = event.schema.names.index(step.column.name)
        assignments = statements.sql.assignments([place])[0]
        if mode is Mode.CHANGELOG:
            changed += _add_to_lists(statements, step.column.name, number)
            assignments = _assignments_in_changelog(step.column.name, frame_value(place))
        if step.missing is not None:
            changed += _fill_column(statements, step.missing, place, event.commit_lsn, event.xid, assignments)
    return changed > 0


def _alterations(
    steps: Sequence[SchemaStep], dropped: Sequence[str], renamed: Mapping[str, str], prefixes: Sequence[str]
) -> list[str]:
    """Return the actions of ALTER TABLE that change and rename columns, and give dropped columns other names.

    Args:
        steps: The steps to apply.
        dropped: Names of dropped columns.
        renamed: New names of columns by old names.
        prefixes: Prefixes of the columns to alter.
    """
    alterations: list[str] = []
    for step in steps:
        match step:
            case ChangeType(_, old_column, new_column) if old_column.type.duckdb != new_column.type.duckdb:
                type = type_name(new_column.type)
                alterations += [f"ALTER COLUMN {quoted(prefix + old_column.name)} TYPE {type}" for prefix in prefixes]
    # Rename in two steps, through names that no column has: columns can exchange their names.
    renames = {prefix + old: prefix + new for old, new in renamed.items() for prefix in prefixes}
    temporary = {old: f"_dbmazz_renamed_{number}" for number, old in enumerate(renames)}
    first = _names_until_dropped(dropped, prefixes) | temporary
    for names in (first, {temporary[old]: new for old, new in renames.items()}):
        alterations += [f"RENAME COLUMN {quoted(old)} TO {quoted(new)}" for old, new in names.items()]
    return alterations


def _names_until_dropped(dropped: Sequence[str], prefixes: Sequence[str]) -> dict[str, str]:
    """Return the names that dropped columns have until they are dropped: a new column can have their former names."""
    columns = [prefix + name for name in dropped for prefix in prefixes]
    return {name: f"_dbmazz_dropped_{number}" for number, name in enumerate(columns)}


def _fill_column(statements: Statements, value: pl.Series, place: int, lsn: Lsn, xid: int, assignments: str) -> int:
    """Set a new column to its value in older rows, and return the number of rows.

    Args:
        statements: The table.
        value: The value, of length 1.
        place: The column.
        lsn: Commit LSN of the schema change, for errors.
        xid: Transaction id of the schema change, for errors.
        assignments: SET, which reads the value as `frame_value(place)`.

    Raises:
        BadValue: If DuckDB's type cannot hold the value.
    """
    frame = value.alias(value_column(place)).to_frame()
    frame = frame.with_columns(
        pl.lit(int(lsn), dtype=pl.UInt64).alias(COMMIT_LSN), pl.lit(xid, dtype=pl.UInt32).alias(XID)
    )
    sql = statements.sql
    return statements.run(f"UPDATE {sql.target} SET {assignments} FROM {sql.source([place])}", frame)


def _add_to_lists(statements: Statements, name: str, before: int) -> int:
    """Add a new column to the list of known old columns of a changelog's changes with a whole old row.

    Args:
        statements: The changelog.
        name: The column.
        before: The number of columns in a whole old row without it.

    Returns:
        The number of changed rows.
    """
    sql = statements.sql
    appended = f"{KNOWN_OLD} = list_append({TARGET}.{KNOWN_OLD}, {quote_literal(name)})"
    return statements.run(f"UPDATE {sql.target} SET {appended} WHERE len({TARGET}.{KNOWN_OLD}) = {before}")


def _assignments_in_changelog(name: str, value: str) -> str:
    """Return the assignments that set a new column of a changelog in older changes.

    The value belongs to every new row, and to every old row whose known columns include the new column.
    """
    new = f"CASE WHEN {TARGET}.{OP} IN ('delete', 'truncate') THEN NULL ELSE {value} END"
    old = f"CASE WHEN list_contains({TARGET}.{KNOWN_OLD}, {quote_literal(name)}) THEN {value} END"
    return f"{quoted(name)} = {new}, {quoted(OLD + name)} = {old}"


def _rename_in_lists(statements: Statements, dropped: Collection[str], renamed: Mapping[str, str]) -> int:
    """Drop and rename columns in a changelog's lists of unchanged and of known old columns.

    Returns:
        The number of changed rows.
    """
    if not dropped and not renamed:
        return 0
    cases = " ".join(f"WHEN {quote_literal(old)} THEN {quote_literal(new)}" for old, new in renamed.items())
    new_name = f"CASE _dbmazz_n {cases} ELSE _dbmazz_n END" if cases else "_dbmazz_n"
    dropped_list, affected_list = (
        f"[{', '.join(map(quote_literal, names))}]::VARCHAR[]" for names in (dropped, [*dropped, *renamed])
    )
    lists = (UNCHANGED, KNOWN_OLD)
    remaining = {
        name: f"list_filter({TARGET}.{name}, lambda _dbmazz_n: NOT list_contains({dropped_list}, _dbmazz_n))"
        for name in lists
    }
    values = [f"{name} = list_transform({names}, lambda _dbmazz_n: {new_name})" for name, names in remaining.items()]
    where = " OR ".join(f"list_has_any({TARGET}.{name}, {affected_list})" for name in lists)
    return statements.run(f"UPDATE {statements.sql.target} SET {', '.join(values)} WHERE {where}")


def rename(connection: duckdb.DuckDBPyConnection, path: str, names: Mapping[TableRef, TableRef], *, slot: str) -> None:
    """Rename tables, or move them to other schemas, also in the bookkeeping.

    Args:
        connection: The file, in a transaction.
        path: The file, for messages.
        names: New names by old names.
        slot: The slot that feeds the tables.

    Raises:
        DestinationConflict: If a table has an index.
    """
    for old in names:
        verify_alterable(connection, path, old)
    # Rename in two steps, through names that no table has: tables can exchange their names.
    taken = {fold(str(name)) for (name,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
    free = (name for name in map("_dbmazz_renamed_{}".format, itertools.count()) if name not in taken)
    temporary = {old: TableRef(old.schema, next(free)) for old in names}
    for old, between in temporary.items():
        connection.execute(f"ALTER TABLE {qualified(connection, old)} RENAME TO {quoted(between.name)}")
        table_records.rename_table(connection, old, between, slot=slot)
    for old, between in temporary.items():
        new = names[old]
        source, target = qualified(connection, between), qualified(connection, new)
        if new.schema != between.schema:
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {qualified_schema(connection, new.schema)}")
            connection.execute(f"CREATE TABLE {target} AS FROM {source}")
            connection.execute(f"DROP TABLE {source}")
        else:
            connection.execute(f"ALTER TABLE {source} RENAME TO {quoted(new.name)}")
        table_records.rename_table(connection, between, new, slot=slot)

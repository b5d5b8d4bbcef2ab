"""Verify that columns which were redacted when their table was copied are still redacted under their current names."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from dbmazz_core.connectors.sources.postgres.catalog.catalog_table import CatalogTable
from dbmazz_core.connectors.sources.postgres.catalog.column_choice import ColumnRules
from dbmazz_core.connectors.sources.postgres.catalog.description import TableInfo
from dbmazz_core.connectors.sources.postgres.catalog.identity import TableIdentity
from dbmazz_core.connectors.sources.postgres.catalog.redaction import RedactedColumn
from dbmazz_core.errors import ConfigError
from dbmazz_core.model.table_shape import TableToken
from dbmazz_core.table_ref import ColumnRef, TableRef


def verify_redacted_tables(
    tables: Iterable[TableInfo], recorded: Mapping[TableRef, TableToken], rules: ColumnRules
) -> None:
    """Verify the redacted columns of tables as the last look at the catalog found them.

    Args:
        tables: The tables.
        recorded: Tokens of the destination's tables, by their names when they were copied.
        rules: The current rules for columns.

    Raises:
        ConfigError: The current rules show a column that was redacted when its table was copied.
    """
    redacted = _tables_with_redaction(recorded)
    for info in tables:
        if info.oid in redacted:
            copied_as, identity = redacted[info.oid]
            numbers = {column.name: column.number for column in info.columns}
            names = {number: name for name, number in numbers.items()}
            verify_redacted_columns(
                copied_as, identity.redacted or (), info.ref, names, rules.redacted(info.ref, numbers)
            )


def verify_redacted_table(table: CatalogTable, recorded: Mapping[TableRef, TableToken]) -> None:
    """Verify the redacted columns of one table as the catalog has it.

    Args:
        table: The table, under the current rules.
        recorded: Tokens of the destination's tables, by their names when they were copied.

    Raises:
        ConfigError: The current rules show a column that was redacted when the table was copied.
    """
    redacted = _tables_with_redaction(recorded)
    if table.identity.oid in redacted:
        verify_still_redacted(*redacted[table.identity.oid], table)


def verify_still_redacted(copied_as: TableRef, identity: TableIdentity, now: CatalogTable) -> None:
    """Verify the redacted columns of one table against its recorded identity.

    Args:
        copied_as: The table's name when it was copied.
        identity: The table's identity when it was copied.
        now: The catalog's table, under the current rules.

    Raises:
        ConfigError: The current rules show a column that was redacted when the table was copied.
    """
    if identity.redacted and identity.oid == now.identity.oid:
        captured = {column.number: column.name for column in now.identity.columns}
        verify_redacted_columns(copied_as, identity.redacted, now.table, captured, now.identity.redacted or ())


def verify_redacted_columns(
    copied_as: TableRef,
    before: Collection[RedactedColumn],
    table: TableRef,
    names: Mapping[int, str],
    now: Collection[RedactedColumn],
) -> None:
    """Verify that no redacted column has a new name under which the current rules show more of it.

    A changed rule for an unchanged name is the user's choice, which `ColumnRules.verify_recorded` reports.

    Args:
        copied_as: The table's name when it was copied.
        before: The columns that were redacted then.
        table: The table's current name.
        names: Current names by number, at least of the captured columns.
        now: The columns that are redacted now.

    Raises:
        ConfigError: A column is not redacted any more, or has a weaker mask.
    """
    redacted_now = {column.number: column for column in now}
    for old in before:
        new = redacted_now.get(old.number)
        name = new.name if new else names.get(old.number)
        if name is None or (copied_as, old.name) == (table, name):
            continue
        if new is not None and _hides_as_much(new.mask, old.mask):
            continue
        column = ColumnRef(table, name)
        if old.mask is None:
            how, variable, rule = "left out", "COLUMNS_EXCLUDE", str(column)
        else:
            mask = "hash" if old.mask.startswith("hash") else old.mask
            how, variable, rule = f"masked ({mask})", "COLUMNS_MASK", f"{column}={mask}"
        raise ConfigError(
            f"{ColumnRef(copied_as, old.name)} was {how} when its table was copied, and is called {column} now, where "
            f"{'a weaker rule' if new else 'no rule'} hides it: its values would arrive",
            object=column,
            remedy=f"add its current name to {variable} ({variable}={rule}); or, only if its values may be shown as "
            f"the current rules say: dbmazz snapshot --tables '{table}'",
        )


def _tables_with_redaction(recorded: Mapping[TableRef, TableToken]) -> dict[int, tuple[TableRef, TableIdentity]]:
    """Return the tables that were copied with redacted columns, by OID: their names then, and their identities."""
    identities = ((ref, TableIdentity.from_token(token)) for ref, token in recorded.items())
    return {identity.oid: (ref, identity) for ref, identity in identities if identity.redacted}


def _hides_as_much(now: str | None, before: str | None) -> bool:
    """Return whether a mask shows no more than the mask before. None stands for an excluded column."""
    if now in (None, "null"):
        return True
    if before in (None, "null"):
        return False
    assert now is not None
    assert before is not None
    if now.startswith("hash"):
        return True
    return before.startswith("truncate") and int(now.partition(":")[2]) <= int(before.partition(":")[2])

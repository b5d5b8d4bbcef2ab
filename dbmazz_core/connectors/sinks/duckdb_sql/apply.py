"""Apply the net effect of changes on one table with SQL on whole frames; no Python code runs per row."""

from __future__ import annotations

from typing import Protocol

import polars as pl

from dbmazz_core.connectors.sinks.duckdb_sql.statements import Statements
from dbmazz_core.model.net_effect import Move, NetEffect, PartialUpdate
from dbmazz_core.model.records import SourcePosition


class RowApplier(Protocol):
    """Applies the parts of a net effect to a table in mode `mirror` or `soft_delete`.

    All methods raise BadValue if DuckDB's type cannot hold a value, and DestinationError if DuckDB fails.

    Attributes:
        replaces: Whether rows are deleted and inserted again instead of updated (module `memory`).
    """

    replaces: bool

    def truncate(self, position: SourcePosition) -> None:
        """Delete all rows; in `soft_delete` mark them with the position of the TRUNCATE."""

    def fetch_unknown(self, move: Move, number: int) -> str:
        """Complete the rows of a move in a temporary table, and return its name; see `fetch_unknown_values`.

        Raises:
            UnknownValue: If the table does not hold exactly one row under an old key.
        """

    def delete(self, rows: pl.DataFrame) -> None:
        """Delete rows by key.

        Raises:
            DestinationConflict: If a row is missing in a complete table.
        """

    def update(self, update: PartialUpdate) -> None:
        """Set the columns whose values PostgreSQL sent.

        Raises:
            UnknownValue: If a row is missing: it holds the values that PostgreSQL did not send.
        """

    def remove(self, rows: pl.DataFrame) -> None:
        """Delete as many of equal rows as `COUNT` says, in a table without a key.

        Raises:
            DestinationConflict: If a complete table holds fewer.
        """

    def upsert(self, rows: pl.DataFrame) -> None:
        """Update the rows whose keys the table holds, and insert the others.

        Raises:
            DestinationConflict: If a row is missing in a complete table, which holds all of them.
        """

    def insert(self, rows: pl.DataFrame) -> None:
        """Insert whole rows whose keys the table does not hold."""

    def insert_fetched(self, name: str) -> None:
        """Insert the rows of the temporary table that `fetch_unknown` returned."""

    def insert_snapshot(self, rows: pl.DataFrame) -> None:
        """Insert rows of a snapshot."""


def apply_effect(effect: NetEffect, applier: RowApplier, statements: Statements) -> None:
    """Apply a net effect in the order that `NetEffect` defines.

    Raises:
        BadValue: If DuckDB's type cannot hold a value.
        UnknownValue: If PostgreSQL did not send all values of a row that the table does not hold.
        DestinationConflict: If rows are missing in a complete table.
    """
    if effect.truncated is not None:
        applier.truncate(effect.truncated)
    fetched = [applier.fetch_unknown(move, number) for number, move in enumerate(effect.moves)]
    if effect.deletes is not None and len(effect.deletes):
        applier.delete(effect.deletes)
    for update in effect.updates:
        applier.update(update)
    if effect.removals is not None and len(effect.removals):
        applier.remove(effect.removals)
    if effect.upserts is not None and len(effect.upserts):
        applier.upsert(effect.upserts)
    if effect.appends is not None and len(effect.appends):
        applier.insert(effect.appends)
    for name in fetched:
        applier.insert_fetched(name)
        statements.run(f"DROP TABLE {name}")

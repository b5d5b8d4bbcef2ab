"""Applying one table's net effect with SQL, set by set; no Python per row."""

from __future__ import annotations

from typing import Protocol

import polars as pl

from dbmazz_core.connectors.sinks.duckdb_sql.statements import Statements
from dbmazz_core.model.net_effect import Move, NetEffect, PartialUpdate
from dbmazz_core.model.records import SourcePosition


class RowApplier(Protocol):
    """Keeps one row a key of the source's: one of these for each mode that does."""

    def truncate(self, position: SourcePosition) -> None:
        """All rows went."""

    def fetch(self, move: Move, number: int) -> str:
        """Fetch what a move lacks into a temporary table; its name. See `Statements.complete`."""

    def delete(self, rows: pl.DataFrame) -> None:
        """Rows went, by key."""

    def update(self, update: PartialUpdate) -> None:
        """Set the values that were sent; every row has to be there, for it holds those that were not."""

    def remove(self, rows: pl.DataFrame) -> None:
        """Exactly as many of equal rows went as were counted."""

    def upsert(self, rows: pl.DataFrame) -> None:
        """Whole rows came for keys that are there, or may be."""

    def insert(self, rows: pl.DataFrame) -> None:
        """Whole rows came for keys that are not there."""

    def insert_fetched(self, name: str) -> None:
        """The same, of a temporary table."""

    def copy(self, rows: pl.DataFrame) -> None:
        """Rows of a snapshot came."""


def apply_effect(effect: NetEffect, to: RowApplier, statements: Statements) -> None:
    """Apply an effect, in the order that `NetEffect` gives.

    Raises:
        BadValue: If DuckDB's type cannot hold a value.
        UnknownValue: If values were not sent and the row that should hold them is not there.
        DestinationConflict: If rows are missing that have to be there.
    """
    if effect.truncated is not None:
        to.truncate(effect.truncated)
    fetched = [to.fetch(move, number) for number, move in enumerate(effect.moves)]
    if effect.deletes is not None and len(effect.deletes):
        to.delete(effect.deletes)
    for update in effect.updates:
        to.update(update)
    if effect.removals is not None and len(effect.removals):
        to.remove(effect.removals)
    if effect.upserts is not None and len(effect.upserts):
        to.upsert(effect.upserts)
    if effect.appends is not None and len(effect.appends):
        to.insert(effect.appends)
    for name in fetched:
        to.insert_fetched(name)
        statements.run(f"DROP TABLE {name}")

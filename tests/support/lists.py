"""A source and a sink of lists: what the protocols of `model` ask for at least, and nothing of PostgreSQL or DuckDB."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Self

import numpy as np
import polars as pl

from dbmazz_core.lsn import INVALID_LSN, Lsn
from dbmazz_core.model.batch import DELETE, ChangeBatch
from dbmazz_core.model.checkpoint import Checkpoint, SystemIdentity
from dbmazz_core.model.datatypes import DataType, Kind
from dbmazz_core.model.frame_columns import value_column
from dbmazz_core.model.identity import SourceColumn, SourceTable, TableIdentity
from dbmazz_core.model.net_effect import NetEffect
from dbmazz_core.model.recorded import Recorded, RecordedTable
from dbmazz_core.model.records import CommittedTransaction, SourcePosition
from dbmazz_core.model.schema import ColumnDef, TableSchema
from dbmazz_core.model.schema_events import AddColumn, DropColumn, RenameColumn, SchemaEvent
from dbmazz_core.model.source import Bound, CopiedRows, DescribedColumn, NewSchema, StreamPart, Truncation
from dbmazz_core.model.table_state import TableState
from dbmazz_core.table_ref import TableRef

#: A change: `I`, `U` or `D` and a row; `add` and a column's name; `truncate`.
Change = tuple[str, Any]
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Images:
    """Some rows as columns; implements `RowImages`."""

    index: Any
    rows: list[tuple[Any, ...]]
    lenient: bool = False

    def values(self, column: int) -> pl.Series:
        dtype = pl.Int64() if column == 0 else pl.String()
        return pl.Series([row[column] for row in self.rows], dtype=dtype)

    def take(self, places: Any) -> Images:
        return Images(self.index[places], [self.rows[place] for place in places])

    def unknown(self, column: int) -> None:
        return None

    unreadable = unknown


@dataclass(slots=True)
class ListSource:
    """One table with a key and columns of text, and its transactions; the n-th commits at 10 n + 5."""

    ref: TableRef
    transactions: list[list[Change]] = field(default_factory=list)
    identity: SystemIdentity = field(default_factory=lambda: SystemIdentity("lists", 1, INVALID_LSN, "lists"))
    confirmed: Lsn = INVALID_LSN
    oid: int = 1
    estimated_rows: int = -1
    receive_cpu_s: float = 0.0

    @property
    def tables(self) -> list[ListSource]:
        return [self]

    def look(self) -> Self:
        return self

    def verify_tables(self) -> None: ...

    def state(self, transactions: int) -> tuple[list[str], dict[int, tuple[Any, ...]]]:
        """Column names and rows after so many transactions."""
        names, rows = ["id"], dict[int, tuple[Any, ...]]()
        for kind, what in (change for some in self.transactions[:transactions] for change in some):
            if kind == "add":
                names.append(what)
                rows = {key: (*row, None) for key, row in rows.items()}
            elif kind == "truncate":
                rows = {}
            elif kind == "D":
                del rows[what[0]]
            else:
                rows[what[0]] = what
        return names, rows

    def described(self, names: list[str]) -> SourceTable:
        types = [DataType(Kind.INT64), *[DataType(Kind.STRING)] * (len(names) - 1)]
        columns = tuple(ColumnDef(name, type, str(type)) for name, type in zip(names, types, strict=True))
        known = tuple(SourceColumn(name, number, name, name) for number, name in enumerate(names, 1))
        token = TableIdentity(self.oid, "1", {}, len(names), 1, "yes", known, hidden=())
        return SourceTable(self.ref, TableSchema(self.ref, columns, ("id",)), token)

    def describe_tables(self, tables: Collection[TableRef]) -> dict[TableRef, SourceTable]:
        return {self.ref: self.described(self.state(len(self.transactions))[0])}

    def describe(self, oid: int) -> SourceTable:
        return self.describe_tables([self.ref])[self.ref]

    def layouts(self, types: Collection[int]) -> dict[int, str]:
        return {}

    # -- copying: the source is its own snapshot

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None: ...

    def snapshot(self, tables: Collection[TableRef], *, new_slot: bool) -> Self:
        return self

    @property
    def lsn(self) -> Lsn:
        return Lsn(10 * len(self.transactions))

    def rows(self, table: TableRef, *, lenient: bool) -> Iterator[CopiedRows]:
        names, rows = self.state(len(self.transactions))
        images = Images(None, list(rows.values()))
        columns = {value_column(place): images.values(place) for place in range(len(names))}
        yield CopiedRows(pl.DataFrame(columns), {})

    def table(self, table: TableRef) -> SourceTable:
        return self.describe(self.oid)

    def is_unaltered(self, table: TableRef) -> bool:
        return True

    # -- streaming: the source is its own stream

    def bound(self, tables: Collection[TableRef], known: Mapping[TableRef, TableIdentity]) -> Bound:
        return Bound(self.lsn, self.describe_tables(tables), frozenset(tables))

    def stream_end(self, lsn: Lsn, copies: Mapping[TableRef, Lsn]) -> None:
        return None

    def start_replication_from(self, lsn: Lsn, *, table_start: Mapping[TableRef, Lsn], **more: Any) -> ListStream:
        return ListStream(self, max(lsn, table_start[self.ref]) // 10)

    def end_stream(self) -> None: ...


@dataclass(slots=True)
class ListStream:
    """A transaction a part."""

    source: ListSource
    at: int
    receive_cpu_s: float = 0.0

    def next(self, *, rows: int, size: int, timeout: float) -> StreamPart | None:
        source, number = self.source, self.at
        if number == len(source.transactions):
            return StreamPart([], True, source.lsn, 0, 0, None, True)
        self.at += 1
        names, _ = source.state(number)
        events: list[Any] = [self.schema(names, number)]
        for ordinal, (kind, what) in enumerate(source.transactions[number], 1):
            position = SourcePosition(Lsn(10 * number + 5), ordinal, number, EPOCH)
            if kind == "add":
                names = [*names, what]
                events.append(self.schema(names, number))
            elif kind == "truncate":
                events.append(Truncation(source.ref, position))
            else:
                events.append(self.change(kind, what, position, names))
        last = CommittedTransaction(Lsn(10 * number + 5), number, EPOCH)
        return StreamPart(events, True, Lsn(10 * number + 10), 1, len(events), last, False)

    def schema(self, names: list[str], number: int) -> NewSchema:
        schema = self.source.described(names).schema
        described = tuple(DescribedColumn(name, 25) for name in names)
        return NewSchema(schema, Lsn(10 * number + 5), number, self.source.oid, described=described)

    def change(self, kind: str, row: tuple[Any, ...], at: SourcePosition, names: list[str]) -> ChangeBatch:
        one, none = np.zeros(1, dtype=np.int64), np.zeros(0, dtype=np.int64)
        ops, gone = np.array([ord(kind)], dtype=np.uint8), ord(kind) == DELETE
        return ChangeBatch(
            self.source.described(names).schema,
            ops,
            np.array([at.commit_lsn], dtype=np.uint64),
            np.array([at.xid], dtype=np.uint32),
            one + at.ordinal,
            one,
            Images(none, []) if gone else Images(one, [row]),
            Images(one, [(row[0], *[None] * (len(names) - 1))]) if gone else Images(none, []),
            np.ones(1, dtype=np.bool_) if gone else np.zeros(0, dtype=np.bool_),
        )

    def confirm(self, lsn: Lsn) -> None:
        self.source.confirmed = lsn


@dataclass(slots=True)
class ListSink:
    """Rows by key, of tables with a key in mode `mirror`."""

    recorded: Recorded = field(default_factory=Recorded)
    rows: dict[TableRef, dict[Any, tuple[Any, ...]]] = field(default_factory=dict)
    commits: int = 0
    _before: Any = None

    def read(self, slot: str) -> Recorded:
        return self.recorded

    def mark_incomplete(self, slot: str, tables: Collection[TableRef]) -> None:
        assert not tables

    def begin(self) -> None:
        self._before = self.recorded, deepcopy(self.rows)

    def rollback(self) -> None:
        if self._before is not None:
            self.recorded, self.rows = self._before
            self._before = None

    def commit(self, checkpoint: Checkpoint, *, last: bool = False) -> None:
        self.recorded = replace(self.recorded, checkpoint=checkpoint)
        self.commits += 1
        self._before = None

    def interrupt(self) -> None: ...

    def create_table(self, schema: TableSchema, *, snapshot_lsn: Lsn, identity: TableIdentity, **more: Any) -> None:
        self._record(schema, identity, snapshot_lsn)
        self.rows[schema.table] = {}

    def append(self, schema: TableSchema, rows: pl.DataFrame) -> None:
        self.rows[schema.table] |= {row[0]: row for row in rows.rows()}

    def finish_copy(self, schema: TableSchema) -> None: ...

    def apply(self, effect: NetEffect) -> None:
        rows, places = self.rows[effect.schema.table], [value_column(i) for i in range(len(effect.schema.names))]
        if effect.truncated:
            rows.clear()
        if effect.deletes is not None:
            for key in effect.deletes[value_column(0)]:
                del rows[key]
        for frame in (effect.upserts, effect.appends):
            if frame is not None:
                rows |= {row[0]: row for row in frame.select(places).rows()}
        assert not effect.updates, "every value is sent"
        assert not effect.moves, "no key changes"

    def evolve(self, event: SchemaEvent, *, slot: str) -> bool:
        names = list(self.recorded.tables[event.table].schema.names)
        for step, _ in event.steps:
            match step:
                case AddColumn(column):
                    names.append(column.name)
                    self.rows[event.table] = {key: (*row, None) for key, row in self.rows[event.table].items()}
                case DropColumn(name):
                    raise AssertionError(name)
                case RenameColumn(old, new):
                    names[names.index(old)] = new
        assert tuple(names) == event.schema.names
        assert event.identity is not None
        self._record(event.schema, event.identity, self.recorded.tables[event.table].state.snapshot_lsn)
        return True

    def _record(self, schema: TableSchema, identity: TableIdentity, lsn: Lsn | None) -> None:
        state = TableState(schema.table, "streaming", lsn, complete=True)
        tables = {**self.recorded.tables, schema.table: RecordedTable(state, schema, identity)}
        self.recorded = replace(self.recorded, tables=tables)

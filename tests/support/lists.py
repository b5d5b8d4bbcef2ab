"""A source and a sink of lists: what the protocols of `model` ask for at least, and nothing of PostgreSQL or DuckDB."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Self

import numpy as np
import polars as pl

from dbmazz_core.errors import DestinationError
from dbmazz_core.lsn import INVALID_LSN, Lsn
from dbmazz_core.model.batch import DELETE, ChangeBatch
from dbmazz_core.model.checkpoint import Checkpoint, SystemIdentity
from dbmazz_core.model.datatypes import DataType, Kind
from dbmazz_core.model.frame_columns import value_column
from dbmazz_core.model.net_effect import NetEffect
from dbmazz_core.model.policies import Mode
from dbmazz_core.model.recorded import Recorded, RecordedTable
from dbmazz_core.model.records import CommittedTransaction, SourcePosition
from dbmazz_core.model.schema import ColumnDef, TableSchema
from dbmazz_core.model.schema_events import AddColumn, DropColumn, RenameColumn, Reshape, SchemaEvent
from dbmazz_core.model.source import Bound, CopiedRows, FollowedTable, SourceTable
from dbmazz_core.model.stream import NewSchema, StreamFormat, StreamPart, Truncation
from dbmazz_core.model.table_shape import TableShape, TableToken
from dbmazz_core.model.table_state import TableState, TableStatus
from dbmazz_core.table_ref import TableRef

#: A change: `I`, `U` or `D` and a row; `add` and a column's name; `truncate`.
Change = tuple[str, Any]
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Images:
    """Some rows as columns; implements `RowImages`."""

    index: Any
    rows: list[tuple[Any, ...]]
    keep_unreadable: bool = False

    def values(self, column: int) -> pl.Series:
        dtype = pl.Int64() if column == 0 else pl.String()
        return pl.Series([row[column] for row in self.rows], dtype=dtype)

    def take(self, places: Any) -> Images:
        return Images(self.index[places], [self.rows[place] for place in places])

    def unknown(self, column: int) -> None:
        return None

    unreadable = unknown


@dataclass(frozen=True, slots=True)
class ListTable:
    """The table at some time; its token is the names of its columns."""

    table: TableRef
    schema: TableSchema

    @property
    def token(self) -> TableToken:
        return TableToken(json.dumps(self.schema.names))


@dataclass(slots=True)
class ListSource:
    """One table with a key and columns of text, and its transactions; the n-th commits at 10 n + 5."""

    ref: TableRef
    transactions: list[list[Change]] = field(default_factory=list)
    identity: SystemIdentity = field(default_factory=lambda: SystemIdentity("lists", 1, INVALID_LSN, "lists"))
    confirmed: Lsn = INVALID_LSN
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

    def described(self, names: list[str]) -> ListTable:
        types = [DataType(Kind.INT64), *[DataType(Kind.STRING)] * (len(names) - 1)]
        columns = tuple(ColumnDef(name, type, str(type)) for name, type in zip(names, types, strict=True))
        return ListTable(self.ref, TableSchema(self.ref, columns, ("id",)))

    def now(self) -> ListTable:
        return self.described(self.state(len(self.transactions))[0])

    def read_ahead(self, schemas: Sequence[NewSchema]) -> None: ...

    def explain(self, known: TableShape, seen: NewSchema | SourceTable, *, truncated_by: int = 0) -> Reshape:
        before, schema = json.loads(known.token or ""), seen.schema
        steps = tuple(AddColumn(column, None) for column in schema.columns if column.name not in before)
        token = ListTable(self.ref, schema).token
        return Reshape(steps, schema, {name: name for name in schema.names}, token, token)

    def verify_redacted_in(self, table: SourceTable, recorded: Mapping[TableRef, TableToken]) -> None: ...

    # -- copying: the source is its own snapshot

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None: ...

    def snapshot(self, tables: Collection[TableRef], *, new_feed: bool, hurried: bool = False) -> Self:
        return self

    @property
    def lsn(self) -> Lsn:
        return Lsn(10 * len(self.transactions))

    def rows(self, table: TableRef, *, keep_unreadable: bool) -> Iterator[CopiedRows]:
        names, rows = self.state(len(self.transactions))
        images = Images(None, list(rows.values()))
        columns = {value_column(place): images.values(place) for place in range(len(names))}
        yield CopiedRows(pl.DataFrame(columns), {})

    def table(self, table: TableRef) -> ListTable:
        return self.now()

    def resumable(self, table: TableRef) -> None:
        return None

    def altered(self, tables: Collection[TableRef]) -> Collection[TableRef]:
        return ()

    # -- streaming: the source is its own stream

    def bound(self, start: Lsn, followed: Mapping[TableRef, FollowedTable]) -> Bound:
        return Bound(self.lsn, {self.ref: self.now()}, frozenset(followed))

    def is_quiet(self, start: Lsn, bound: Bound) -> bool:
        return False

    def stream(self, start: Lsn, bound: Bound, followed: Mapping[TableRef, FollowedTable], **more: Any) -> ListStream:
        return ListStream(self, max(start, followed[self.ref].start) // 10)

    def end_stream(self) -> None: ...


@dataclass(slots=True)
class ListStream:
    """A transaction a part."""

    source: ListSource
    at: int
    receive_cpu_s: float = 0.0
    touched: frozenset[TableRef] = frozenset()
    format: StreamFormat = field(default_factory=lambda: StreamFormat("a list"))

    def next(self, *, rows: int, size: int, timeout: float, take_gathered: bool = False) -> StreamPart | None:
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
        return NewSchema(self.source.described(names).schema, Lsn(10 * number + 5), number)

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

    def read(self) -> Recorded:
        return self.recorded

    def begin(self) -> ListTransaction:
        return ListTransaction(self, self.recorded, deepcopy(self.rows))

    def release(self) -> None: ...

    def name_warnings(self, tables: Collection[TableRef]) -> list[DestinationError]:
        return []

    def interrupt(self) -> None: ...


@dataclass(slots=True)
class ListTransaction:
    """A copy of the sink's rows, and what is recorded of them, which takes their place at the commit."""

    sink: ListSink
    recorded: Recorded
    rows: dict[TableRef, dict[Any, tuple[Any, ...]]]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None: ...

    def rollback(self) -> None: ...

    def commit(self, checkpoint: Checkpoint | None = None, *, last: bool = False) -> None:
        self.sink.recorded = replace(self.recorded, checkpoint=checkpoint or self.recorded.checkpoint)
        self.sink.rows = self.rows
        self.sink.commits += 1

    def create_table(
        self, shape: TableShape, *, snapshot_lsn: Lsn, mode: Mode, complete: bool, staged: None = None
    ) -> ListLoader:
        self._record(shape, snapshot_lsn)
        self.rows[shape.schema.table] = {}
        return ListLoader(self.rows[shape.schema.table])

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

    def evolve(self, event: SchemaEvent) -> bool:
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
        self._record(event.shape, self.recorded.tables[event.table].state.snapshot_lsn)
        return True

    def _record(self, shape: TableShape, lsn: Lsn | None) -> None:
        table = shape.schema.table
        state = TableState(table, TableStatus.STREAMING, lsn, complete=True)
        tables = {**self.recorded.tables, table: RecordedTable(state, shape)}
        self.recorded = replace(self.recorded, tables=tables)


@dataclass(slots=True)
class ListLoader:
    rows: dict[Any, tuple[Any, ...]]

    def append(self, rows: pl.DataFrame) -> None:
        self.rows |= {row[0]: row for row in rows.rows()}

    def finish(self) -> None: ...

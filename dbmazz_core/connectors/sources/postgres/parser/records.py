"""The stream as single records, made with the plain parser, in the order of the stream."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import polars as pl

from dbmazz_core.connectors.sources.postgres.catalog.table_errors import (
    unidentified_row,
    unsent_toast_value,
)
from dbmazz_core.connectors.sources.postgres.parser import messages as m
from dbmazz_core.connectors.sources.postgres.parser.block import MessageBlock
from dbmazz_core.connectors.sources.postgres.parser.parser import parse, pg_time, require_old_values
from dbmazz_core.connectors.sources.postgres.parser.relations import KnownRelation, Relations
from dbmazz_core.errors import BadValue, ParseError
from dbmazz_core.lsn import INVALID_LSN, Lsn
from dbmazz_core.model.bad_value import bad_value
from dbmazz_core.model.masks import HIDDEN
from dbmazz_core.model.records import (
    UNCHANGED,
    Begin,
    CdcRecord,
    Columns,
    ColumnValue,
    Commit,
    Delete,
    Heartbeat,
    Insert,
    Message,
    SchemaChange,
    SourcePosition,
    Truncate,
    Update,
)
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.model.values import escaped, python_value
from dbmazz_core.table_ref import TableRef

_NO_TRANSACTION = SourcePosition(INVALID_LSN, 0)


@dataclass(slots=True)
class RecordStream:
    """Turns blocks into records. Messages that one iteration leaves unread are kept for the next.

    Attributes:
        relations: Which tables are captured; changes of other tables are left out.
        start_lsn: Transactions committed before this LSN are left out.
        table_start: Later start LSNs, of tables whose snapshot is newer.
    """

    relations: Relations
    start_lsn: Lsn
    table_start: Mapping[TableRef, Lsn]
    _position: SourcePosition = _NO_TRANSACTION
    _skip: bool = False
    _announced_schemas: dict[int, TableSchema] = field(default_factory=dict)
    _unread: deque[tuple[Lsn, memoryview]] = field(default_factory=deque)
    _server_end: Lsn = INVALID_LSN
    _reached: Lsn = INVALID_LSN
    # The relation that the last message described, if it was a Relation message.
    _last_relation: m.Relation | None = None

    def records(self, blocks: Callable[[], MessageBlock | None], until: Lsn | None = None) -> Iterator[CdcRecord]:
        """Yield records as blocks come.

        Args:
            blocks: Returns the next block, or None if none has come yet.
            until: End after all transactions committed before this LSN; None: never end.

        Raises:
            ParseError: A message has a wrong format, an unknown type, or a relation that was not described.
            BadValue: A text is no value of its column's type.
            ConfigError: The rules for columns do not fit a relation.
            ReplicaIdentityInsufficient: An update or delete of a partition does not identify a row.
        """
        while True:
            while self._unread:
                lsn, payload = self._unread[0]
                message = parse(payload, lsn)
                if isinstance(message, m.Begin) and until is not None and message.final_lsn >= until:
                    return
                self._unread.popleft()
                if isinstance(message, m.Commit):
                    self._reached = max(self._reached, message.end_lsn)
                yield from self._records(message, lsn)
            if self._position is _NO_TRANSACTION and self._server_end > self._reached:
                self._reached = self._server_end
                yield Heartbeat(self._server_end)
            if until is not None and self._position is _NO_TRANSACTION and self._reached >= until:
                return
            block = blocks()
            if block is not None:
                self._unread.extend(block)
                self._server_end = block.server_end

    def _records(self, message: m.CdcMessage, lsn: Lsn) -> Iterator[CdcRecord]:
        """Yield the records of a message: one, or none if it is not wanted."""
        described, self._last_relation = self._last_relation, None
        match message:
            case m.Begin(final_lsn, commit_time, xid):
                self._position = SourcePosition(final_lsn, 0, xid, pg_time(commit_time, lsn=lsn))
                self._skip = final_lsn < self.start_lsn
                if not self._skip:
                    yield Begin(self._position)
            case m.Commit():
                position, self._position = self._position, _NO_TRANSACTION
                if not self._skip:
                    yield Commit(position, message.end_lsn)
            case m.Relation():
                _, new = self.relations.learn(message)
                self._last_relation = message
                if self._is_wanted(new):
                    new.verify_rules()
                    # Not `learn`'s old schema, which may be from a transaction that was left out.
                    before = self._announced_schemas.get(message.oid)
                    if before != new.schema:
                        self._announced_schemas[message.oid] = new.schema
                        yield SchemaChange(new.schema.table, before, new.schema, self._position)
            case m.Truncate(oids, cascade, restart):
                self._advance_ordinal()
                tables = tuple(
                    r.schema.table for r in (self._known_relation(oid, lsn) for oid in oids) if self._is_wanted(r)
                )
                if tables:
                    yield Truncate(tables, cascade, restart, self._position)
            case m.Message(transactional, at, prefix, content):
                position = self._position if transactional else replace(_NO_TRANSACTION, commit_lsn=at)
                if not (transactional and self._skip):
                    yield Message(prefix, content, transactional, position)
            case m.Insert() | m.Update() | m.Delete():
                self._advance_ordinal()
                if described is not None:
                    self.relations.detect_partition(described, message.relation_oid)
                known = self._known_relation(message.relation_oid, lsn)
                if self._is_wanted(known):
                    known.verify_rules()
                    yield self._change_record(message, known, lsn)

    def _change_record(self, message: m.Insert | m.Update | m.Delete, known: KnownRelation, lsn: Lsn) -> CdcRecord:
        table, partition = known.schema.table, known.old_tuples.unidentified_partition
        if partition is not None and not isinstance(message, m.Insert):
            raise unidentified_row(table, partition, self._position.commit_lsn, self._position.xid)
        match message:
            case m.Insert():
                wanted = self._captured_values(known, message.new, lsn)
                if any(value is UNCHANGED for value in wanted):
                    raise unsent_toast_value(table, self._position.commit_lsn, self._position.xid)
                return Insert(table, self._columns(known, wanted, lsn), self._position)
            case m.Update():
                old = self._old_columns(known, message, lsn) if message.old else None
                new = self._columns(known, self._captured_values(known, message.new, lsn), lsn)
                return Update(table, old, new, self._position)
            case m.Delete():
                return Delete(table, self._old_columns(known, message, lsn), self._position)

    def _advance_ordinal(self) -> None:
        self._position = replace(self._position, ordinal=self._position.ordinal + 1)

    def _is_wanted(self, known: KnownRelation) -> bool:
        start = self.table_start.get(known.schema.table, INVALID_LSN)
        return known.captured and not self._skip and self._position.commit_lsn >= start

    def _known_relation(self, oid: int, lsn: Lsn) -> KnownRelation:
        known = self.relations.get(oid)
        if known is None:
            raise ParseError(f"relation {oid} was not described before", message_type="?", offset=1, lsn=lsn)
        return known

    def _captured_values(self, known: KnownRelation, values: m.TupleData, lsn: Lsn) -> m.TupleData:
        """Return the values of the captured columns of a tuple."""
        projection = known.projection
        if len(values) != projection.width:
            raise ParseError(
                f"a tuple of {len(values)} columns for {known.schema.table}, which has {projection.width}",
                message_type="?",
                offset=6,
                lsn=lsn,
            )
        return tuple(values[number] for number in projection.numbers)

    def _columns(self, known: KnownRelation, values: m.TupleData, lsn: Lsn) -> dict[str, ColumnValue]:
        found: dict[str, ColumnValue] = {}
        for number, (column, value) in enumerate(zip(known.schema.columns, values, strict=True)):
            if value is None or value is UNCHANGED:
                found[column.name] = value
            elif isinstance(value, bytes):
                found[column.name] = self._value(known, number, value, values)
            else:
                raise ParseError("a binary value, which was not requested", message_type="?", offset=6, lsn=lsn)
        return found

    def _value(self, known: KnownRelation, number: int, raw: bytes, row: m.TupleData) -> ColumnValue:
        masker = known.projection.maskers[number]
        type = known.schema.columns[number].type
        if masker is not None:
            try:
                return masker.text(raw)
            except UnicodeDecodeError:
                raise self._bad_value(known, number, HIDDEN, row) from None
        text = escaped(raw)
        value = python_value(text, type)
        # `python_value` returns text for values that Python cannot hold, which only types with carrier String have.
        if text.encode() != raw or (isinstance(value, str) and type.carrier != pl.String):
            raise self._bad_value(known, number, text, row)
        return value

    def _bad_value(self, known: KnownRelation, number: int, text: str, row: m.TupleData) -> BadValue:
        def value(column: int) -> object:
            raw = row[column]
            return python_value(escaped(raw), known.schema.columns[column].type) if isinstance(raw, bytes) else None

        return bad_value(known.schema, number, text, self._position.commit_lsn, self._position.xid, row=value)

    def _old_columns(self, known: KnownRelation, message: m.Update | m.Delete, lsn: Lsn) -> Columns:
        """Return the old values that were sent: all columns, or those of the key or the replica identity."""
        old = message.old
        assert old is not None
        wanted = self._captured_values(known, old.values, lsn)
        require_old_values(wanted, message, lsn)
        found = self._columns(known, wanted, lsn)
        # The other columns were not sent; their None does not mean NULL.
        if known.old_tuples.key_only:
            return {name: value for name, value in found.items() if name in known.schema.key}
        if isinstance(old, m.OldKey):
            keys = {c.name for c in known.message.columns if c.is_key}
            return {name: value for name, value in found.items() if name in keys}
        return found

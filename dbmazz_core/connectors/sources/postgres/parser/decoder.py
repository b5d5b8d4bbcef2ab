"""The columnar decoder: turns runs of row messages into change batches, without Python code per row.

Each part of a block is decoded in three steps. Control messages (Relation, Truncate) are read one by one with the plain
parser. The row messages of each relation are gathered, and cut into runs where its columns change or where it is
truncated. All tuples of a run are walked together (`walk`), and their values read by column, from text (`tuples`) or
from binary form (`binary_tuples`). Property tests compare the result with the plain
parser's.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import NoReturn, TypeAlias

import numpy as np
import polars as pl

from dbmazz_core.connectors.sources.postgres.catalog.relation_description import (
    DescribedColumn,
    RelationDescription,
)
from dbmazz_core.connectors.sources.postgres.catalog.table_errors import (
    unidentified_row,
    unsent_toast_value,
)
from dbmazz_core.connectors.sources.postgres.octets import Int64s, unaligned
from dbmazz_core.connectors.sources.postgres.parser.binary_tuples import BinaryColumns
from dbmazz_core.connectors.sources.postgres.parser.block import HEADER
from dbmazz_core.connectors.sources.postgres.parser.framing import FramedBlock
from dbmazz_core.connectors.sources.postgres.parser.messages import Insert, Relation, Truncate
from dbmazz_core.connectors.sources.postgres.parser.parser import parse, pg_time, require_old_values
from dbmazz_core.connectors.sources.postgres.parser.relations import KnownRelation, Relations
from dbmazz_core.connectors.sources.postgres.parser.tuples import TupleColumns, message_series
from dbmazz_core.connectors.sources.postgres.parser.walk import (
    BINARY,
    TEXT,
    MalformedTuple,
    Places,
    has_unsent_values,
    walk,
)
from dbmazz_core.errors import ParseError
from dbmazz_core.lsn import INVALID_LSN, Lsn
from dbmazz_core.model.batch import DELETE, INSERT, ChangeBatch, Indexes, UnreadableText
from dbmazz_core.model.records import SourcePosition
from dbmazz_core.model.stream import NewSchema, TableEvent, Truncation
from dbmazz_core.model.unchanged import UNCHANGED
from dbmazz_core.table_ref import TableRef

_RELATION, _TRUNCATE = ord("R"), ord("T")
#: Types of the messages that `framing` has read.
_FRAMING = frozenset(b"BC")
_KEY, _OLD, _NEW = b"KON"

#: By relation OID, the cuts between runs of its row messages: the index of the message at the cut, the description of
#: the rows ahead of the cut, and the event at the cut.
_Cuts: TypeAlias = "dict[int, list[tuple[int, KnownRelation | None, TableEvent | None]]]"


class Decoder:
    """Decodes the framed blocks of one stream and keeps the relations between blocks.

    Args:
        relations: Keeps the Relation messages.
        start_lsn: Changes of transactions committed before this LSN are left out.
        table_start: Later start LSNs, of tables whose snapshot is newer.
    """

    def __init__(
        self,
        relations: Relations,
        *,
        start_lsn: Lsn = INVALID_LSN,
        table_start: Mapping[TableRef, Lsn] | None = None,
    ) -> None:
        self.relations = relations
        self._start = start_lsn
        self._table_start = dict(table_start or {})
        # Past the latest start no commit LSN needs to be compared.
        self._latest_start = max([start_lsn, *self._table_start.values()])
        # The relation that the last message of the block before described, if it was a Relation message.
        self._last_relation: Relation | None = None

    def decode(self, framed: FramedBlock, begin: int, end: int) -> list[TableEvent]:
        """Return the events of messages `begin` to `end` of a block; those of one table are in stream order.

        Raises:
            ParseError: A message has a wrong format, an unknown type, or a relation that was not described.
            ConfigError: The rules for columns do not fit a relation.
            ReplicaIdentityInsufficient: An update or delete of a partition does not identify a row.
            TextNeeded: The values come in binary form, and have to come as text.
        """
        return self.decode_split(framed, begin, end, end)[0]

    def decode_split(
        self, framed: FramedBlock, begin: int, cut: int, end: int
    ) -> tuple[list[TableEvent], list[TableEvent]]:
        """Return the events ahead of message `cut` and those from there on, which are decoded together to save time.

        See `decode` for the arguments and errors.
        """
        types = framed.block.types[begin:end]
        rows = begin + np.flatnonzero(framed.is_row[begin:end])
        control = begin + np.flatnonzero(~framed.is_row[begin:end] & ~np.isin(types, list(_FRAMING)))
        cuts = self._read_control_messages(framed, control, begin) if end > begin else {}
        ahead: list[TableEvent] = []
        behind: list[TableEvent] = []
        # Byte1 type, Int32 relation OID
        short = framed.block.ends[rows] - framed.block.starts[rows] < HEADER + 5
        if short.any():
            _raise_parse_error(framed, rows[short], None)
        oids = unaligned(framed.block.buffer, ">u4")[framed.block.starts[rows] + HEADER + 1]
        messages = message_series(framed.block) if len(rows) else pl.Series(dtype=pl.Binary)
        for oid in dict.fromkeys([*cuts, *np.unique(oids).tolist()]):
            of_relation = rows[oids == oid]
            runs, position = [], 0
            for index, known, event in cuts.get(oid, []):
                place = int(np.searchsorted(of_relation, index))
                runs.append((of_relation[position:place], known, index, event))
                position = place
            runs.append((of_relation[position:], self.relations.get(oid), end, None))
            for run, known, index, event in runs:
                found = self._decode_rows(framed, messages, run, oid, known)
                if found is not None:
                    batch, numbers = found
                    at = int(np.searchsorted(numbers, cut))
                    ahead += [_slice_batch(batch, 0, at)] if at else []
                    behind += [_slice_batch(batch, at, len(batch))] if at < len(batch) else []
                if event is not None:
                    (ahead if index < cut else behind).append(event)
        return ahead, behind

    def _read_control_messages(self, framed: FramedBlock, control: Int64s, begin: int) -> _Cuts:
        """Read Relation and Truncate messages; return where they cut the runs of row messages.

        All other messages are parsed too, so that a row message with a damaged type byte is not skipped. Type and
        Origin are not used, logical messages are for `records()`, and 'A' is `messages.StreamAbort`.
        """
        cuts: _Cuts = {}
        if self._last_relation is not None:
            self._detect_partition(framed, self._last_relation, begin, cuts)
            self._last_relation = None
        for index in control.tolist():
            wal_start, payload = framed.block.message(index)
            message = parse(payload, wal_start)
            number = int(framed.transaction[index])
            commit_lsn, xid = Lsn(int(framed.commit_lsn[number])), int(framed.xid[number])
            if isinstance(message, Relation):
                # Equal messages make an event too: the server repeats a Relation after changes that it does not show.
                old, new = self.relations.learn(message)
                wanted = self._is_wanted(new, commit_lsn)
                if wanted:
                    new.verify_rules()
                event = _schema_event(new, commit_lsn, xid) if wanted else None
                cuts.setdefault(message.oid, []).append((index, old, event))
                if index + 1 == len(framed.block):
                    self._last_relation = message
                else:
                    self._detect_partition(framed, message, index + 1, cuts)
            elif isinstance(message, Truncate):
                for oid in message.relation_oids:
                    known = self._known_relation(oid, wal_start, "T")
                    if self._is_wanted(known, commit_lsn):
                        position = _source_position(framed, index)
                        cuts.setdefault(oid, []).append((index, known, Truncation(known.schema.table, position)))
        return cuts

    def _detect_partition(self, framed: FramedBlock, described: Relation, index: int, cuts: _Cuts) -> None:
        """Read the message behind a Relation message. A row of another relation shows that this one is a partition."""
        block = framed.block
        if not framed.is_row[index] or block.ends[index] - block.starts[index] < HEADER + 5:
            return
        oid = int(unaligned(block.buffer, ">u4")[block.starts[index] + HEADER + 1])
        found = self.relations.detect_partition(described, oid)
        if found is None:
            return
        number = int(framed.transaction[index])
        commit_lsn, xid = Lsn(int(framed.commit_lsn[number])), int(framed.xid[number])
        event: TableEvent | None = None
        if found.is_new and self._is_wanted(found.root, commit_lsn):
            event = _schema_event(found.root, commit_lsn, xid, partition=described.oid)
        cuts.setdefault(oid, []).append((index, found.root_before, event))
        if self._is_wanted(found.partition, commit_lsn):
            event = _schema_event(found.partition, commit_lsn, xid, root=found.root.schema.table)
            cuts.setdefault(described.oid, []).append((index, found.partition, event))

    def _is_wanted(self, known: KnownRelation, commit_lsn: Lsn) -> bool:
        start = max(self._start, self._table_start.get(known.schema.table, INVALID_LSN))
        return known.captured and commit_lsn >= start

    def _known_relation(self, oid: int, lsn: Lsn, message_type: str) -> KnownRelation:
        known = self.relations.get(oid)
        if known is None:
            raise _undescribed_relation(oid, lsn, message_type)
        return known

    def _decode_rows(
        self,
        framed: FramedBlock,
        messages: pl.Series,
        rows: Int64s,
        oid: int,
        known: KnownRelation | None,
    ) -> tuple[ChangeBatch, Int64s] | None:
        """Decode a run of row messages; return its batch and the indexes of its messages, or None if none is wanted."""
        if not len(rows):
            return None
        if known is None:
            raise _undescribed_relation(oid, framed.block.message(int(rows[0]))[0], chr(framed.block.types[rows[0]]))
        if not known.captured:
            return None
        if framed.commit_lsn[framed.transaction[rows[0]]] < self._latest_start:
            start = max(self._start, self._table_start.get(known.schema.table, INVALID_LSN))
            rows = rows[framed.commit_lsn[framed.transaction[rows]] >= start]
            if not len(rows):
                return None
        known.verify_rules()
        known.verify_form()
        try:
            return _build_batch(framed, messages, rows, known), rows
        except MalformedTuple:
            _raise_parse_error(framed, rows, known)


def _schema_event(
    known: KnownRelation, commit_lsn: Lsn, xid: int, *, partition: int = 0, root: TableRef | None = None
) -> NewSchema:
    columns = tuple(DescribedColumn(column.name, column.type_oid) for column in known.message.columns)
    description = RelationDescription(known.message.oid, columns, partition, root, known.key_in_doubt)
    return NewSchema(known.schema, commit_lsn, xid, description)


def _source_position(framed: FramedBlock, index: int) -> SourcePosition:
    number = int(framed.transaction[index])
    commit_time = pg_time(int(framed.commit_time[number]), lsn=framed.block.message(index)[0])
    commit_lsn, xid = Lsn(int(framed.commit_lsn[number])), int(framed.xid[number])
    return SourcePosition(commit_lsn, int(framed.ordinal[index]), xid, commit_time)


def _undescribed_relation(oid: int, lsn: Lsn, message_type: str) -> ParseError:
    return ParseError(f"relation {oid} was not described before", message_type=message_type, offset=1, lsn=lsn)


def _build_batch(framed: FramedBlock, messages: pl.Series, rows: Int64s, known: KnownRelation) -> ChangeBatch:
    """Make the change batch of a run of row messages, whose old and new tuples are walked together."""
    block, schema = framed.block, known.schema
    octets = block.bytes
    ops = block.types[rows]
    partition = known.old_tuples.unidentified_partition
    if partition is not None and (found := ops != INSERT).any():
        raise unidentified_row(schema.table, partition, *_transaction(framed, int(rows[found.argmax()])))
    # Byte1 type, Int32 relation OID, then 'N' new tuple, or 'K' / 'O' old tuple (and 'N' new tuple, for an update)
    marker_at = block.starts[rows] + HEADER + 5
    if (marker_at >= block.ends[rows]).any():
        raise MalformedTuple
    marker = octets[marker_at]
    has_old = (marker == _KEY) | (marker == _OLD)
    if ((marker != _NEW) & ~has_old).any() or (has_old & (ops == INSERT)).any() or (~has_old & (ops == DELETE)).any():
        raise MalformedTuple

    width, numbers = known.projection.width, known.projection.numbers
    form = TEXT if known.decoders is None else BINARY
    old_index = np.flatnonzero(has_old)
    old_places, old_end = walk(block, rows[old_index], marker_at[old_index] + 1, width, numbers, form)
    new_at = marker_at.copy()
    new_at[old_index] = old_end
    new_index = np.flatnonzero(ops != DELETE)
    new_rows, new_at = rows[new_index], new_at[new_index]
    if (new_at >= block.ends[new_rows]).any() or (octets[new_at] != _NEW).any():
        raise MalformedTuple
    new_places, new_end = walk(block, new_rows, new_at + 1, width, numbers, form)
    deleted = ops[old_index] == DELETE
    if (new_end != block.ends[new_rows]).any() or (old_end != block.ends[rows[old_index]])[deleted].any():
        raise MalformedTuple
    if has_unsent_values(old_places) or has_unsent_values(new_places, ops[new_index] == INSERT):
        # Only new tuples of updates lack values. `_raise_parse_error` handles the exception from this rule.
        raise MalformedTuple
    new = _images(framed, messages, new_rows, known, new_index, new_places)
    old = _images(framed, messages, rows[old_index], known, old_index, old_places)

    transaction = framed.transaction[rows]
    batch = ChangeBatch(
        schema=schema,
        ops=ops,
        commit_lsn=framed.commit_lsn[transaction],
        xid=framed.xid[transaction],
        ordinal=framed.ordinal[rows],
        commit_time=framed.commit_time[transaction],
        new=new,
        old=old,
        old_is_key=(marker[old_index] == _KEY) | known.old_tuples.key_only,
        is_typed=known.decoders is not None,
    )
    # Read the values now, while the block is in the processor's cache. Of old images mostly the key alone is used. The
    # error of a bad value is raised again when its column is used, which a table that is re-snapshotted never is.
    for images, wanted in ((new, range(len(schema.columns))), (old, [schema.names.index(name) for name in schema.key])):
        with suppress(UnreadableText):
            images.materialize(wanted)
    return batch


def _images(
    framed: FramedBlock,
    messages: pl.Series,
    rows: Int64s,
    known: KnownRelation,
    index: Indexes,
    places: list[Places],
) -> TupleColumns | BinaryColumns:
    """Return the row images of tuples that were walked, one in each message of `rows`."""
    starts = framed.block.starts[rows]
    if known.decoders is not None:
        return BinaryColumns(index, framed.block.bytes, starts, known.schema, known.decoders, places)
    types = tuple(column.type for column in known.schema.columns)
    if len(rows) == 1:
        chosen = messages.slice(int(rows[0]), 1)  # `gather` of a single one copies it
    else:
        chosen = messages.gather(pl.Series(rows)) if len(rows) else messages.clear()
    return TupleColumns(
        index,
        framed.block.bytes,
        chosen,
        starts,
        types,
        known.projection.maskers,
        places,
        known.keep_unreadable,
    )


def _transaction(framed: FramedBlock, index: int) -> tuple[Lsn, int]:
    """Return commit LSN and id of a message's transaction."""
    number = framed.transaction[index]
    return Lsn(int(framed.commit_lsn[number])), int(framed.xid[number])


def _slice_batch(batch: ChangeBatch, first: int, stop: int) -> ChangeBatch:
    """Return consecutive changes of a batch that `_build_batch` made; they share its memory."""
    if (first, stop) == (0, len(batch)):
        return batch
    assert isinstance(batch.new, TupleColumns | BinaryColumns)
    assert isinstance(batch.old, TupleColumns | BinaryColumns)
    old_first, old_stop = np.searchsorted(batch.old.index, [first, stop])
    return replace(
        batch,
        ops=batch.ops[first:stop],
        commit_lsn=batch.commit_lsn[first:stop],
        xid=batch.xid[first:stop],
        ordinal=batch.ordinal[first:stop],
        commit_time=batch.commit_time[first:stop],
        new=batch.new.slice_rows(first, stop),
        old=batch.old.slice_rows(first, stop),
        old_is_key=batch.old_is_key[old_first:old_stop],
    )


def _raise_parse_error(framed: FramedBlock, rows: Int64s, known: KnownRelation | None) -> NoReturn:
    """Find the malformed message with the plain parser and raise its error, which tells what is wrong and where."""
    columns = known.projection.width if known else 0
    for index in rows.tolist():
        lsn, payload = framed.block.message(index)
        message = parse(payload, lsn)
        for image in (getattr(message, "old", None), getattr(message, "new", None)):
            values = getattr(image, "values", image)
            if values is not None and len(values) != columns:
                raise ParseError(
                    f"a tuple of {len(values)} columns, but its relation has {columns}",
                    message_type=chr(framed.block.types[index]),
                    offset=6,
                    lsn=lsn,
                )
        old = getattr(message, "old", None)
        require_old_values(old.values if old else (), message, lsn)
        if known and isinstance(message, Insert) and any(message.new[n] is UNCHANGED for n in known.projection.numbers):
            raise unsent_toast_value(known.schema.table, *_transaction(framed, index))
    raise ParseError("the columnar decoder cannot read it", message_type="?", offset=0, lsn=INVALID_LSN)

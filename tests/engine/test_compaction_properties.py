"""Compaction against a model: whatever valid changes come, in whatever batches, the table is what PostgreSQL has.

The model writes what PostgreSQL would send: an update leaves out values stored out of line that it did not change, the
old key comes where the key changed, the whole old row under REPLICA IDENTITY FULL.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbmazz_core.connectors.sinks.duckdb import DuckDBSink
from dbmazz_core.connectors.sources.postgres.parser.block import MessageBlock
from dbmazz_core.connectors.sources.postgres.parser.decoder import Decoder
from dbmazz_core.connectors.sources.postgres.parser.framing import frame
from dbmazz_core.connectors.sources.postgres.parser.messages import Relation, RelationColumn
from dbmazz_core.connectors.sources.postgres.parser.relations import Relations
from dbmazz_core.engine.apply_events import EventApplier
from dbmazz_core.engine.result import WindowResult
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.checkpoint import Checkpoint
from dbmazz_core.model.policies import Mode
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.model.stream import NewSchema, TableEvent
from dbmazz_core.model.table_shape import TableShape
from dbmazz_core.model.unchanged import UNCHANGED
from dbmazz_core.settings.config import SinkConfig
from dbmazz_core.table_ref import TableRef
from tests.support import pgoutput_encoder as encode
from tests.support.examples import examples
from tests.support.fold import fold

TABLE = TableRef("public", "t")
OID, INT, TEXT = 77, 23, 25
Row = tuple[bytes | None, ...]


@dataclass(frozen=True, slots=True)
class Shape:
    """A kind of table: the types of its key columns; behind them come `n` and two texts that may be out of line."""

    key: tuple[int, ...]
    identity: str
    #: Whether the key identifies rows; otherwise they are a multiset.
    keyed: bool = True

    @property
    def types(self) -> tuple[int, ...]:
        return (*self.key, INT, TEXT, TEXT)

    @property
    def names(self) -> list[str]:
        return [f"c{number}" for number in range(len(self.types))]

    @property
    def key_names(self) -> tuple[str, ...]:
        return tuple(self.names[: len(self.key)]) if self.keyed else ()

    @property
    def relation(self) -> Relation:
        columns = tuple(
            RelationColumn(self.identity == "f" or name in self.key_names, name, oid, -1)
            for name, oid in zip(self.names, self.types, strict=True)
        )
        return Relation(OID, TABLE.schema, TABLE.name, self.identity, columns)  # type: ignore[arg-type]

    def relations(self) -> Relations:
        return Relations(captured=lambda _: True, keys={TABLE: self.key_names})

    @property
    def schema(self) -> TableSchema:
        return self.relations().learn(self.relation)[1].schema

    @property
    def description(self) -> bytes:
        listed = [(c.is_key, c.name, c.type_oid, c.type_modifier) for c in self.relation.columns]
        return encode.relation(OID, TABLE.schema, TABLE.name, self.identity, listed)


SHAPES = [
    Shape((INT,), "d"),
    Shape((INT,), "f"),
    Shape((TEXT,), "d"),
    Shape((INT, TEXT), "d"),
    Shape((TEXT, INT), "f"),
    Shape((INT,), "f", keyed=False),
]


def is_out_of_line(value: bytes | None) -> bool:
    return value is not None and value.startswith(b"big")


@dataclass(slots=True)
class Model:
    """A PostgreSQL table and the changes that it sends.

    Attributes:
        rows: What is in it.
        gone: By key that is not in it any more: the last row that was.
    """

    shape: Shape
    rows: list[Row] = field(default_factory=list)
    gone: dict[Row, Row] = field(default_factory=dict)
    changes: list[bytes] = field(default_factory=list)

    def key(self, row: Row) -> Row:
        return row[: len(self.shape.key)]

    def takes(self, row: Row) -> bool:
        """Whether the key is free."""
        return not self.shape.keyed or all(self.key(row) != self.key(other) for other in self.rows)

    def insert(self, row: Row) -> None:
        if self.takes(row):
            self.rows.append(row)
            self.gone.pop(self.key(row), None)
            self.changes.append(encode.insert(OID, row))

    def delete(self, at: int) -> None:
        if self.rows:
            old = self.rows.pop(at % len(self.rows))
            self.gone[self.key(old)] = old
            self.changes.append(encode.delete(OID, **self.old(old, sent_by="delete")))

    def update(self, at: int, wanted: Row, changed: Sequence[bool]) -> None:
        if not self.rows:
            return
        place = at % len(self.rows)
        old = self.rows[place]
        new = tuple(w if c else o for w, o, c in zip(wanted, old, changed, strict=True))
        if self.key(new) != self.key(old) and not self.takes(new):
            return
        self.rows[place] = new
        self.gone[self.key(old)] = old
        self.gone.pop(self.key(new), None)
        sent = [UNCHANGED if n == o and is_out_of_line(n) else n for n, o in zip(new, old, strict=True)]
        moved = "key" if self.key(new) != self.key(old) else "update"
        self.changes.append(encode.update(OID, sent, **self.old(old, sent_by=moved)))

    def truncate(self) -> None:
        self.gone |= {self.key(row): row for row in self.rows}
        self.rows.clear()
        self.changes.append(encode.truncate([OID]))

    def old(self, row: Row, *, sent_by: str) -> dict[str, encode.Row]:
        if self.shape.identity == "f":
            return {"old": row}
        if sent_by == "update":
            return {}
        return {"key": [*self.key(row), *[None] * (len(row) - len(self.shape.key))]}


@st.composite
def rows(draw: st.DrawFn, shape: Shape) -> Row:
    few = st.integers(-2, 6).map(lambda i: str(i).encode())
    key = [draw(few) for _ in shape.key]
    if not shape.keyed:
        key = [draw(st.none() | few)]
    texts = [draw(st.sampled_from([None, b"", b"x", b"big 1", b"big 2", b"big 3"])) for _ in range(2)]
    return (*key, draw(st.none() | few), *texts)


@st.composite
def steps(draw: st.DrawFn, model: Model) -> None:
    match draw(st.sampled_from(["insert"] * 4 + ["update"] * 8 + ["delete"] * 3 + ["truncate"])):
        case "insert":
            model.insert(draw(rows(model.shape)))
        case "update":
            moves = draw(st.sampled_from([False, False, True]))
            width = len(model.shape.types)
            changed = [moves] * len(model.shape.key) + draw(
                st.lists(st.booleans(), min_size=width - len(model.shape.key), max_size=width - len(model.shape.key))
            )
            model.update(draw(st.integers(0, 9)), draw(rows(model.shape)), changed)
        case "delete":
            model.delete(draw(st.integers(0, 9)))
        case _:
            model.truncate()


def batches(shape: Shape, changes: list[bytes], cuts: list[int], lsn: int) -> list[TableEvent]:
    """The changes as the decoder gives them, in several batches."""
    decoder, found, open_transaction = Decoder(shape.relations()), [], None
    bounds = sorted({0, len(changes), *(cut % (len(changes) + 1) for cut in cuts)})
    parts = [changes[a:b] for a, b in itertools.pairwise(bounds)]
    parts[0] = [encode.begin(lsn, 0, 1), shape.description, *parts[0]]
    for part in parts:
        framed = frame(MessageBlock.join([encode.xlogdata(lsn, lsn, payload) for payload in part]), open_transaction)
        open_transaction = framed.open
        found += decoder.decode(framed, 0, len(framed.block))
    return found


@dataclass(slots=True)
class Destination:
    sink: DuckDBSink
    path: Path

    def create(self, shape: Shape, mode: Mode) -> None:
        with self.sink.begin() as transaction:
            # Made in another mode first, so that no history is carried over.
            for made in (Mode.SOFT_DELETE if mode is Mode.MIRROR else Mode.MIRROR, mode):
                table = TableShape.of(shape.schema, None)
                transaction.create_table(table, snapshot_lsn=Lsn(1), mode=made, complete=True)
            transaction.commit(checkpoint_at(1))

    def apply(self, shape: Shape, mode: Mode, events: list[TableEvent], lsn: int) -> None:
        """One flush."""
        result = WindowResult(Lsn(lsn), Lsn(lsn), Lsn(lsn), phases={"compact": 0.0, "merge": 0.0})
        applier = EventApplier({TABLE: shape.schema}, {TABLE: mode}, None, result)
        with self.sink.begin() as transaction:
            applier.apply([event for event in events if not isinstance(event, NewSchema)], transaction)
            transaction.commit(checkpoint_at(lsn))

    def rows(self, shape: Shape, mode: Mode, where: str = "NOT _dbmazz_deleted") -> Counter[Row]:
        with duckdb.connect(str(self.path)) as connection:
            if mode is Mode.CHANGELOG:
                _, rows = fold(connection, "public.t", shape.key_names)
            else:
                values = ", ".join(f"c{i}::VARCHAR" for i in range(len(shape.types)))
                where = f"WHERE {where}" if mode is Mode.SOFT_DELETE else ""
                rows = connection.execute(f"SELECT {values} FROM public.t {where}").fetchall()
            return Counter(tuple(None if v is None else v.encode() for v in row) for row in rows)


@pytest.fixture(scope="module")
def destination(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Destination]:
    path = tmp_path_factory.mktemp("compact") / "destination.duckdb"
    with DuckDBSink(SinkConfig(url=str(path)), feed="s") as sink:
        yield Destination(sink, path)


@examples(60)
@given(st.sampled_from(SHAPES), st.sampled_from(Mode), st.data())
def test_any_changes_in_any_batches_leave_what_the_source_has(
    destination: Destination, shape: Shape, mode: Mode, data: st.DataObject
) -> None:
    """In every mode; and since the tables are complete, every change finds its row."""
    model = Model(shape)
    destination.create(shape, mode)
    for flush in range(data.draw(st.integers(1, 4), label="flushes")):
        model.changes.clear()
        for _ in range(data.draw(st.integers(0, 25), label="changes")):
            data.draw(steps(model))
        if model.changes:
            cuts = data.draw(st.lists(st.integers(0, 30), max_size=4))
            destination.apply(shape, mode, batches(shape, model.changes, cuts, lsn=10 + flush), lsn=10 + flush)
    assert destination.rows(shape, mode) == Counter(model.rows)
    if mode is Mode.SOFT_DELETE and shape.keyed:
        # The last values of what went, wherever flushes ended.
        assert destination.rows(shape, mode, "_dbmazz_deleted") == Counter(model.gone.values())


def checkpoint_at(lsn: int) -> Checkpoint:
    return Checkpoint("s", Lsn(lsn), "1", 1, "d")

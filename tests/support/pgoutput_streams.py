"""Generated pgoutput streams, for property tests: schemas, transactions, and the blocks that they come in.

What a server could send, and more: any mix of types, NULLs and values that were not sent, tables interleaved,
described again and changed in the middle of a transaction.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import date, datetime, time
from typing import Any

import numpy as np
from hypothesis import strategies as st

from dbmazz_core.connectors.sources.postgres.parser.block import MessageBlock
from dbmazz_core.lsn import INVALID_LSN, Lsn
from dbmazz_core.model.unchanged import UNCHANGED
from dbmazz_core.table_ref import TableRef
from tests.support import pgoutput_encoder as encode

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
long_texts = st.sampled_from(["ä" * 5000, "x" * 70_000])


def _integers(bits: int) -> st.SearchStrategy[str]:
    return st.integers(-(1 << bits - 1), (1 << bits - 1) - 1).map(str)


def _fraction(moment: str) -> str:
    """As PostgreSQL writes it: without zeros at the end."""
    return moment.rstrip("0") if "." in moment else moment


_float4 = st.floats(width=32, allow_nan=False, allow_infinity=False).map(lambda f: str(np.float32(f)))
_float8 = st.floats(allow_nan=False, allow_infinity=False).map(repr)
_endless = st.sampled_from(["NaN", "Infinity", "-Infinity", "-0", "0"])
_times = st.times().map(lambda t: _fraction(t.isoformat())) | st.sampled_from(["24:00:00", "00:00:00"])
_dates = st.dates().map(date.isoformat) | st.sampled_from(["infinity", "-infinity", "0044-03-15 BC", "12026-01-01"])
_timestamps = st.datetimes().map(lambda t: _fraction(datetime.isoformat(t, " "))) | st.sampled_from(
    ["infinity", "-infinity", "0044-03-15 12:00:00 BC", "294276-12-31 23:59:59.999999"]
)
_timestamptz = st.datetimes().map(lambda t: _fraction(datetime.isoformat(t, " ")) + "+00") | st.sampled_from(
    ["infinity", "-infinity", "0044-03-15 12:00:00+00 BC"]
)
assert time(1, 2, 3, 500_000).isoformat() == "01:02:03.500000"


def _quoted(text: str) -> str:
    """As an element of an array's text."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


#: (type OID, type modifier): texts of its values. `money` stands for all types that arrive as their text.
TYPES: dict[tuple[int, int], st.SearchStrategy[str]] = {
    (16, -1): st.sampled_from(["t", "f"]),
    (17, -1): st.binary(max_size=20).map(lambda b: "\\x" + b.hex()),
    (20, -1): _integers(64),
    (21, -1): _integers(16),
    (23, -1): _integers(32),
    (25, -1): texts | long_texts,
    (114, -1): st.sampled_from(['{"a": 1}', " [1,\t2 ] ", "null", '"ü"']),
    (700, -1): _float4 | _endless,
    (701, -1): _float8 | _endless,
    (1042, 10 + 4): texts,
    (1043, 20 + 4): texts,
    (1082, -1): _dates,
    (1083, -1): _times,
    (1114, -1): _timestamps,
    (1184, -1): _timestamptz,
    (1700, -1): st.decimals(allow_nan=False, allow_infinity=False).map(str) | st.sampled_from(["NaN", "Infinity"]),
    (1700, ((12 << 16) | 2) + 4): st.decimals("-9999999999", "9999999999", places=2).map(str) | st.just("NaN"),
    (1266, -1): st.sampled_from(["24:00:00+15:59:59", "12:00:00.5-03", "00:00:00+00"]),
    (1186, -1): st.sampled_from(["1 year 2 mons -3 days +04:05:06.7", "-00:00:00.1", "1 day", "-1 days -01:00:00"]),
    (26, -1): st.integers(0, (1 << 32) - 1).map(str),
    (1007, -1): st.lists(_integers(32) | st.just("NULL"), max_size=4).map(lambda one: f"{{{','.join(one)}}}")
    | st.just("[2:3]={1,2}"),
    (1009, -1): st.lists(texts.map(_quoted) | st.just("NULL"), max_size=4).map(lambda one: f"{{{','.join(one)}}}"),
    (1182, -1): st.sampled_from(['{infinity,"0044-03-15 BC",2024-02-29}', "{}", "{NULL}"]),
    (790, -1): st.sampled_from(["$1.00", "-$2.50"]),
    (2950, -1): st.uuids().map(str),
    (3802, -1): st.sampled_from(['{"a": [1, 2]}', "{}", "null"]),
}

columns = st.tuples(st.booleans(), st.sampled_from(sorted(TYPES)))


@dataclass(frozen=True, slots=True)
class Table:
    """A relation as it is described now. `columns`: (is key, name, (type OID, type modifier))."""

    oid: int
    identity: str
    columns: tuple[tuple[bool, str, tuple[int, int]], ...]

    @property
    def ref(self) -> TableRef:
        return TableRef("public", f"t{self.oid}")

    @property
    def description(self) -> bytes:
        described = [(is_key or self.identity == "f", name, *kind) for is_key, name, kind in self.columns]
        return encode.relation(self.oid, "public", f"t{self.oid}", self.identity, described)


@dataclass(slots=True)
class Stream:
    """Messages in stream order, with the position of each.

    Attributes:
        tables: The first is not captured.
        end: Behind the last COMMIT.
    """

    tables: list[Table]
    messages: list[bytes] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    end: Lsn = INVALID_LSN

    def add(self, position: int, payload: bytes) -> None:
        self.positions.append(position)
        self.messages.append(payload)

    def blocks(self, sizes: list[int]) -> list[MessageBlock]:
        """The messages in blocks of these sizes, the last of all that are left."""
        raw = [encode.xlogdata(at, at, payload) for at, payload in zip(self.positions, self.messages, strict=True)]
        blocks, start = [], 0
        for size in [*sizes, len(raw)]:
            blocks.append(MessageBlock.join(raw[start : start + size]))
            start += size
        return blocks


@st.composite
def tables(draw: st.DrawFn, oid: int) -> Table:
    shape = draw(st.lists(columns, min_size=1, max_size=8))
    named = [(is_key, f"c{number}", kind) for number, (is_key, kind) in enumerate(shape)]
    return Table(oid, draw(st.sampled_from("ddfni")), _with_a_key(named))


def _with_a_key(named: list[tuple[bool, str, tuple[int, int]]]) -> tuple[tuple[bool, str, tuple[int, int]], ...]:
    if not any(is_key for is_key, _, _ in named):
        named[0] = (True, *named[0][1:])
    return tuple(named)


@st.composite
def changed(draw: st.DrawFn, table: Table) -> Table:
    """The table after ALTER TABLE: another column, another type, another identity, or just described again."""
    kind = draw(st.sampled_from(sorted(TYPES)))
    match draw(st.sampled_from(["again", "again", "add", "type", "identity"])):
        case "add":
            return replace(table, columns=(*table.columns, (False, f"c{len(table.columns)}", kind)))
        case "type":
            return replace(table, columns=(*table.columns[:-1], (*table.columns[-1][:2], kind)))
        case "identity":
            return replace(table, identity=draw(st.sampled_from("dfni")))
        case _:
            return table


@st.composite
def rows(draw: st.DrawFn, table: Table, *, unchanged: bool = False, key_only: bool = False) -> list[encode.Value]:
    row: list[encode.Value] = []
    for is_key, _, kind in table.columns:
        if key_only and not is_key:
            row.append(None)
            continue
        choices: list[st.SearchStrategy[Any]] = [TYPES[kind].map(str.encode)]
        if not (key_only and is_key):
            choices.append(st.none())
        if unchanged:
            choices.append(st.just(UNCHANGED))
        row.append(draw(st.one_of(choices)))
    return row


@st.composite
def changes(draw: st.DrawFn, table: Table) -> bytes:
    oid, has_identity = table.oid, table.identity != "n"
    match draw(st.sampled_from("IIUUD" if has_identity else "I")):
        case "I":
            return encode.insert(oid, draw(rows(table)))
        case "U":
            new = draw(rows(table, unchanged=True))
            if table.identity == "f":
                return encode.update(oid, new, old=draw(rows(table)))
            key = draw(st.none() | rows(table, key_only=True))
            return encode.update(oid, new, key=key)
        case _:
            if table.identity == "f":
                return encode.delete(oid, old=draw(rows(table)))
            return encode.delete(oid, key=draw(rows(table, key_only=True)))


@st.composite
def streams(draw: st.DrawFn, max_transactions: int = 5, max_changes: int = 8) -> Stream:
    now = [draw(tables(oid)) for oid in range(1, draw(st.integers(2, 4)))]
    stream = Stream(list(now))
    described: set[int] = set()
    lsn = 1000
    for xid in range(1, 1 + draw(st.integers(1, max_transactions))):
        if draw(st.integers(0, 9)) == 0:
            stream.add(0, encode.stream_abort(xid, xid + 1))
        if draw(st.integers(0, 9)) == 0:
            stream.add(lsn, encode.message("outside", b"", lsn, transactional=False))
        payloads: list[bytes] = []
        for _ in range(draw(st.integers(0, max_changes))):
            number = draw(st.integers(0, len(now) - 1))
            match draw(st.sampled_from(["change"] * 8 + ["relation", "truncate", "message"])):
                case "relation":
                    now[number] = draw(changed(now[number]))
                    described.discard(number)
                case "truncate" if described:
                    oids = draw(st.lists(st.sampled_from(sorted(described)), min_size=1, unique=True))
                    payloads.append(encode.truncate([now[n].oid for n in oids], cascade=draw(st.booleans())))
                    continue
                case "message":
                    payloads.append(encode.message("app", b"x"))
                    continue
            if number not in described:
                payloads.append(now[number].description)
                described.add(number)
            payloads.append(draw(changes(now[number])))
        # The end of one COMMIT is where the next transaction's may begin; changes lie anywhere before.
        commit = lsn + draw(st.integers(0, 100))
        lsn = commit + draw(st.integers(1, 50))
        when = draw(st.integers(0, 1 << 50))
        stream.add(0, encode.begin(commit, when, xid))
        for payload in payloads:
            stream.add(0 if payload[:1] == b"R" else commit - 1, payload)
        stream.add(commit, encode.commit(commit, lsn, when))
    stream.end = Lsn(lsn)
    return stream

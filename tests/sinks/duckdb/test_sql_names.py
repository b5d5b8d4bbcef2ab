"""Columns, tables and schemas named like what dbmazz's own SQL names: no statement takes one for the other."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import duckdb
import pytest

from dbmazz_core.connectors.sinks.duckdb_sql.names import fold
from dbmazz_core.errors import BadValue, DestinationConflict
from dbmazz_core.model.policies import BadValuePolicy, Mode
from dbmazz_core.settings.by_table import ByTable
from dbmazz_core.settings.config import SnapshotConfig, TableConfig
from dbmazz_core.settings.tables import TablePattern
from dbmazz_core.table_ref import ColumnRef, TableRef, quote_identifier
from tests.support.fold import folded
from tests.support.lab import MARKS, Lab, toast
from tests.support.oracle import assert_equal
from tests.support.statement_log import identifiers, names_of_duckdb, recorded, words

ROW_MODES = pytest.mark.parametrize("mode", [Mode.MIRROR, Mode.SOFT_DELETE])


def kept(lab: Lab, mode: Mode, *, copied: bool = True, quarantine: bool = False) -> Lab:
    policy = ByTable(BadValuePolicy.QUARANTINE if quarantine else BadValuePolicy.ERROR)
    return lab.configured(
        tables=TableConfig(mode=ByTable(mode), on_bad_value=policy), snapshot=SnapshotConfig(enabled=copied)
    )


@pytest.mark.each_value
@ROW_MODES
@pytest.mark.parametrize("name", ["rowid", "ROWID"])
def test_a_column_rowid_with_few_values_and_with_none(lab: Lab, mode: Mode, name: str) -> None:
    lab = kept(lab, mode)
    lab.execute(f"""CREATE TABLE t ("{name}" int, note text); INSERT INTO t VALUES (7, 'a'), (7, 'b'), (NULL, 'c')""")
    lab.capture()
    lab.execute("INSERT INTO t VALUES (8, 'd'); DELETE FROM t WHERE note IN ('a', 'c')")
    lab.capture_and_compare("t")


@pytest.mark.each_value
@ROW_MODES
@pytest.mark.parametrize("copied", [True, False], ids=["copied", "streamed"])
@pytest.mark.parametrize("quarantine", [True, False], ids=["quarantine", "error"])
def test_a_column_rowid_that_is_not_unique(lab: Lab, mode: Mode, copied: bool, quarantine: bool) -> None:
    lab = kept(lab, mode, copied=copied, quarantine=quarantine)
    lab.execute("CREATE TABLE t (rowid int, note text, n numeric(5, 1))")
    rows = "INSERT INTO t SELECT i / 10, 'n' || i, i FROM generate_series(0, 29) i"
    if copied:
        lab.execute(rows)
    lab.capture()
    if not copied:
        lab.execute(rows)
        lab.capture_and_compare("t")
    if quarantine:
        lab.execute("INSERT INTO t VALUES (1, 'bad', 'NaN')")
        lab.capture()
        lab.execute("DELETE FROM t WHERE note = 'bad'")
    lab.execute("DELETE FROM t WHERE note = 'n3'; UPDATE t SET n = 0 WHERE note = 'n12'")
    lab.capture_and_compare("t")


@pytest.mark.each_value
@pytest.mark.parametrize("name", ["found", "Found"])
@pytest.mark.parametrize("copied", [True, False], ids=["copied", "streamed"])
def test_a_column_found_in_a_table_that_keeps_what_is_deleted(lab: Lab, name: str, copied: bool) -> None:
    lab = kept(lab, Mode.SOFT_DELETE, copied=copied)
    lab.execute(f'CREATE TABLE t (id int, "{name}" int, v text)')
    rows = "INSERT INTO t SELECT i % 3, 0, 'x' FROM generate_series(1, 24) i"
    if copied:
        lab.execute(rows)
    lab.capture()
    if not copied:
        lab.execute(rows)
        lab.capture()
    lab.execute("DELETE FROM t WHERE ctid IN (SELECT ctid FROM t WHERE id = 1 LIMIT 1)")
    lab.capture_and_compare("t")


# -- every name that our SQL has


@dataclass(frozen=True, slots=True)
class Shape:
    """A table with columns of all names in one mode.

    The first columns have parts of their own: two of the key, two texts out of line, a document, a number that can be
    bad, a float and an interval that are equal to others and not alike, one that is dropped and one that is renamed.
    """

    schema: str
    mode: Mode
    keyed: bool
    number: int
    names: Sequence[str]
    types: Sequence[str]

    @property
    def name(self) -> str:
        return f"The {self.mode} {'keyed' if self.keyed else 'bag'} {self.number}"

    @property
    def table(self) -> str:
        return TableRef(self.schema, self.name).sql

    @property
    def columns(self) -> list[str]:
        return [quote_identifier(name) for name in self.names]

    def values(self, i: str, key: str) -> str:
        parts = [key, f"'k' || {i} % 2", f"{toast(1)} || {i}", f"{toast(2)} || {i}", """'{"c0": 1, "id": 2}'""", "1.5"]
        parts += ["0::float8", "'1 month'"]
        return ", ".join(parts + [f"{i} % 2" if type == "int" else f"'x' || {i} % 2" for type in self.types[8:]])

    def create(self) -> str:
        columns = [f"{name} {type}" for name, type in zip(self.columns, self.types, strict=True)]
        if self.keyed:
            columns.append(f"PRIMARY KEY ({self.columns[0]}, {self.columns[1]})")
        identity = "" if self.keyed else f"; ALTER TABLE {self.table} REPLICA IDENTITY FULL"
        return f"CREATE TABLE {self.table} ({', '.join(columns)}){identity}"

    def fill(self) -> str:
        if self.keyed:
            return f"INSERT INTO {self.table} SELECT {self.values('i', 'i')} FROM generate_series(1, 8) i"
        nulls = ", ".join(["NULL"] * len(self.names))
        rows = f"SELECT {self.values('(i / 3)', '(i / 3) % 2')} FROM generate_series(0, 14) i"
        return f"INSERT INTO {self.table} {rows}; INSERT INTO {self.table} VALUES ({nulls}), ({nulls})"

    def change(self, round: int) -> Iterator[str]:
        """Transactions; in a round of its own each."""
        a, b, big, essay, _, _, number, interval, *_, last = self.columns
        set_last = f"{last} = '{7 + round}'"
        if self.keyed:
            at = 10 * round
            yield f"UPDATE {self.table} SET {set_last} WHERE {a} = 1"
            yield f"UPDATE {self.table} SET {a} = 100 + {at} WHERE {a} = 2 + {at}"
            yield f"UPDATE {self.table} SET {b} = 'moved', {set_last} WHERE {a} = 3"
            yield f"UPDATE {self.table} SET {big} = 'short', {essay} = 'short', {set_last} WHERE {a} = 4"
            yield f"UPDATE {self.table} SET {big} = 'short' WHERE {a} = 7"
            yield f"UPDATE {self.table} SET {number} = -{number}, {interval} = '30 days' WHERE {a} IN (5, 6)"
            yield f"DELETE FROM {self.table} WHERE {a} = 8 + {at}"
            rows = f"generate_series({at + 11}, {at + 18}) i"
            yield f"INSERT INTO {self.table} SELECT {self.values('i', 'i')} FROM {rows}"
            return
        for condition in (f"{a} = 0", f"{a} = 1", f"{a} IS NULL"):
            one = f"ctid IN (SELECT ctid FROM {self.table} WHERE {condition} ORDER BY ctid LIMIT 1)"
            yield f"DELETE FROM {self.table} WHERE {one}"
            yield f"UPDATE {self.table} SET {set_last} WHERE {one}"
        yield f"UPDATE {self.table} SET {number} = -{number}, {interval} = '30 days' WHERE {a} = 2"
        yield self.fill()

    def spoil(self) -> Iterator[str]:
        a, b, bad = self.columns[0], self.columns[1], self.columns[5]
        yield f"INSERT INTO {self.table} ({a}, {b}, {bad}) VALUES (900, 'bad', 'NaN')"
        at = f"{a} = 1" if self.keyed else f"ctid = (SELECT min(ctid) FROM {self.table} WHERE {a} = 1)"
        yield f"UPDATE {self.table} SET {bad} = 'NaN' WHERE {at}"

    def mend(self) -> str:
        return f"DELETE FROM {self.table} WHERE {self.columns[5]} = 'NaN'"

    def empty(self) -> str:
        return f"TRUNCATE {self.table}; {self.fill()}"

    def reshape(self, name: str) -> str:
        drop, old = self.columns[8:10]
        added = f"ADD COLUMN {drop} int DEFAULT 5"
        alter = f"ALTER TABLE {self.table}"
        return f"{alter} RENAME {old} TO {quote_identifier(name)}; {alter} DROP COLUMN {drop}; {alter} {added}"

    def assert_equal(self, lab: Lab) -> None:
        if self.mode is Mode.CHANGELOG:
            with folded(lab.path, self.table) as (connection, copy):
                assert_equal(lab.database, connection, self.table, as_table=copy)
            return
        live, ignored = ("true", ()) if self.mode is Mode.MIRROR else ("NOT _dbmazz_deleted", MARKS)
        assert_equal(lab.database, lab.path, self.table, where=live, ignore=ignored)


def go_through_everything(lab: Lab, schema: str, names: Sequence[Sequence[str]], *, quarantine: bool) -> None:
    """Copy tables, or begin with empty ones where rows go to quarantine; change them in all ways, in all modes."""
    lab.execute(f"CREATE SCHEMA {schema}")
    lab = replace(lab, tables=f"{schema}.*", path=lab.path.with_name(f"{schema} file.duckdb")).configured(
        slot=f"{lab.slot}_{schema}", source={"publication": schema}
    )
    parts = ["int", "text", "text", "text", "json", "numeric(5, 1)", "float8", "interval", "int", "int"]
    types = [parts + ["int" if n % 3 else "text" for n in range(len(some) - len(parts) - 1)] for some in names]
    shapes = [
        Shape(schema, mode, keyed, n, some[:-1], types[n])
        for n, some in enumerate(names)
        for mode in Mode
        for keyed in (True, False)
    ]
    modes = ByTable(Mode.MIRROR, tuple((TablePattern(schema, shape.name), shape.mode) for shape in shapes))
    policy = ByTable(BadValuePolicy.QUARANTINE if quarantine else BadValuePolicy.ERROR)
    lab = lab.configured(
        tables=TableConfig(mode=modes, on_bad_value=policy), snapshot=SnapshotConfig(enabled=not quarantine)
    )

    def capture(*transactions: str) -> None:
        lab.transactions(*transactions)
        lab.capture()
        for shape in shapes if schema != "ordinary" else ():
            shape.assert_equal(lab)

    lab.transactions(*(shape.create() for shape in shapes))
    if quarantine:
        lab.capture()
    capture(*(shape.fill() for shape in shapes))
    changes = [change for shape in shapes for change in shape.change(0)]
    if not quarantine:
        capture(*changes)
    else:
        # Not of changelogs, which tell of the deletion of a row that they never had.
        spoiled = [shape for shape in shapes if shape.mode is not Mode.CHANGELOG]
        lab.transactions(*changes, *(change for shape in spoiled for change in shape.spoil()))
        assert sum(table.quarantined for table in lab.capture().tables.values()) == 2 * len(spoiled)
        capture(*(shape.mend() for shape in spoiled), *(change for shape in shapes for change in shape.change(1)))
    capture(*(shape.empty() for shape in shapes), *(change for shape in shapes for change in shape.change(0)))
    spare = [some[-1] for some in names]
    lab.transactions(*(shape.reshape(spare[shape.number]) for shape in shapes))
    shapes = [
        replace(
            shape,
            names=[*shape.names[:8], spare[shape.number], *shape.names[10:], shape.names[8]],
            types=[*shape.types[:8], *shape.types[9:], "int"],
        )
        for shape in shapes
    ]
    capture(*(change for shape in shapes for change in shape.change(1)))
    lab.pipeline.snapshot([TableRef(schema, shape.name) for shape in shapes])
    capture(*(change for shape in shapes for change in shape.change(2)))

    strict = TableConfig(mode=modes, on_bad_value=ByTable(BadValuePolicy.ERROR))
    fail(lab.configured(tables=strict), shapes)


def fail(lab: Lab, shapes: Sequence[Shape]) -> None:
    """The statements that tell which row is missing, and which value cannot be held."""
    keyed, bag = (next(s for s in shapes if s.mode is Mode.MIRROR and s.keyed is keyed) for keyed in (True, False))
    with duckdb.connect(str(lab.path)) as destination:
        destination.execute(f"DELETE FROM {keyed.table}; DELETE FROM {bag.table}")
    for shape in (keyed, bag):
        lab.execute(f"DELETE FROM {shape.table} WHERE {shape.columns[0]} = 1")
        with pytest.raises(DestinationConflict) as missing:
            lab.capture()
        assert f"the row with {shape.names[0]} = 1, {shape.names[1]} = k" in str(missing.value)
        lab.pipeline.snapshot([TableRef(shape.schema, shape.name)])
    lab.execute(f"INSERT INTO {keyed.table} SELECT {keyed.values('i', 'i')} FROM generate_series(901, 901) i")
    lab.execute(f"UPDATE {keyed.table} SET {keyed.columns[5]} = 'NaN' WHERE {keyed.columns[0]} = 901")
    with pytest.raises(BadValue, match="cannot be held") as bad:
        lab.capture()
    assert bad.value.object == str(ColumnRef(TableRef(keyed.schema, keyed.name), keyed.names[5]))


ORDINARY = ["id", "part", "photo", "essay", "doc", "price", "rate", "age", "gone", "was", "n", "v", "w", "is"]


#: By whether rows went to quarantine: what was said to DuckDB about tables with ordinary names.
LOGS: dict[bool, list[str]] = {}


def ordinary(lab: Lab, *, quarantine: bool) -> list[str]:
    if quarantine not in LOGS:
        with recorded() as statements:
            go_through_everything(lab, "ordinary", [ORDINARY], quarantine=quarantine)
        LOGS[quarantine] = statements
    return LOGS[quarantine]


def usable(names: Iterable[str]) -> list[str]:
    """Those that a column may have, each once to DuckDB: not our own, not PostgreSQL's system columns."""
    taken = {"ctid", "xmin", "cmin", "xmax", "cmax", "tableoid"}
    once = {fold(name): name for name in names}
    return [name for folded, name in sorted(once.items()) if not folded.startswith("_dbmazz") and folded not in taken]


@pytest.mark.parametrize(
    "quarantine",
    # All statements of the other case are among those of this one, as `fail` is part of both.
    [pytest.param(False, marks=pytest.mark.slow), True],
    ids=["copied", "streamed with quarantine"],
)
def test_columns_called_like_anything_in_our_sql(lab: Lab, quarantine: bool) -> None:
    statements = ordinary(lab, quarantine=quarantine)
    # Names in what is said about a user's table; with all others see below.
    names = usable(identifiers(about_tables(statements)))
    if quarantine:
        # In the other case, and other ones of them in the parts that few columns have.
        names = [name.swapcase() for name in reversed(names)]
    with recorded() as again:
        go_through_everything(lab, "odd", [names], quarantine=quarantine)
    assert_no_bare_names([*statements, *again])


@pytest.mark.slow
def test_columns_called_like_anything_in_our_sql_in_all_parts(lab: Lab) -> None:
    names = usable(identifiers(ordinary(lab, quarantine=True)))
    turned = [[*names[at:], *names[:at]] for at in range(0, len(names), 10)]
    go_through_everything(lab, "odd", turned, quarantine=True)


@pytest.mark.slow
@pytest.mark.parametrize("quarantine", [False, True], ids=["copied", "streamed with quarantine"])
def test_columns_called_like_anything_in_duckdb(lab: Lab, quarantine: bool) -> None:
    names = usable(names_of_duckdb())
    go_through_everything(lab, "odd", [names[at::4] for at in range(4)], quarantine=quarantine)


@pytest.mark.parametrize(
    ("mode", "every"),
    [
        (Mode.MIRROR, False),
        pytest.param(Mode.MIRROR, True, marks=pytest.mark.slow),
        pytest.param(Mode.SOFT_DELETE, True, marks=pytest.mark.slow),
    ],
)
def test_tables_and_schemas_called_like_anything_in_our_sql(lab: Lab, mode: Mode, every: bool) -> None:
    """Our own names, in the schema where DuckDB looks for a name without one; and all others."""
    found = identifiers(ordinary(lab, quarantine=True))
    # And those by way of which tables and columns are renamed.
    found |= {"_dbmazz_renamed_0", "_dbmazz_renamed_1"}
    refs = [TableRef("main", name) for name in sorted(found) if re.fullmatch("_dbmazz_(?!old_).*", name)]
    if every:
        refs += [TableRef(name, name) for name in usable(found) if name not in ("information_schema", "destination")]
    refs.append(TableRef("main", "old"))
    with lab.database.connect() as connection:
        for schema in {ref.schema for ref in refs}:
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {quote_identifier(schema)}".encode())
        for ref in refs:
            connection.execute(
                f"CREATE TABLE {ref.sql} (id int PRIMARY KEY, n numeric(5, 1), big text);"
                f"INSERT INTO {ref.sql} SELECT i, i, {toast(1)} FROM generate_series(1, 4) i".encode()
            )
        named = ",".join(str(ref) for ref in refs if ref.schema != "main")
        lab = replace(kept(lab, mode, quarantine=True), tables=f"{named},main.*".lstrip(","))
        lab.capture()
        for ref in refs:
            connection.execute(
                f"UPDATE {ref.sql} SET n = 9 WHERE id = 1; UPDATE {ref.sql} SET id = 20, n = 2 WHERE id = 2;"
                f"DELETE FROM {ref.sql} WHERE id = 3; INSERT INTO {ref.sql} VALUES (5, 'NaN', ''), (6, 6, '')".encode()
            )
        assert sum(table.quarantined for table in lab.capture().tables.values()) == len(refs)
        connection.execute(b"ALTER TABLE main.old RENAME TO new")
        refs = [*refs[:-1], TableRef("main", "new")]
        for ref in refs:
            connection.execute(f"DELETE FROM {ref.sql} WHERE id = 5".encode())
    lab.capture()
    for ref in refs:
        if ref.schema not in ("temp", "system"):  # which the oracle's own SQL could not tell from DuckDB's
            lab.assert_equal(ref.sql)


#: Keywords that DuckDB lets be names, and that our statements have as keywords.
KEYWORDS = frozenset((
    "add", "alter", "anti", "by", "column", "commit", "delete", "distinct", "drop", "except", "exists", "if", "insert",
    "join", "left", "limit", "matched", "materialized", "merge", "over", "partition", "rename", "replace", "schema",
    "semi", "set", "temp", "type", "update", "values",
))  # fmt: skip
PLACE, QUALIFIER = re.compile(r"[cko]\d+"), re.compile(r"\b(_dbmazz_\w+\.|AS)$")


def about_tables(statements: Iterable[str]) -> list[str]:
    """Those about the users' tables, and frames."""
    frames = [s for s in statements if "_dbmazz_frame" in s and "_dbmazz.quarantine" not in s]
    return frames + [s for s in statements if '"ordinary"' in s or '"odd"' in s]


def assert_no_bare_names(statements: Iterable[str]) -> None:
    """In statements about the users' tables nothing that is not quoted could be the name of a column."""
    with duckdb.connect() as connection:
        reserved = connection.execute(
            "SELECT keyword_name FROM duckdb_keywords() WHERE keyword_category IN ('reserved', 'type_function')"
        )
        keywords = {str(name) for (name,) in reserved.fetchall()} | KEYWORDS
        types = {str(n).lower() for (n,) in connection.execute("SELECT type_name FROM duckdb_types()").fetchall()}
    about = about_tables(statements)
    assert len(about) > 100
    for statement in about:
        for word in words(statement):
            text = word.text.lower()
            allowed = (
                text.startswith("_dbmazz_")
                or text in keywords | types
                or word.after.startswith("(")
                or (PLACE.fullmatch(text) and QUALIFIER.search(word.before))
                or (text == "rowid" and word.before.endswith("_dbmazz_t."))
                or (text in ("system", "main", "temp") and word.after.startswith("."))
            )
            assert allowed, f"{word.text} in {statement}"

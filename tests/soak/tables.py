"""Tables for the generator: their shapes, and SQL expressions for values of each type.

A value is a function of one integer. So a statement is short however many rows it writes, a key can be met again by
its number, and equal numbers make equal rows where there is no key.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

#: Made once in every database.
TYPES = (
    "CREATE TYPE mood AS ENUM ('gut', 'so la la', 'schlecht'); CREATE DOMAIN price AS numeric(12,2);"
    "CREATE DOMAIN long_key AS text"
)

_BIG = "repeat(md5(({n})::text), 100)"

#: Type as `format_type` writes it: expression of the integer {n}, and one for a value stored out of line.
_VALUES: dict[str, tuple[str, str | None]] = {
    "smallint": ("(({n}) % 32768)::smallint", None),
    "integer": ("({n})::int", None),
    "bigint": ("({n})::bigint * 1000000007", None),
    "boolean": ("({n}) % 2 = 0", None),
    "real": ("(({n}) / 7.0)::real", None),
    "double precision": ("CASE WHEN ({n}) % 7 = 0 THEN 'NaN' ELSE ({n}) / 7.0 END::float8", None),
    "numeric": ("({n})::numeric / 8", None),
    "numeric(12,2)": ("(({n}) / 8.0)::numeric(12,2)", None),
    "price": ("(({n}) / 8.0)::price", None),
    "text": ("'v' || ({n})", _BIG),
    "character varying": ("'v' || ({n})", _BIG),
    "character varying(60)": ("'ä' || ({n})", None),
    "character(8)": ("('c' || ({n}) % 1000)::char(8)", None),
    "long_key": ("repeat(chr(97 + ({n})::int % 26), 2500)", None),
    "bytea": ("decode(md5(({n})::text), 'hex')", "decode(" + _BIG + " || " + _BIG + ", 'hex')"),
    "json": ("('{{\"n\":  ' || ({n}) || '}}')::json", "json_build_object('n', " + _BIG + ")"),
    "jsonb": ("jsonb_build_object('n', ({n}), 'a', null)", "jsonb_build_object('n', " + _BIG + ")"),
    "uuid": ("md5(({n})::text)::uuid", None),
    "date": ("date '1999-12-31' + ({n})::int", None),
    "timestamp without time zone": ("timestamp '0001-01-05 BC' + interval '1 day' * ({n})", None),
    "timestamp with time zone": ("timestamptz '2024-02-29 23:59:59.5+00' + interval '1 hour' * ({n})", None),
    "time without time zone": ("time '00:00' + interval '1.5 s' * ({n})", None),
    "interval": ("interval '1 day 1.5 s' * ({n})", None),
    "inet": ("('10.0.0.' || ({n}) % 256)::inet", None),
    "integer[]": ("ARRAY[({n})::int, NULL, 1]", "array_fill(({n})::int, ARRAY[900])"),
    "text[]": ("ARRAY['a,\"b\"', NULL, ({n})::text]", "ARRAY[" + _BIG + "]"),
    "mood": ("(enum_range(NULL::mood))[1 + ({n})::int % 3]", None),
}
_KEY_TYPES = ["integer", "text", "uuid", "numeric", "bigint", "bytea", "date", "timestamp with time zone", "long_key"]
_COLUMN_TYPES = sorted(set(_VALUES) - {"long_key"})
_BIG_TYPES = [type for type, (_, big) in _VALUES.items() if big is not None]

#: The first is what a failure is reduced to.
_KINDS = ["key", "full key", "composite", "index", "bag", "full bag", "range", "list"]
#: Names of columns, in turn; one without quotes, the others with.
_NAMES = ["v", '"select"', '"ä Ö"', '"_dbmazz"', '"1st"', '"a""b"']


@dataclass(frozen=True, slots=True)
class TableSpec:
    """A table to create.

    Attributes:
        kind: `key`: with a primary key; `composite`: of two columns, in another order than the table's; `index`: with
            REPLICA IDENTITY USING INDEX; `bag`: without a key; `range` and `list`: partitioned; `full`: with REPLICA
            IDENTITY FULL.
        key: Type of its key.
        columns: Types of the others.
    """

    kind: str
    key: str
    columns: tuple[str, ...]


def value(type: str, number: str, *, nullable: bool = False, in_key: bool = False) -> str:
    """SQL for a value of a type made of an integer expression."""
    small, big = _VALUES[type]
    expression = small.format(n=number)
    if in_key:
        return expression
    if big is not None:
        expression = f"CASE WHEN ({number}) % 2 = 0 THEN {big.format(n=number)} ELSE {expression} END"
    return f"CASE WHEN ({number}) % 7 <> 0 THEN {expression} END" if nullable else expression


def is_known(type: str) -> bool:
    """Whether `value` can make one."""
    return type in _VALUES


def specs() -> st.SearchStrategy[TableSpec]:
    """Any table."""
    types = st.sampled_from(_COLUMN_TYPES) | st.sampled_from(_BIG_TYPES)
    columns = st.lists(types, min_size=1, max_size=5).map(tuple)
    return st.builds(TableSpec, st.sampled_from(_KINDS), st.sampled_from(_KEY_TYPES), columns)


def specs_of(a: int, n: int) -> TableSpec:
    """The same table for the same numbers, for one that is created later."""
    columns = tuple(_COLUMN_TYPES[(n + 7 * i) % len(_COLUMN_TYPES)] for i in range(1 + n % 4))
    return TableSpec(_KINDS[a % len(_KINDS)], _KEY_TYPES[n % len(_KEY_TYPES)], columns)


def create(spec: TableSpec, name: str) -> str:
    """The statements that create it. Big values stay out of line instead of being compressed."""
    columns = [f"{_NAMES[i]} {kind}" for i, kind in enumerate(spec.columns)]
    first, rest = columns[:1], columns[1:]
    match spec.kind:
        case "key" | "full key":
            columns = [f"k {spec.key} PRIMARY KEY", *columns]
        case "composite":
            columns = [*first, f"b {spec.key}", *rest, "a integer", "PRIMARY KEY (a, b)"]
        case "index":
            columns = ["id integer PRIMARY KEY", *first, f"code {spec.key} NOT NULL UNIQUE", *rest]
        case "bag" | "full bag":
            columns = ["k integer", *columns]
        case "range":
            columns = ["k integer PRIMARY KEY", *columns]
        case "list":
            columns = ["a integer", *columns, f"b {spec.key}", "PRIMARY KEY (b, a)"]
    partitions = {
        "range": [("PARTITION OF {} FOR VALUES FROM (MINVALUE) TO (4)", ""), ("PARTITION OF {} DEFAULT", "")],
        "list": [
            ("PARTITION OF {} FOR VALUES IN (0, 1)", ""),
            ("PARTITION OF {} DEFAULT", " PARTITION BY RANGE (a)"),
        ],
    }.get(spec.kind, [])
    by = {"range": " PARTITION BY RANGE (k)", "list": " PARTITION BY LIST (a)"}.get(spec.kind, "")
    statements = [f"CREATE TABLE {name} ({', '.join(columns)}){by}"]
    external = ("text", "character varying", "bytea", "json", "jsonb", "text[]", "integer[]")
    for i, kind in enumerate(spec.columns):
        if kind in external:
            statements.append(f"ALTER TABLE {name} ALTER {_NAMES[i]} SET STORAGE EXTERNAL")
    if spec.key == "long_key" and spec.kind not in ("bag", "full bag", "range"):
        key = {"key": "k", "full key": "k", "index": "code"}.get(spec.kind, "b")
        statements.append(f"ALTER TABLE {name} ALTER {key} SET STORAGE EXTERNAL")
    for i, (part, sub) in enumerate(partitions):
        statements.append(f"CREATE TABLE {name}_p{i} {part.format(name)}{sub}")
    if spec.kind == "list":
        statements.append(f"CREATE TABLE {name}_p1_x PARTITION OF {name}_p1 FOR VALUES FROM (2) TO (6)")
        statements.append(f"CREATE TABLE {name}_p1_y PARTITION OF {name}_p1 DEFAULT")
    if spec.kind.startswith("full"):
        statements.append(f"ALTER TABLE {name} REPLICA IDENTITY FULL")
    if spec.kind == "index":
        statements.append(f"ALTER TABLE {name} REPLICA IDENTITY USING INDEX {name}_code_key")
    return ";\n".join(statements)

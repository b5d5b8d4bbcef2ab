"""The types that every server has, by family, with the OIDs that PostgreSQL assigns to them permanently.

Source: PostgreSQL's `pg_type.dat`. A type that is neither here nor resolved by the catalog arrives as its text.
"""

from __future__ import annotations

from dataclasses import dataclass

from dbmazz_core.model.datatypes import Kind

NUMERIC_OID = 1700


@dataclass(frozen=True, slots=True)
class BuiltinType:
    """A type that every server has.

    Attributes:
        name: Name in SQL.
        oid: `pg_type.oid`.
        array_oid: OID of its array type.
        kind: Kind of the core type; for numeric, without precision.
        note: Limits of the representation, for docs/types.md.
        delimiter: `typdelim`: the character between elements of its arrays.
    """

    name: str
    oid: int
    array_oid: int
    kind: Kind
    note: str = ""
    delimiter: str = ","


_FAR_FUTURE = (
    "times from 294247-01-10 04:00:54.775807 on (PostgreSQL's end in 294276) are beyond DuckDB's range: bad value"
)

FAMILIES: dict[str, tuple[BuiltinType, ...]] = {
    "boolean": (BuiltinType("boolean", 16, 1000, Kind.BOOLEAN),),
    "numbers": (
        BuiltinType("smallint", 21, 1005, Kind.INT16),
        BuiltinType("integer", 23, 1007, Kind.INT32),
        BuiltinType("bigint", 20, 1016, Kind.INT64),
        BuiltinType("real", 700, 1021, Kind.FLOAT32, "NaN, infinities and -0 are kept"),
        BuiltinType("double precision", 701, 1022, Kind.FLOAT64, "NaN, infinities and -0 are kept"),
        BuiltinType("numeric", NUMERIC_OID, 1231, Kind.STRING),
        BuiltinType("money", 790, 791, Kind.STRING, "its text is that of the database's `lc_monetary`"),
    ),
    "text": (
        BuiltinType("text", 25, 1009, Kind.STRING),
        BuiltinType("character varying", 1043, 1015, Kind.STRING),
        BuiltinType("character", 1042, 1014, Kind.STRING, "padded with blanks to its length"),
        BuiltinType("name", 19, 1003, Kind.STRING),
        BuiltinType('"char"', 18, 1002, Kind.STRING),
    ),
    "bytes": (BuiltinType("bytea", 17, 1001, Kind.BYTES),),
    "dates and times": (
        BuiltinType("date", 1082, 1182, Kind.DATE, "BC, `infinity` and years of seven digits are kept"),
        BuiltinType("time without time zone", 1083, 1183, Kind.TIME, "`24:00:00` is kept"),
        BuiltinType("time with time zone", 1266, 1270, Kind.TIMETZ, "its offset is kept"),
        BuiltinType(
            "timestamp without time zone", 1114, 1115, Kind.TIMESTAMP, f"BC and `infinity` are kept; {_FAR_FUTURE}"
        ),
        BuiltinType(
            "timestamp with time zone", 1184, 1185, Kind.TIMESTAMPTZ, f"BC and `infinity` are kept; {_FAR_FUTURE}"
        ),
        BuiltinType(
            "interval",
            1186,
            1187,
            Kind.INTERVAL,
            "months, days and microseconds are kept apart; DuckDB has no `infinity` (PostgreSQL 17): bad value",
        ),
    ),
    "documents": (
        BuiltinType("json", 114, 199, Kind.JSON, "white space and the order of keys are kept"),
        BuiltinType("jsonb", 3802, 3807, Kind.JSONB),
        BuiltinType("xml", 142, 143, Kind.STRING),
        BuiltinType("jsonpath", 4072, 4073, Kind.STRING),
    ),
    "identifiers": (
        BuiltinType("uuid", 2950, 2951, Kind.UUID),
        BuiltinType("oid", 26, 1028, Kind.UINT32),
        BuiltinType("xid", 28, 1011, Kind.UINT32),
        BuiltinType("cid", 29, 1012, Kind.UINT32),
        BuiltinType("xid8", 5069, 271, Kind.STRING),
        BuiltinType("tid", 27, 1010, Kind.STRING),
        BuiltinType("pg_lsn", 3220, 3221, Kind.STRING),
        BuiltinType("regclass", 2205, 2210, Kind.STRING, "the name that the OID had when the row was sent"),
        BuiltinType("regtype", 2206, 2211, Kind.STRING, "as regclass"),
        BuiltinType("regproc", 24, 1008, Kind.STRING, "as regclass"),
    ),
    "networks": (
        BuiltinType("inet", 869, 1041, Kind.STRING),
        BuiltinType("cidr", 650, 651, Kind.STRING),
        BuiltinType("macaddr", 829, 1040, Kind.STRING),
        BuiltinType("macaddr8", 774, 775, Kind.STRING),
    ),
    "bits": (
        BuiltinType("bit", 1560, 1561, Kind.STRING),
        BuiltinType("bit varying", 1562, 1563, Kind.STRING),
    ),
    "geometry": (
        BuiltinType("point", 600, 1017, Kind.STRING),
        BuiltinType("line", 628, 629, Kind.STRING),
        BuiltinType("lseg", 601, 1018, Kind.STRING),
        BuiltinType("box", 603, 1020, Kind.STRING, delimiter=";"),
        BuiltinType("path", 602, 1019, Kind.STRING),
        BuiltinType("polygon", 604, 1027, Kind.STRING),
        BuiltinType("circle", 718, 719, Kind.STRING),
    ),
    "full text search": (
        BuiltinType("tsvector", 3614, 3643, Kind.STRING),
        BuiltinType("tsquery", 3615, 3645, Kind.STRING),
    ),
    "ranges": (
        BuiltinType("int4range", 3904, 3905, Kind.STRING),
        BuiltinType("int8range", 3926, 3927, Kind.STRING),
        BuiltinType("numrange", 3906, 3907, Kind.STRING),
        BuiltinType("tsrange", 3908, 3909, Kind.STRING),
        BuiltinType("tstzrange", 3910, 3911, Kind.STRING),
        BuiltinType("daterange", 3912, 3913, Kind.STRING),
        BuiltinType("int4multirange", 4451, 6150, Kind.STRING),
        BuiltinType("int8multirange", 4536, 6157, Kind.STRING),
        BuiltinType("nummultirange", 4532, 6151, Kind.STRING),
        BuiltinType("tsmultirange", 4533, 6152, Kind.STRING),
        BuiltinType("tstzmultirange", 4534, 6153, Kind.STRING),
        BuiltinType("datemultirange", 4535, 6155, Kind.STRING),
    ),
}

BY_OID = {entry.oid: entry for family in FAMILIES.values() for entry in family}
BY_ARRAY_OID = {entry.array_oid: entry for entry in BY_OID.values()}

"""The enums and composites that the values of columns contain, with their parts: labels or attributes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import takewhile

from dbmazz_core.connectors.sources.postgres.connection import Connection


@dataclass(frozen=True, slots=True)
class ContainedType:
    """An enum or composite that the values of a column contain.

    Attributes:
        parts, versions: See `TableIdentity.types` and `TableIdentity.type_versions`.
        unchanged: How many of the parts, from the first on, are proven to be as they were when the type was created.
        is_enum: Whether the type is an enum.
        direct: Whether the column's type is this type, a domain over it, or an array of either.
        in_array: Whether the type is within an array.
    """

    parts: tuple[str, ...]
    versions: tuple[str, ...]
    unchanged: int
    is_enum: bool
    direct: bool
    in_array: bool


#: The query's types: those of columns, and the types within them (elements of arrays, base types of domains, bounds of
#: ranges, attributes of composites). OIDs below 16384 are PostgreSQL's own types (transam.h, FirstNormalObjectId).
_CONTAINED = """
    WITH RECURSIVE contained AS (
        SELECT a.attrelid, a.attname, a.atttypid AS oid, true AS direct, false AS in_array
        FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = ANY (%s) AND a.attnum > 0 AND NOT a.attisdropped AND a.atttypid >= 16384
        UNION
        SELECT outside.attrelid, outside.attname, inside.oid,
               outside.direct AND inside.direct, outside.in_array OR inside.in_array
        FROM contained outside JOIN pg_catalog.pg_type t ON t.oid = outside.oid
        CROSS JOIN LATERAL (
            SELECT t.typelem, true, true UNION SELECT t.typbasetype, true, false
            UNION SELECT r.rngsubtype, false, false FROM pg_catalog.pg_range r
            WHERE t.oid IN (r.rngtypid, r.rngmultitypid)
            UNION SELECT a.atttypid, false, false FROM pg_catalog.pg_attribute a
            WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped) AS inside (oid, direct, in_array)
        WHERE inside.oid >= 16384
    )"""

#: Three arrays, one element a part: the part's text, its row versions, and whether it is unchanged since CREATE TYPE.
#: CREATE TYPE writes the rows of the type and of its parts in one command (typecmds.c, DefineEnum; heap.c,
#: heap_create_with_catalog), so a part whose row has another xmin or cmin was added or changed later. A transaction
#: that was rolled back leaves its xmax in the row and overwrites cmin: the row then proves nothing.
_PARTS = """
    CASE t.typtype WHEN 'e' THEN ARRAY(
        SELECT e.enumlabel::text FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid ORDER BY e.oid)
    ELSE ARRAY(
        SELECT string_agg(concat(a.attnum, ' ', a.atttypid, ' ', a.atttypmod), ', ' ORDER BY a.attnum)
        FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped) END,
    CASE t.typtype WHEN 'e' THEN ARRAY(
        SELECT e.xmin::text FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid ORDER BY e.oid)
    ELSE ARRAY(
        SELECT string_agg(a.xmin::text, ' ' ORDER BY a.attnum) FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = t.typrelid AND a.attnum > 0) END,
    CASE t.typtype WHEN 'e' THEN ARRAY(
        SELECT e.xmax = 0 AND e.xmin = t.xmin AND e.cmin = t.cmin AND t.xmax = 0
        FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid ORDER BY e.oid)
    ELSE ARRAY(
        SELECT bool_and(a.xmax = 0 AND a.xmin = t.xmin AND a.cmin = t.cmin AND t.xmax = 0)
        FROM pg_catalog.pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0) END"""


def read_contained_types(
    connection: Connection, oids: Collection[int]
) -> dict[int, dict[str, dict[int, ContainedType]]]:
    """Return enums and composites by OID of the table, name of the column and OID of the type.

    Types within arrays, domains, ranges and composites are included. PostgreSQL stores a label as an OID and an
    attribute as a position: ALTER TYPE ... RENAME VALUE and ADD ATTRIBUTE change the text of all rows at once, and the
    stream does not report it. A new label changes no row.
    """
    found: dict[int, dict[str, dict[int, ContainedType]]] = {}
    for table, column, oid, is_enum, direct, in_array, parts, versions, unchanged in connection.execute(
        f"""
        {_CONTAINED}
        SELECT attrelid::bigint, attname::text, t.oid::bigint, t.typtype = 'e', bool_and(direct), bool_or(in_array),
               {_PARTS}
        FROM contained JOIN pg_catalog.pg_type t ON t.oid = contained.oid WHERE t.typtype IN ('e', 'c')
        GROUP BY attrelid, attname, t.oid, t.xmin, t.cmin, t.xmax
        """.encode(),
        (list(oids),),
    ):
        found.setdefault(table, {}).setdefault(column, {})[oid] = ContainedType(
            parts=tuple(part or "" for part in parts),
            versions=tuple(part or "" for part in versions),
            unchanged=len(list(takewhile(bool, unchanged))),
            is_enum=is_enum,
            direct=direct,
            in_array=in_array,
        )
    return found

"""From a column's type OID to its core type: built-in types by their OIDs, all others by the catalog.

Neither a Relation message nor a column's `atttypid` tells the base type of a domain, the element type of an array, or
the OID of an extension's type in this database. `pg_type` does; it is read once for each OID.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

from dbmazz_core.connectors.sources.postgres.connection import Connection
from dbmazz_core.connectors.sources.postgres.types.builtin import BY_ARRAY_OID, BY_OID, NUMERIC_OID, BuiltinType
from dbmazz_core.connectors.sources.postgres.types.numeric import UnboundedNumeric, numeric_type, precision_and_scale
from dbmazz_core.model.datatypes import DataType, Kind
from dbmazz_core.model.schema import ColumnDef
from dbmazz_core.table_ref import TableRef

TEXT = DataType(Kind.STRING)


@dataclass(frozen=True, slots=True)
class ColumnOfType:
    """A column as the catalog or a Relation message describes it.

    Attributes:
        name: `attname`.
        type_oid: `atttypid`.
        type_modifier: `atttypmod`.
        is_key: Whether the column is part of the table's key.
    """

    name: str
    type_oid: int
    type_modifier: int
    is_key: bool = False


@dataclass(frozen=True, slots=True)
class TypePolicy:
    """The user's choices of types.

    Attributes:
        unbounded_numeric: The representation of a numeric that no DECIMAL holds: its exact text, or the nearest double.
            In a key it is text in any case, because two keys may have the same nearest double.
        as_text: Whether a column, by table and name, is kept as PostgreSQL's text whatever its type is.
    """

    unbounded_numeric: UnboundedNumeric = "text"
    as_text: Callable[[TableRef, str], bool] = lambda _table, _column: False

    def numeric(self, column: ColumnOfType) -> UnboundedNumeric:
        """Return `unbounded_numeric` for a column."""
        return "text" if column.is_key else self.unbounded_numeric


@dataclass(frozen=True, slots=True)
class BaseType:
    """The type that decides the binary form of values.

    Attributes:
        oid: OID of the type; of the base type, for a domain.
        is_enum: Whether it is an enum.
        sends_text: Whether its binary form is its text (citext).
        element: The type of the elements, for an array.
    """

    oid: int
    is_enum: bool = False
    sends_text: bool = False
    element: BaseType | None = None


class TypeResolver(Protocol):
    """Finds the core types of a relation's columns."""

    def columns(self, table: TableRef, relation_oid: int, columns: Sequence[ColumnOfType]) -> tuple[ColumnDef, ...]:
        """Return the columns with their core types, in the same order.

        Args:
            table: Name of the relation.
            relation_oid: Its `pg_class.oid`, to look up with how many dimensions its arrays are declared.
            columns: The columns as the stream or the catalog describes them.
        """

    def base(self, type_oid: int) -> BaseType:
        """Return the type that decides the binary form of a column of a relation that `columns` was called with."""


class BuiltinTypes:
    """Resolves types by OID alone, without a server: built-in types and their arrays of one dimension, others as text.

    >>> [column] = BuiltinTypes().columns(TableRef("public", "t"), 0, [ColumnOfType("a", 1007, -1)])
    >>> str(column.type), column.source_type
    ('List{Int32}', 'integer[]')
    """

    def __init__(self, policy: TypePolicy | None = None) -> None:
        self._policy = policy or TypePolicy()

    def columns(self, table: TableRef, relation_oid: int, columns: Sequence[ColumnOfType]) -> tuple[ColumnDef, ...]:
        """See `TypeResolver.columns`."""
        return tuple(
            ColumnDef(
                c.name,
                TEXT if self._policy.as_text(table, c.name) else self._core_type(c),
                builtin_name(c.type_oid, c.type_modifier),
            )
            for c in columns
        )

    def base(self, type_oid: int) -> BaseType:
        """See `TypeResolver.base`."""
        return _builtin_base(type_oid)

    def _core_type(self, column: ColumnOfType) -> DataType:
        """Return the core type of a column."""
        unbounded = self._policy.numeric(column)
        if array := BY_ARRAY_OID.get(column.type_oid):
            element = builtin_type(array.oid, column.type_modifier, unbounded) or TEXT
            return DataType.list_of(element, delimiter=array.delimiter)
        return builtin_type(column.type_oid, column.type_modifier, unbounded) or TEXT


def _builtin_base(type_oid: int) -> BaseType:
    array = BY_ARRAY_OID.get(type_oid)
    return BaseType(type_oid, element=None if array is None else BaseType(array.oid))


def builtin_type(type_oid: int, type_modifier: int, unbounded: UnboundedNumeric = "text") -> DataType | None:
    """Return the core type of a built-in type that is no array, or None for other types."""
    if type_oid == NUMERIC_OID:
        return numeric_type(type_modifier, unbounded)
    entry = BY_OID.get(type_oid)
    return DataType(entry.kind) if entry else None


def builtin_name(type_oid: int, type_modifier: int) -> str:
    """Return the SQL name of a type as far as the OID alone tells; `type with OID n` for others."""
    entry: BuiltinType | None = BY_OID.get(type_oid)
    if entry is None:
        array = BY_ARRAY_OID.get(type_oid)
        return f"{builtin_name(array.oid, type_modifier)}[]" if array else f"type with OID {type_oid}"
    if type_oid == NUMERIC_OID and type_modifier >= 0:
        precision, scale = precision_and_scale(type_modifier)
        return f"numeric({precision},{scale})"
    return entry.name


@dataclass(frozen=True, slots=True)
class _Type:
    """A row of `pg_type`.

    Attributes:
        base: OID of the type that a domain is over; 0: no domain.
        base_modifier: Type modifier of a domain's base type.
        dimensions: Declared dimensions of a domain over an array.
        element: OID of an array's element type; 0: no array.
        delimiter: Character between elements of arrays of this type.
        is_hstore: Whether the type is the extension's hstore.
        is_enum: Whether the type is an enum.
        sends_text: Whether its send and output functions are those of text.
    """

    base: int
    base_modifier: int
    dimensions: int
    element: int
    delimiter: str
    is_hstore: bool
    is_enum: bool
    sends_text: bool


class CatalogTypes:
    """Resolves types with the catalog of a database, over an ordinary connection.

    A type that no longer exists becomes text: a Relation message describes a table as of the past.

    Args:
        connection: Returns the connection when it is needed.
        policy: The user's choices of types.
        failures: Context manager around the queries, which turns psycopg's errors into others.
    """

    def __init__(
        self,
        connection: Callable[[], Connection],
        policy: TypePolicy | None = None,
        *,
        failures: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._connection = connection
        self._failures = failures
        self._policy = policy or TypePolicy()
        self._types: dict[int, _Type | None] = {}

    def columns(self, table: TableRef, relation_oid: int, columns: Sequence[ColumnOfType]) -> tuple[ColumnDef, ...]:
        """See `TypeResolver.columns`."""
        return self.columns_of([(table, relation_oid, columns)])[0]

    def columns_of(
        self, relations: Sequence[tuple[TableRef, int, Sequence[ColumnOfType]]]
    ) -> list[tuple[ColumnDef, ...]]:
        """Return the columns of several relations like `columns`, with as many queries as for one.

        Args:
            relations: Name, OID and columns of each relation.
        """
        with self._failures():
            oids = {column.type_oid for _, _, columns in relations for column in columns}
            self._fetch_types(oids - BY_OID.keys() - self._types.keys())
            described = iter(self._fetch_names([(oid, column) for _, oid, columns in relations for column in columns]))
        return [
            tuple(self._column(table, column, *next(described)) for column in columns)
            for table, _, columns in relations
        ]

    def fetch(self, oids: Collection[int]) -> None:
        """Read types, for `base`. Built-in types need no query."""
        with self._failures():
            self._fetch_types({*oids} - BY_OID.keys() - self._types.keys())

    def base(self, type_oid: int) -> BaseType:
        """See `TypeResolver.base`."""
        found = self._types.get(type_oid)
        if found is None:
            return _builtin_base(type_oid)
        if found.base:
            return self.base(found.base)
        element = self.base(found.element) if found.element else None
        return BaseType(type_oid, found.is_enum, found.sends_text, element)

    def _column(self, table: TableRef, column: ColumnOfType, source_type: str, dimensions: int) -> ColumnDef:
        """Return a column with its core type; `_fetch_names` returns the last two arguments."""
        if self._policy.as_text(table, column.name):
            return ColumnDef(column.name, TEXT, source_type)
        unbounded = self._policy.numeric(column)
        return ColumnDef(
            column.name, self._core_type(column.type_oid, column.type_modifier, dimensions, unbounded), source_type
        )

    def _fetch_names(self, columns: Sequence[tuple[int, ColumnOfType]]) -> list[tuple[str, int]]:
        """Return the SQL names of the types of columns, and their declared dimensions (0: no array).

        Args:
            columns: OID of the relation, and the column.
        """
        if not columns:
            return []
        rows = self._connection().execute(
            """
            SELECT pg_catalog.format_type(c.oid, c.modifier), coalesce(a.attndims, 0)
            FROM unnest(%s::oid[], %s::text[], %s::oid[], %s::int4[])
                WITH ORDINALITY AS c (relation, name, oid, modifier, place)
            LEFT JOIN pg_catalog.pg_attribute a
                ON a.attrelid = c.relation AND a.attname = c.name AND a.attnum > 0 AND NOT a.attisdropped
            ORDER BY c.place
            """,
            (
                [relation for relation, _ in columns],
                [c.name for _, c in columns],
                [c.type_oid for _, c in columns],
                [c.type_modifier for _, c in columns],
            ),
        )
        return [
            (f"type with OID {column.type_oid}" if name == "???" else name, dimensions)
            for (_, column), (name, dimensions) in zip(columns, rows, strict=True)
        ]

    def _fetch_types(self, oids: Iterable[int]) -> None:
        """Read the rows of `pg_type` for some OIDs, their base types and element types, and so on."""
        wanted = sorted(oids)
        if not wanted:
            return
        rows = self._connection().execute(
            """
            WITH RECURSIVE wanted (oid) AS (
                SELECT unnest(%s::oid[])
                UNION
                SELECT other FROM wanted
                JOIN pg_catalog.pg_type t USING (oid)
                CROSS JOIN LATERAL (VALUES (t.typelem), (t.typbasetype)) AS others (other)
                WHERE other <> 0
            )
            SELECT t.oid, t.typbasetype, t.typtypmod, t.typndims, coalesce(e.oid, 0), t.typdelim,
                   t.typname = 'hstore' AND EXISTS (
                       SELECT FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_extension x ON x.oid = d.refobjid
                       WHERE d.classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND d.objid = t.oid
                         AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.deptype = 'e'
                         AND x.extname = 'hstore'),
                   t.typtype = 'e',
                   EXISTS (SELECT FROM pg_catalog.pg_proc p WHERE p.oid = t.typsend AND p.prosrc = 'textsend')
                       AND EXISTS (SELECT FROM pg_catalog.pg_proc p WHERE p.oid = t.typoutput AND p.prosrc = 'textout')
            FROM wanted JOIN pg_catalog.pg_type t USING (oid)
            -- A true array: point, int2vector and others have elements too, but a text form of their own.
            LEFT JOIN pg_catalog.pg_type e ON e.oid = t.typelem AND e.typarray = t.oid
            """,
            [wanted],
        )
        self._types |= dict.fromkeys(wanted)
        self._types |= {oid: _Type(*facts) for oid, *facts in rows}

    def _core_type(self, oid: int, modifier: int, dimensions: int, unbounded: UnboundedNumeric) -> DataType:
        """Return the core type of a type that was read by `_fetch_types`."""
        builtin = builtin_type(oid, modifier, unbounded)
        if builtin is not None:
            return builtin
        found = self._types.get(oid)
        if found is None:
            return TEXT
        if found.base:
            # attndims of a column is 0 for a domain; the domain itself has the dimensions.
            return self._core_type(found.base, found.base_modifier, found.dimensions, unbounded)
        if found.element:
            element = self._core_type(found.element, modifier, 0, unbounded)
            # Elements that are arrays themselves, by a domain over an array, are text within the array's text.
            inner = TEXT if element.element is not None else element
            return DataType.list_of(inner, depth=max(dimensions, 1), delimiter=found.delimiter)
        return DataType(Kind.MAP) if found.is_hstore else TEXT

"""The columns of a copy: how each is selected, and how its fields are read.

A column whose binary form is exactly the destination's value is selected as it is (`types.binary`). Every other one is
selected as the text that its output function returns, which is the text that the stream sends. So snapshot and stream
deliver the same values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import psycopg
from psycopg import sql

from dbmazz_core.connectors.sources.postgres.types.binary import Decoder, decoder_of, read_texts
from dbmazz_core.model.masks import Masker
from dbmazz_core.model.schema import ColumnDef, TableSchema

#: Types whose output function returns the stored text: text, character, character varying.
_TEXT_TYPES = frozenset((25, 1042, 1043))


@dataclass(frozen=True, slots=True)
class ColumnOutput:
    """What the catalog says of a column's type.

    Attributes:
        name: The column.
        function: Schema and name of the output function of its type.
        can_call: Whether a query can call that function.
        type_oid: OID of the type.
        base_oid: OID of the base type, for a domain; else that of the type.
        base: Schema and name of the base type, for a domain; else None.
        is_enum: Whether the type, or the base type, is an enum.
    """

    name: str
    function: tuple[str, str]
    can_call: bool
    type_oid: int
    base_oid: int
    base: tuple[str, str] | None
    is_enum: bool


@dataclass(frozen=True, slots=True)
class CopiedColumn:
    """A column of a copy.

    Attributes:
        definition: The captured column.
        expression: SQL for its value.
        decode: Reads its fields.
        masker: Its mask; None: it has none.
    """

    definition: ColumnDef
    expression: sql.Composable
    decode: Decoder
    masker: Masker | None


def column_outputs(
    connection: psycopg.Connection[tuple[object, ...]], tables: Iterable[int]
) -> dict[int, list[ColumnOutput]]:
    """Return the columns of tables, by OID of the table, with the output functions of their types.

    A query cannot call a function that is declared for another type (refcursor has that of text), or that the role may
    not execute, or whose schema, or that of a domain's base type, the role may not use.
    """
    found: dict[int, list[ColumnOutput]] = {oid: [] for oid in tables}
    rows = connection.execute(
        "SELECT a.attrelid::bigint, a.attname, n.nspname, p.proname, "
        "(p.proargtypes[0] = coalesce(base.oid, t.oid) OR argument.typtype = 'p') "
        "AND has_function_privilege(p.oid, 'EXECUTE') AND has_schema_privilege(n.oid, 'USAGE') "
        "AND coalesce(has_schema_privilege(base.typnamespace, 'USAGE'), true), "
        "a.atttypid::bigint, coalesce(base.oid, t.oid)::bigint, base.nspname, base.typname, "
        "coalesce(base.typtype, t.typtype) = 'e' "
        "FROM pg_catalog.pg_attribute a "
        "JOIN pg_catalog.pg_type t ON t.oid = a.atttypid "
        "JOIN pg_catalog.pg_proc p ON p.oid = t.typoutput "
        "JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace "
        "JOIN pg_catalog.pg_type argument ON argument.oid = p.proargtypes[0] "
        "LEFT JOIN LATERAL (WITH RECURSIVE over AS ("
        "SELECT t.typbasetype AS oid UNION ALL SELECT within.typbasetype FROM over "
        "JOIN pg_catalog.pg_type within ON within.oid = over.oid WHERE within.typtype = 'd') "
        "SELECT bn.nspname, b.typname, b.oid, b.typnamespace, b.typtype FROM over "
        "JOIN pg_catalog.pg_type b ON b.oid = over.oid AND b.typtype <> 'd' "
        "JOIN pg_catalog.pg_namespace bn ON bn.oid = b.typnamespace) AS base ON t.typtype = 'd' "
        "WHERE a.attrelid = ANY (%s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped",
        [list(found)],
    )
    for table, name, schema, function, can_call, oid, base_oid, base_schema, base_name, is_enum in rows:
        found[int(str(table))].append(
            ColumnOutput(
                str(name),
                (str(schema), str(function)),
                bool(can_call),
                int(str(oid)),
                int(str(base_oid)),
                None if base_name is None else (str(base_schema), str(base_name)),
                bool(is_enum),
            )
        )
    return found


def copied_columns(
    outputs: Iterable[ColumnOutput], schema: TableSchema, maskers: Mapping[str, Masker], *, typed: bool
) -> list[CopiedColumn]:
    """Return the captured columns of a table, in their order.

    Args:
        outputs: The table's columns as `column_outputs` returns them.
        schema: The table and its captured columns.
        maskers: Masks by column. Columns that a mask sets to NULL are not read. Hashes are not computed by the server,
            which would log the key.
        typed: Whether dates, times and decimals may arrive in their natural dtype.
    """
    by_name = {output.name: output for output in outputs}
    return [_copied_column(by_name[c.name], c, maskers.get(c.name), typed=typed) for c in schema.columns]


def _copied_column(output: ColumnOutput, column: ColumnDef, masker: Masker | None, *, typed: bool) -> CopiedColumn:
    name = sql.Identifier(column.name)
    if masker is not None:
        if masker.mask.kind == "null":
            return CopiedColumn(column, sql.SQL("NULL::pg_catalog.text"), read_texts, masker)
        is_text = output.type_oid in _TEXT_TYPES
        return CopiedColumn(column, name if is_text else _text_of(output, name), read_texts, masker)
    decoder = decoder_of(output.base_oid, column.type, is_enum=output.is_enum, typed=typed)
    if decoder is not None:
        return CopiedColumn(column, name, decoder, None)
    return CopiedColumn(column, _text_of(output, name), read_texts, None)


def _text_of(output: ColumnOutput, name: sql.Identifier) -> sql.Composable:
    """Return SQL for the text that a column's output function returns.

    A cast to text would differ: it trims `char(n)`, adds a netmask to `inet`, and writes `xml` in another form. Values
    of a domain are cast to the base type, because polymorphic output functions do not accept every domain (enum_out
    none).
    """
    if output.can_call:
        value = name if output.base is None else sql.SQL("{}::{}").format(name, sql.Identifier(*output.base))
        return sql.SQL("pg_catalog.textin({}({}))").format(sql.Identifier(*output.function), value)
    # `format` calls the output function whatever its declared argument is, and checks no privileges; it looks the
    # function up for each value, and returns an empty text for NULL. IS NULL differs for composites.
    return sql.SQL("CASE WHEN {0} IS DISTINCT FROM NULL THEN pg_catalog.format('%s', {0}) END").format(name)


def select_query(columns: Iterable[CopiedColumn], schema: TableSchema, *, only: bool) -> sql.Composed:
    """Return the SELECT of a copy.

    Args:
        columns: Its columns.
        schema: The table.
        only: Whether inheritance children are left out, as in the publication.
    """
    return sql.SQL("SELECT {} FROM {}{}").format(
        sql.SQL(", ").join(column.expression for column in columns),
        sql.SQL("ONLY " if only else ""),
        sql.Identifier(schema.table.schema, schema.table.name),
    )
